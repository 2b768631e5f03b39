// usage: topics.js NAME: topic, headers and exchange-to-exchange bindings, alternate exchange, and what is returned.
'use strict';

const assert = require('node:assert');
const amqp = require('amqplib');

const name = process.argv[2];

(async () => {
  const connection = await amqp.connect('amqp://localhost');
  const channel = await connection.createConfirmChannel();
  const spare = `${name}-spare`;
  await channel.assertExchange(spare, 'fanout', { autoDelete: false });
  await channel.assertExchange(name, 'topic', { alternateExchange: spare });
  const bound = async (source, ...keys) => {
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (const key of keys) await channel.bindQueue(queue, source, key);
    return queue;
  };
  const queues = {
    all: await bound(name, 'a.#'),
    one: await bound(name, 'a.*'),
    both: await bound(name, 'a.b', '*.b'),
    spare: await bound(spare, ''),
  };
  const inner = `${name}-inner`;
  await channel.assertExchange(inner, 'direct', { internal: true });
  await channel.bindExchange(inner, name, 'a.b.#');
  queues.inner = await bound(inner, 'a.b.c');

  const returned = [];
  channel.on('return', (message) => returned.push(message.fields.routingKey));
  for (const key of ['a', 'a.b', 'a.b.c', 'x.b', 'x.y']) {
    channel.publish(name, key, Buffer.from(key), { mandatory: true });
  }
  await channel.waitForConfirms();
  const contents = async (queue) => {
    const got = [];
    for (let message = await channel.get(queue, { noAck: true }); message;
      message = await channel.get(queue, { noAck: true })) got.push(message.content.toString());
    return got;
  };
  assert.deepStrictEqual(await contents(queues.all), ['a', 'a.b', 'a.b.c']);
  assert.deepStrictEqual(await contents(queues.one), ['a.b']);
  assert.deepStrictEqual(await contents(queues.both), ['a.b', 'x.b']);
  assert.deepStrictEqual(await contents(queues.inner), ['a.b.c']);
  assert.deepStrictEqual(await contents(queues.spare), ['x.y']);
  assert.deepStrictEqual(returned, []);

  await channel.unbindQueue(queues.spare, spare, '');
  channel.publish(name, 'x.y', Buffer.from('gone'), { mandatory: true });
  await channel.waitForConfirms();
  assert.deepStrictEqual(returned, ['x.y']);
  for (const exchange of [name, inner, spare]) await channel.deleteExchange(exchange);
  await connection.close();
})();
