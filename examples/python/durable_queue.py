#!/usr/bin/env python3
"""A durable queue with pika, unchanged from RabbitMQ: publish with confirms, consume with manual acknowledgements.

    ./bootstrap.sh run            # in another terminal
    python3 examples/python/durable_queue.py [amqp://guest:guest@127.0.0.1:5672/]

Needs pika (Debian: python3-pika).
"""
import sys

import pika


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "amqp://guest:guest@127.0.0.1:5672/"
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare("orders", durable=True)

    channel.confirm_delivery()
    for number in range(10):
        # Returns when the node has the message on disk.
        channel.basic_publish("", "orders", f"order {number}".encode(),
                              pika.BasicProperties(delivery_mode=pika.spec.PERSISTENT_DELIVERY_MODE), mandatory=True)
    print("10 orders are safe")

    channel.basic_qos(prefetch_count=5)
    for method, _, body in channel.consume("orders", inactivity_timeout=1):
        if method is None:
            break
        print("handled", body.decode())
        channel.basic_ack(method.delivery_tag)
    channel.cancel()
    connection.close()


if __name__ == "__main__":
    main()
