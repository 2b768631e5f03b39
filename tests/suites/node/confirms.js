// usage: confirms.js QUEUE N: each of N persistent messages is confirmed once, and the queue then has all of them.
'use strict';

const assert = require('node:assert');
const amqp = require('amqplib');

const [queue, count] = [process.argv[2], Number(process.argv[3])];

(async () => {
  const connection = await amqp.connect('amqp://localhost');
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(queue, { durable: true });
  let confirmed = 0;
  for (let n = 0; n < count; n++) {
    const more = channel.sendToQueue(queue, Buffer.from(String(n)), { persistent: true }, (error) => {
      assert.ifError(error);
      confirmed++;
    });
    if (!more) await new Promise((resolve) => channel.once('drain', resolve));
  }
  await channel.waitForConfirms();
  assert.strictEqual(confirmed, count);
  assert.strictEqual((await channel.checkQueue(queue)).messageCount, count);

  // What no queue takes is returned, and confirmed all the same.
  const returned = new Promise((resolve) => channel.once('return', resolve));
  await new Promise((resolve, reject) =>
    channel.publish('', `${queue}-nobody`, Buffer.from('lost'), { mandatory: true }, (error) =>
      error ? reject(error) : resolve()));
  assert.strictEqual((await returned).fields.replyText, 'NO_ROUTE');

  // A queue that refuses what is too much answers with a nack.
  const full = `${queue}-full`;
  await channel.assertQueue(full, { arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } });
  const outcomes = [];
  for (let n = 0; n < 3; n++) {
    channel.sendToQueue(full, Buffer.from('x'), {}, (error) => outcomes.push(error ? 'nack' : 'ack'));
    await channel.waitForConfirms().catch(() => {});
  }
  assert.deepStrictEqual(outcomes, ['ack', 'nack', 'nack']);

  assert.strictEqual((await channel.purgeQueue(queue)).messageCount, count);
  await channel.deleteQueue(queue);
  await channel.deleteQueue(full);
  await connection.close();
})();
