// usage: reconnect.js QUEUE N: sends N messages and receives them all, over connections that recover by themselves.
//
// What was not confirmed when a connection broke is sent again, so a message may come twice; none may be missing.
'use strict';

const amqp = require('amqplib');

const [queue, count] = [process.argv[2], Number(process.argv[3])];
const recovery = { initialDelay: 20, maxDelay: 200 };
const unconfirmed = new Set(Array.from({ length: count }, (_, n) => n));
const received = new Set();

async function main() {
  let finish;
  const finished = new Promise((resolve) => { finish = resolve; });

  const consuming = await amqp.connect('amqp://localhost', {
    recovery: {
      ...recovery,
      async setup(model) {
        const channel = await model.createChannel();
        channel.on('error', () => {});
        await channel.assertQueue(queue, { durable: true });
        await channel.prefetch(10);
        await channel.consume(queue, (message) => {
          if (message === null) return;
          received.add(Number(message.content));
          try {
            channel.ack(message);
          } catch { /* it comes again, on the next connection */ }
          if (received.size % 10 === 0) console.log(`received ${received.size}`);
          if (received.size === count) finish();
        });
      },
    },
  });
  consuming.on('error', () => {});

  const publishing = await amqp.connect('amqp://localhost', { recovery });
  publishing.on('error', () => {});
  while (unconfirmed.size > 0) {
    try {
      const channel = await publishing.createConfirmChannel();
      channel.on('error', () => {});
      await channel.assertQueue(queue, { durable: true });
      for (const n of [...unconfirmed]) {
        await new Promise((resolve, reject) =>
          channel.sendToQueue(queue, Buffer.from(String(n)), { persistent: true }, (error) => {
            if (error) return reject(error);
            unconfirmed.delete(n);
            resolve();
          }));
      }
    } catch (error) {
      console.log(`again: ${error.message}`);
    }
  }
  await finished;
  await consuming.close();
  await publishing.close();
  const connection = await amqp.connect('amqp://localhost');
  await (await connection.createChannel()).deleteQueue(queue);
  await connection.close();
}

main();
