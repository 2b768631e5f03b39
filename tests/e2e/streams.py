"""Streams: many readers at their own offsets, retention, kill -9 in the midst of it, and bounded memory."""
import json
import threading
import time

from amqp_raw import closed, gone, typed
from harness import equal, poll, require

STREAM = {"x-queue-type": "stream"}


def declare(channel, name, **more):
    return channel.queue(name, durable=True, arguments={**STREAM, **more}).message_count


def fill(channel, name, first, count, size=0, window=500):
    """Bodies are their numbers, and offsets if nobody else publishes; returns when all are confirmed."""
    for start in range(first, first + count, window):
        for number in range(start, min(start + window, first + count)):
            channel.publish("", name, (b"%d " % number).ljust(size, b"x"), delivery_mode=1 + number % 2)
        channel.confirm()


def confirming(connection):
    channel = connection.channel()
    channel.call("confirm.select")
    return channel


class reader(threading.Thread):
    """Reads on a connection of its own until its connection ends; what it got, in order."""

    def __init__(self, node, name, start, prefetch=100, answers=True):
        super().__init__(daemon=True)
        self.connection = node.connect()
        self.channel = self.connection.channel()
        self.channel.call("basic.qos", prefetch_count=prefetch)
        self.answers, self.got, self.problem = answers, [], None
        self.channel.consume(name, arguments={"x-stream-offset": start} if start is not None else {})
        self.start()

    def run(self):
        try:
            while True:
                message = self.channel.wait("basic.deliver", timeout=600)
                self.got.append((message.properties["headers"]["x-stream-offset"].value, message.body))
                if self.answers and len(self.got) % 20 == 0:
                    self.channel.send("basic.ack", delivery_tag=message.delivery_tag, multiple=True)
                if message.redelivered:
                    self.problem = f"offset {self.got[-1][0]} is redelivered"
        except (gone, OSError, TimeoutError, ValueError):
            pass

    def has(self, count, timeout=30):
        poll(f"{count} messages (it has {len(self.got)})", lambda: len(self.got) >= count, timeout)

    def stop(self):
        try:
            self.connection.sock.shutdown(2)
        except OSError:
            pass  # the node is gone already
        self.join(10)
        self.connection.drop()
        require(self.problem is None, self.problem)
        return self.got


def read_all(node, name, count, start="first"):
    one = reader(node, name, start)
    one.has(count)
    return one.stop()


def numbers_in_order(got, first=0):
    """Every offset once, in order, and at each its own number."""
    for index, (offset, body) in enumerate(got):
        require(offset == first + index, f"offset {offset} stands where {first + index} is expected")
        require(int(body.split()[0]) == offset, f"{body[:20]} at offset {offset}")


def test_readers_at_their_own_places(t):
    node, name = t.shared_node(), t.unique("stream")
    with node.connect() as connection:
        channel = confirming(connection)
        declare(channel, name)
        fill(channel, name, 0, 1000)
        readers = [(reader(node, name, start), first) for start, first in
                   (("first", 0), ("last", 999), ("next", 1000), (None, 1000), (typed("l", 500), 500), ("1h", 0),
                    (typed("T", int(time.time()) + 3600), None), (typed("l", 1500), 1500))]
        fill(channel, name, 1000, 1000)
        for each, first in readers:
            if first is not None:
                each.has(2000 - first)
        equal(channel.count(name), (2000, len(readers)))
        for each, first in readers:
            if first is None:
                # Nothing has come at that time or later, so far.
                require(all(offset >= 1000 for offset, _ in each.got), f"from the future: {each.got[:1]}")
                each.stop()
            else:
                got = each.stop()
                equal(len(got), 2000 - first)
                numbers_in_order(got, first)
        channel.call("queue.delete", queue=name)


def test_filters(t):
    node, name = t.shared_node(), t.unique("stream")
    with node.connect() as connection:
        channel = confirming(connection)
        declare(channel, name)
        for number in range(300):
            headers = {"x-stream-filter-value": "abc"[number % 3]} if number % 10 else {}
            channel.publish("", name, b"%d" % number, headers=headers)
        channel.confirm()
        channel.call("basic.qos", prefetch_count=1000)

        def numbers(count, **arguments):
            tag = channel.consume(name, arguments={"x-stream-offset": "first", **arguments})
            read = [int(each.body) for each in channel.deliveries(count)]
            channel.call("basic.cancel", consumer_tag=tag)
            return read
        wanted = [n for n in range(300) if n % 10 and n % 3 == 1]
        equal(numbers(len(wanted), **{"x-stream-filter": "b"}), wanted)
        wanted = [n for n in range(300) if n % 10 == 0 or n % 3 == 1]
        equal(numbers(len(wanted), **{"x-stream-filter": "b", "x-stream-match-unfiltered": True}), wanted)
        wanted = [n for n in range(300) if n % 10 and n % 3 != 1]
        equal(numbers(len(wanted), **{"x-stream-filter": ["a", "c"]}), wanted)
        channel.call("queue.delete", queue=name)


def test_arguments_of_readers_4(t):
    node, name, other = t.shared_node(), t.unique("stream"), t.unique("queue")
    with node.connect() as connection:
        channel = connection.channel()
        declare(channel, name)
        channel.queue(other)

        def refusal(queue, arguments):
            asking = connection.channel(7)
            asking.call("basic.qos", prefetch_count=1)
            try:
                asking.consume(queue, arguments=arguments)
            except closed as answer:
                return answer.text
            asking.call("channel.close", reply_code=200, reply_text="")
            return "ok"
        text = "PRECONDITION_FAILED - invalid arg '{}' for queue '{}' in vhost '/' of queue type rabbit_{}_queue"
        for argument in ("x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"):
            equal(refusal(other, {argument: "first"})[:252], text.format(argument, other, "classic")[:252])
        equal(refusal(name, {"x-priority": 1})[:252], text.format("x-priority", name, "stream")[:252])
        equal(refusal(name, {"x-stream-offset": -1}), "ok")
        equal(refusal(name, {"x-no-such-thing": 1}), "ok")
        for queue in (name, other):
            channel.call("queue.delete", queue=queue)


def test_kill_9_under_readers(t):
    """Every confirmed message is at its offset after a kill; and what a reader has seen is still what it saw."""
    node, name = t.node(), "stream"
    with node.connect() as connection:
        declare(connection.channel(), name)
    confirmed, at = 0, {}
    for number in range(1, t.rounds(6) + 1):
        readers = [reader(node, name, start, prefetch, answers) for start, prefetch, answers in
                   (("first", 1000, True), ("next", 50, True), (typed("l", confirmed // 2), 200, True), ("first", 5, False))]
        stop, sent = threading.Event(), [confirmed]
        told = [confirmed]

        def publish():
            try:
                with node.connect() as connection:
                    channel = confirming(connection)
                    channel.call("queue.declare", queue=name, passive=True)
                    while not stop.is_set():
                        before = sent[0]
                        for _ in range(100):
                            channel.publish("", name, (b"%d " % sent[0]).ljust(t.random.choice((10, 2000)), b"y"))
                            sent[0] += 1
                        channel.confirm()
                        told[0] = before + 100
            except (gone, OSError, TimeoutError, closed):
                pass
        # What is there already, confirmed or not, comes first.
        base = max(at, default=-1) + 1
        sent[0] = told[0] = base
        publisher = threading.Thread(target=publish, daemon=True)
        publisher.start()
        enough = base + t.random.randint(200, 3000)
        poll("some are confirmed", lambda: told[0] >= enough, 60, 0.001)
        node.kill()
        stop.set()
        publisher.join(20)
        for each in readers:
            for offset, body in each.stop():
                require(at.setdefault(offset, body) == body, f"round {number}: two messages at offset {offset}")
        equal([offset for offset, _ in readers[0].got], list(range(len(readers[0].got))), "the first reader's offsets")
        require(len(readers[3].got) <= 5, "a reader that answers nothing holds its prefetch")
        took = node.start()
        with node.connect() as connection:
            count = connection.channel().count(name)[0]
        require(count >= told[0], f"round {number}: {told[0]} confirmed, {count} there")
        got = read_all(node, name, count)
        numbers_in_order(got)
        for offset, body in got:
            require(at.setdefault(offset, body) == body, f"round {number}: another message at offset {offset} than before")
        equal(len(at), count, "all that a reader has ever seen is there")
        confirmed = told[0]
        t.note(f"round {number}: {confirmed} confirmed, {count} there, restart {took:.2f} s")
    node.terminate()
    verified = t.posthorn("verify", node.data_dir)
    require(verified.returncode == 0, f"verify: {verified.stdout}{verified.stderr}")


def test_retention_over_a_kill(t):
    """What is beyond the limit goes in whole segments, from the oldest on, and does not come back."""
    node, name, limit, segment = t.node(), "bounded", 400_000, 40_000
    for number in range(4):
        with node.connect() as connection:
            channel = confirming(connection)
            declare(channel, name, **{"x-max-length-bytes": limit, "x-stream-max-segment-size-bytes": segment})
            fill(channel, name, number * 2000, 2000, 500)
            count = channel.count(name)[0]
            first = (number + 1) * 2000 - count
        require(0.6 * limit < count * 500 < limit, f"{count} messages are there")
        node.kill()
        node.start()
        with node.connect() as connection:
            again = connection.channel().count(name)[0]
        require(again <= count, f"{again} after the kill, {count} before")
        got = read_all(node, name, again)
        numbers_in_order(got, (number + 1) * 2000 - again)
        require(got[0][0] >= first, "what had gone came back")
    with node.connect() as connection:
        short = confirming(connection)
        declare(short, "short", **{"x-max-age": "1s", "x-stream-max-segment-size-bytes": 1000})
        fill(short, "short", 0, 100, 100)
        poll("all but the last segment is too old", lambda: short.count("short")[0] < 15, 20)
        require(short.count("short")[0] > 0, "the last segment stays")


def test_memory_of_a_stream(t):
    """200,000 messages, somebody who never answers, and readers from the first on: the node's own memory stays bounded."""
    node, name, count = t.node(options=["--memory-messages-max", "16MiB"]), "long", 200_000
    with node.connect() as connection:
        channel = confirming(connection)
        declare(channel, name)
        idle = reader(node, name, "first", 65_535 // 2, answers=False)
        stuck = reader(node, name, "first", 1, answers=False)
        most = 0
        for start in range(0, count, 10_000):
            fill(channel, name, start, 10_000, 1000, 2000)
            most = max(most, node.rss_anon())
        # Three quarters of it are in the store only.
        one = reader(node, name, "first", 1000)

        def read():
            nonlocal most
            most = max(most, node.rss_anon())
            return len(one.got) >= count
        poll("all is read", read, 300, 0.1)
        numbers_in_order(one.stop())
        equal(len(stuck.stop()), 1)
        numbers_in_order(idle.stop())
        t.note(f"RssAnon at most {most >> 20} MiB")
        require(most < 160 << 20, f"{most >> 20} MiB of its own")
        channel.call("queue.delete", queue=name)


def test_what_operators_see(t):
    node, name = t.shared_node(), t.unique("stream")
    with node.connect() as connection:
        channel = confirming(connection)
        declare(channel, name, **{"x-stream-max-segment-size-bytes": 10_000})
        fill(channel, name, 0, 500, 100)
        slow = reader(node, name, "first", 10, answers=False)
        slow.has(10)
        url = {"POSTHORN_URL": f"http://127.0.0.1:{node.http_port}"}

        def shown():
            done = t.posthorn("--json", "list", "queues", environment=url)
            equal(done.returncode, 0, done.stderr)
            return next(each for each in json.loads(done.stdout) if each["name"] == name)
        poll("the lag is shown", lambda: shown()["stream"]["reader_lag_max"] == 490)
        queue = shown()
        equal((queue["type"], queue["messages_ready"], queue["messages_unacknowledged"], queue["consumers"]),
              ("stream", 500, 10, 1))
        stream = queue["stream"]
        equal((stream["first_offset"], stream["next_offset"], stream["reader_lags"]), (0, 500, [490]))
        require(3 < stream["segments"] < 20, f"{stream['segments']} segments")
        metrics = node.http_get("/metrics")[1]
        for line in ("posthorn_streams ", "posthorn_stream_segments ", "posthorn_stream_bytes ", "posthorn_stream_readers ",
                     "posthorn_stream_reader_lag_max "):
            require(any(each.startswith(line) for each in metrics.splitlines()), f"no {line}")
        listed = t.posthorn("list", "queues", "--streams", environment=url)
        equal(listed.returncode, 0, listed.stderr)
        row = next(each for each in listed.stdout.splitlines() if name in each)
        require("stream" in row and "490" in row and "500" in row, row)
        slow.stop()
        channel.call("queue.delete", queue=name)
