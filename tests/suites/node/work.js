// usage: work.js QUEUE: prefetch holds workers to their share; what is nacked or left by a closed channel comes again.
'use strict';

const assert = require('node:assert');
const amqp = require('amqplib');

const queue = process.argv[2];
const count = 200;

(async () => {
  const connection = await amqp.connect('amqp://localhost');
  const sender = await connection.createConfirmChannel();
  await sender.assertQueue(queue, { durable: true });
  for (let n = 0; n < count; n++) sender.sendToQueue(queue, Buffer.from(String(n)), { persistent: true });
  await sender.waitForConfirms();

  // One that never acknowledges gets as many as its prefetch allows, and no more.
  const idle = await connection.createChannel();
  await idle.prefetch(7);
  let held = 0;
  const full = new Promise((resolve) => idle.consume(queue, () => {
    if (++held === 7) resolve();
  }));
  await full;
  assert.strictEqual((await sender.checkQueue(queue)).messageCount, count - 7);

  const done = new Map();
  let refused = 0;
  let finish;
  const finished = new Promise((resolve) => { finish = resolve; });
  for (let worker = 0; worker < 3; worker++) {
    const channel = await connection.createChannel();
    await channel.prefetch(5);
    await channel.consume(queue, (message) => {
      if (message === null) return; // the queue is deleted in the end
      const task = Number(message.content);
      if (task % 10 === 0 && !message.fields.redelivered) {
        refused++;
        channel.nack(message);
        return;
      }
      assert.ok(!done.has(task), `task ${task} was done twice`);
      done.set(task, message.fields.redelivered);
      channel.ack(message);
      if (done.size === count) finish();
    });
  }
  await idle.close();
  await finished;
  for (let n = 0; n < 7; n++) assert.strictEqual(done.get(n), true, `task ${n} was not marked as redelivered`);
  assert.ok(refused > 0);
  assert.strictEqual((await sender.checkQueue(queue)).messageCount, 0);
  await sender.deleteQueue(queue);
  await connection.close();
})();
