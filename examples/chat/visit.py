#!/usr/bin/env python3
"""A visitor to the chat: listens in a room with a queue of its own, has something said there, and prints what it heard.

usage: visit.py PORT [ROOM [NAME [TEXT]]]    (needs pika: Debian's python3-pika)
"""
import json
import sys

import pika

port, room, name, text = (sys.argv[1:] + ["5672", "garden", "eve", "Hello from Python"][len(sys.argv) - 1:])[:4]
connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(port)))
channel = connection.channel()
channel.confirm_delivery()


def tell(member, kind, body, **properties):
    """To a durable actor: the routing key is its name, the type says which message the JSON is."""
    channel.basic_publish("", f"member/{member}", json.dumps(body), mandatory=True, properties=pika.BasicProperties(
        content_type="application/json", type=kind, delivery_mode=2, **properties))


def next_of(queue):
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=10):
        if method is None:
            sys.exit("nobody says anything")
        channel.cancel()
        return json.loads(body)


# Listening along is binding a queue. Joining is binding an actor: it goes on hearing when this script has gone.
ear = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(ear, f"room.{room}")
channel.queue_bind(f"member/{name}", f"room.{room}")

tell(name, "Say", {"room": room, "text": text})
heard = next_of(ear)
print(f"heard in the {heard['room']}: {heard['from']}: {heard['text']}")

answers = channel.queue_declare("", exclusive=True).method.queue
for member in ("anna", name):
    tell(member, "AskScreen", {}, reply_to=answers)
    last = next_of(answers)["lines"][-1]
    print(f"the last that {member} sees: [{last['room']}] {last['from']}: {last['text']}")
connection.close()
