// usage: dead_letters.js NAME: a retry by a queue of waiting messages, as programs without a delay plugin do it.
'use strict';

const assert = require('node:assert');
const amqp = require('amqplib');

const name = process.argv[2];

(async () => {
  const connection = await amqp.connect('amqp://localhost');
  const channel = await connection.createConfirmChannel();
  const [work, wait] = [`${name}-work`, `${name}-wait`];
  await channel.assertQueue(work, { durable: true, deadLetterExchange: '', deadLetterRoutingKey: wait });
  await channel.assertQueue(wait, {
    durable: true, deadLetterExchange: '', deadLetterRoutingKey: work, messageTtl: 100,
  });
  channel.sendToQueue(work, Buffer.from('try me'), { headers: { mine: 'kept' } });
  const seen = [];
  await new Promise((resolve) => channel.consume(work, (message) => {
    seen.push(message);
    if (seen.length < 3) {
      channel.nack(message, false, false);
    } else {
      channel.ack(message);
      resolve();
    }
  }));
  const { headers } = seen[2].properties;
  assert.strictEqual(headers.mine, 'kept');
  assert.strictEqual(headers['x-first-death-queue'], work);
  assert.strictEqual(headers['x-first-death-reason'], 'rejected');
  assert.deepStrictEqual(
    headers['x-death'].map(({ queue, reason, count }) => [queue, reason, Number(count)]),
    [[wait, 'expired', 2], [work, 'rejected', 2]]);
  assert.strictEqual(seen[0].properties.headers['x-death'], undefined);

  // A message's own time to live, and a queue that goes when nobody uses it.
  const brief = `${name}-brief`;
  await channel.assertQueue(brief, { arguments: { 'x-expires': 60000 }, deadLetterExchange: '',
    deadLetterRoutingKey: work });
  await channel.cancel(seen[0].fields.consumerTag);
  channel.sendToQueue(brief, Buffer.from('short'), { expiration: '50' });
  let expired = false;
  for (const until = Date.now() + 10000; !expired && Date.now() < until;) expired = await channel.get(work);
  assert.strictEqual(expired.content.toString(), 'short');
  assert.strictEqual(expired.properties.headers['x-death'][0]['original-expiration'], '50');
  assert.strictEqual(expired.properties.expiration, undefined);
  for (const queue of [work, wait, brief]) await channel.deleteQueue(queue);
  await connection.close();
})();
