"""Clients that we did not write, unchanged: amqp-tools and pika."""
import functools
import os
import pathlib
import subprocess
import sys

import pika

from harness import equal, require


def tool(node, name, *arguments, stdin=None, by="url"):
    where = ["--url", f"amqp://guest:guest@127.0.0.1:{node.port}/%2f"] if by == "url" else [
        "--server", "127.0.0.1", "--port", str(node.port)]
    done = subprocess.run([name, *where, *arguments], input=stdin, capture_output=True, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


def ran(answer):
    code, out, err = answer
    require(code == 0, f"exit {code}: {err.decode(errors='replace')}")
    return out


def test_amqp_tools_publish_get(t):
    node, queue = t.shared_node(), t.unique("tools")
    ran(tool(node, "amqp-declare-queue", "-d", "-q", queue))
    ran(tool(node, "amqp-publish", "-p", "-r", queue, "-b", "first", "-C", "text/plain", "-H", "a: b"))
    ran(tool(node, "amqp-publish", "-r", queue, "-b", "second", by="server"))
    equal(ran(tool(node, "amqp-get", "-q", queue)), b"first")
    equal(ran(tool(node, "amqp-get", "-q", queue, by="server")), b"second")
    code, out, _ = tool(node, "amqp-get", "-q", queue)
    equal((code, out), (2, b""), "an empty queue")
    ran(tool(node, "amqp-delete-queue", "-q", queue))


def test_amqp_tools_lines_and_consume(t):
    node, queue = t.shared_node(), t.unique("tools")
    ran(tool(node, "amqp-declare-queue", "-d", "-q", queue))
    lines = [f"line {n}\n".encode() for n in range(50)]
    ran(tool(node, "amqp-publish", "-p", "-l", "-r", queue, stdin=b"".join(lines)))
    equal(ran(tool(node, "amqp-consume", "-q", queue, "-c", "30", "-p", "5", "cat")), b"".join(lines[:30]))
    equal(ran(tool(node, "amqp-consume", "-q", queue, "-c", "20", "-A", "cat")), b"".join(lines[30:]))
    ran(tool(node, "amqp-delete-queue", "-q", queue))


def test_amqp_consume_on_an_exchange(t):
    """amqp-consume declares its own queue and binds it; publishing goes on until it has what it wants."""
    node = t.shared_node()
    where = ["--server", "127.0.0.1", "--port", str(node.port)]
    with subprocess.Popen(["amqp-consume", *where, "-e", "amq.topic", "-r", f"{t.name}.#", "-x", "-c", "1", "cat"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as consumer:
        with node.connect() as connection:
            channel = connection.channel()
            channel.call("confirm.select")
            while True:
                channel.publish("amq.topic", f"{t.name}.x.y", "hello", mandatory=True)
                answer = channel.wait("basic.return", "basic.ack")
                if answer.name == "basic.ack":
                    break
                channel.wait("basic.ack")
        out, err = consumer.communicate(timeout=20)
        equal((consumer.returncode, out), (0, b"hello"), err.decode(errors="replace"))


def open_pika(node, **arguments):
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", node.port, **arguments))


def test_pika_durable_confirmed_acknowledged(t):
    node, queue = t.shared_node(), t.unique("pika")
    with open_pika(node) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        channel.confirm_delivery()
        for n in range(200):
            channel.basic_publish("", queue, f"message {n}".encode(),
                                  pika.BasicProperties(delivery_mode=2, message_id=str(n), headers={"n": n}))
        channel.basic_qos(prefetch_count=20)
        got = []
        for method, properties, body in channel.consume(queue, inactivity_timeout=10):
            require(method is not None, f"only {len(got)} of 200 messages came")
            equal((body, properties.delivery_mode, properties.headers), (b"message %d" % len(got), 2, {"n": len(got)}))
            got.append(body)
            channel.basic_ack(method.delivery_tag)
            if len(got) == 200:
                break
        equal(channel.cancel(), 0, "messages that cancel() found waiting")
        equal(channel.queue_declare(queue, passive=True).method.message_count, 0)
        channel.queue_delete(queue)


def test_the_example_in_python(t):
    program = pathlib.Path(__file__).parents[2] / "examples" / "python" / "durable_queue.py"
    done = subprocess.run([sys.executable, program, f"amqp://guest:guest@127.0.0.1:{t.shared_node().port}/"],
                          capture_output=True, text=True, timeout=30, check=False)
    equal((done.returncode, done.stdout.splitlines()),
          (0, ["10 orders are safe", *(f"handled order {n}" for n in range(10))]), done.stderr)


def test_pika_unroutable_and_nack(t):
    node, queue = t.shared_node(), t.unique("pika")
    with open_pika(node) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            channel.basic_publish("", t.unique("nowhere"), b"x", mandatory=True)
            raise AssertionError("an unroutable mandatory message was not returned")
        except pika.exceptions.UnroutableError as error:
            equal(error.messages[0].method.reply_code, 312)
        channel.queue_declare(queue, exclusive=True)
        channel.basic_publish("", queue, b"again")
        method, _, _ = channel.basic_get(queue)
        require(not method.redelivered, "a first delivery is not redelivered")
        channel.basic_nack(method.delivery_tag, requeue=True)
        method, _, _ = channel.basic_get(queue)
        require(method.redelivered, "the second delivery says so")
        channel.basic_reject(method.delivery_tag, requeue=False)
        equal(channel.basic_get(queue), (None, None, None))


def test_pika_channel_error_leaves_the_connection(t):
    with open_pika(t.shared_node()) as connection:
        channel = connection.channel()
        try:
            channel.queue_declare(t.unique("none"), passive=True)
            raise AssertionError("a passive declare of nothing succeeded")
        except pika.exceptions.ChannelClosedByBroker as error:
            equal(error.reply_code, 404)
        connection.channel().queue_declare("", exclusive=True)


def test_pika_callbacks_over_two_channels(t):
    with open_pika(t.shared_node(), heartbeat=5) as connection:
        one, two = connection.channel(), connection.channel()
        queue = one.queue_declare("", exclusive=True).method.queue
        got = []
        two.basic_consume(queue, on_message_callback=functools.partial(
            lambda sink, channel, method, _, body: (sink.append(body), channel.basic_ack(method.delivery_tag)), got))
        for n in range(100):
            one.basic_publish("", queue, b"%d" % n)
        while len(got) < 100:
            connection.process_data_events(time_limit=5)
        equal(got, [b"%d" % n for n in range(100)])


def test_a_script_as_users_write_it(t):
    """examples/ are read by people; this is the shortest pika program of the documentation, run as a program."""
    script = os.path.join(t.directory, "hello.py")
    with open(script, "w", encoding="ascii") as out:
        out.write(HELLO.format(port=t.shared_node().port, queue=t.unique("hello")))
    done = subprocess.run(["/usr/bin/python3", script], capture_output=True, text=True, timeout=30, check=False)
    equal((done.returncode, done.stdout), (0, "Hello World!\n"), done.stderr)


HELLO = """
import pika
connection = pika.BlockingConnection(pika.URLParameters("amqp://guest:guest@127.0.0.1:{port}/%2F"))
channel = connection.channel()
channel.queue_declare(queue="{queue}", durable=True)
channel.confirm_delivery()
channel.basic_publish(exchange="", routing_key="{queue}", body="Hello World!",
                      properties=pika.BasicProperties(delivery_mode=2))
def on_message(ch, method, properties, body):
    print(body.decode())
    ch.basic_ack(delivery_tag=method.delivery_tag)
    ch.stop_consuming()
channel.basic_consume(queue="{queue}", on_message_callback=on_message)
channel.start_consuming()
channel.queue_delete("{queue}")
connection.close()
"""
