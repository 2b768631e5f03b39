#!/usr/bin/env python3
"""Sends readings of some devices to the telemetry program, and asks each device for its summary.

usage: send_readings.py [PORT]    (needs pika: Debian's python3-pika)
"""
import json
import sys
import uuid

import pika

port = int(sys.argv[1]) if len(sys.argv) > 1 else 5672
connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
channel = connection.channel()
channel.confirm_delivery()


def tell(device, kind, body, **properties):
    """To a durable actor: the routing key is its name, the type says which message the JSON is."""
    channel.basic_publish("", f"device/{device}", json.dumps(body), mandatory=True, properties=pika.BasicProperties(
        content_type="application/json", type=kind, delivery_mode=2, **properties))


def ask(device):
    question = str(uuid.uuid4())
    tell(device, "AskSummary", {}, reply_to=answers, correlation_id=question)
    for method, properties, body in channel.consume(answers, inactivity_timeout=10):
        if method is None:
            sys.exit(f"device {device} did not answer")
        channel.basic_ack(method.delivery_tag)
        if properties.correlation_id == question:
            channel.cancel()
            return json.loads(body)


answers = channel.queue_declare("", exclusive=True).method.queue
for n in range(30):
    tell(f"serial-{n % 3}", "Reading", {"celsius": 20.0 + n})
for n in range(3):
    summary = ask(f"serial-{n}")
    print(f"serial-{n}: {summary['count']} readings, mean {summary['mean']:.1f}, highest {summary['highest']:.1f}")
connection.close()
