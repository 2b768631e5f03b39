// usage: rpc.js QUEUE [direct]: a server and several clients, which are answered at queues of their own or directly.
'use strict';

const assert = require('node:assert');
const amqp = require('amqplib');

const queue = process.argv[2];
const direct = process.argv[3] === 'direct';
const clients = 4;
const calls = 100;

async function client() {
  const connection = await amqp.connect('amqp://localhost');
  const channel = await connection.createChannel();
  const replies = direct ? 'amq.rabbitmq.reply-to' : (await channel.assertQueue('', { exclusive: true })).queue;
  const waiting = new Map();
  await channel.consume(replies, (message) => {
    const { correlationId } = message.properties;
    assert.ok(waiting.has(correlationId), 'an answer that nobody waits for');
    waiting.get(correlationId)(Number(message.content));
    waiting.delete(correlationId);
  }, { noAck: true });
  const answers = [];
  for (let n = 0; n < calls; n++) {
    answers.push(new Promise((resolve) => waiting.set(String(n), resolve)));
    channel.sendToQueue(queue, Buffer.from(String(n)), { correlationId: String(n), replyTo: replies });
  }
  assert.deepStrictEqual(await Promise.all(answers), Array.from({ length: calls }, (_, n) => n * n));
  await connection.close();
}

(async () => {
  const connection = await amqp.connect('amqp://localhost');
  const channel = await connection.createChannel();
  await channel.assertQueue(queue, { durable: false });
  await channel.prefetch(10);
  await channel.consume(queue, (message) => {
    if (message === null) return; // the queue is deleted in the end
    const { replyTo, correlationId } = message.properties;
    channel.sendToQueue(replyTo, Buffer.from(String(Number(message.content) ** 2)), { correlationId });
    channel.ack(message);
  });
  await Promise.all(Array.from({ length: clients }, client));
  await channel.deleteQueue(queue);
  await connection.close();
})();
