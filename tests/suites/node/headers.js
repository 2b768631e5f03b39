// usage: headers.js QUEUE: properties, and header values of every type that the client knows, come back as they went.
'use strict';

const assert = require('node:assert');
const amqp = require('amqplib');

const queue = process.argv[2];

(async () => {
  const connection = await amqp.connect('amqp://localhost');
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(queue, { exclusive: true });
  const headers = {
    text: 'Grüße, 世界', empty: '', yes: true, no: false, nothing: null,
    byte: 7, short: -300, int: 70000, long: 5_000_000_000, negative: -5_000_000_000, fraction: 0.1, huge: 1e300,
    float: { '!': 'float', value: 0.5 }, time: { '!': 'timestamp', value: 1_700_000_000 },
    decimal: { '!': 'decimal', value: { digits: 12345, places: 2 } },
    bytes: Buffer.from([0, 1, 255]), list: [1, 'two', [3, { four: 4 }]], table: { a: { b: { c: 'deep' } } },
  };
  const properties = {
    contentType: 'application/json', contentEncoding: 'utf-8', deliveryMode: 2, priority: 3, correlationId: 'c-1',
    replyTo: 'somewhere', expiration: '600000', messageId: 'm-1', timestamp: 1_700_000_001, type: 'order',
    userId: 'guest', appId: 'suites',
  };
  channel.sendToQueue(queue, Buffer.alloc(300_000, 'x'), { ...properties, headers });
  await channel.waitForConfirms();
  const message = await channel.get(queue);
  assert.strictEqual(message.content.length, 300_000);
  for (const [key, value] of Object.entries(properties)) assert.strictEqual(message.properties[key], value, key);
  const { float, ...rest } = headers;
  const { float: gotFloat, ...gotRest } = message.properties.headers;
  assert.deepStrictEqual(gotRest, rest);
  assert.strictEqual(gotFloat.value ?? gotFloat, 0.5);
  channel.ack(message);
  await connection.close();
})();
