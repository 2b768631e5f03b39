#!/usr/bin/env python3
"""What a message costs as things grow, and what stops whom: measures, draws docs/curves/*.svg and fills the tables of
docs/performance.md.

    bench/curves.py --posthornd PATH [--quick] [--only NAME,NAME] [--rounds 3]
    bench/curves.py --draw                       pictures and tables again, from docs/curves/curves.json

Nodes are started on scratch directories below --scratch, which decides what disk is measured. The cost of a message is the
node's own processor time, which other programs on the machine disturb little; beside it stands the time that passed, which
they do disturb, and which has the load's part in it where the load is the slower one.

Curves: """
import argparse
import contextlib
import http.client
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import picture
from document import machine, put_between
import raw_load
from raw_load import amqp_raw, batches, consumer, delivery_size, message, pipelined, publisher

import harness  # raw_load knows where it is

ROOT = pathlib.Path(__file__).resolve().parent.parent
CPU, WALL = "processor time of the node", "time that passed"
QUEUE_NAME_SIZE = TAG_SIZE = 8
MIB = 1 << 20

SCRIPT = "bench/curves.py"


def names(count):
    return [f"q{n:07d}" for n in range(count)]


def steps(low, high):
    return [x for x in (0, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000) if low <= x <= high]


class measured_node(harness.node):
    def cpu(self):
        """Nanoseconds of processor time so far."""
        total = 0
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{self.process.pid}/task/{task}/schedstat") as text:
                total += int(text.read().split()[0])
        return total

    def ask(self, path):
        """What the HTTP API answers to the user guest."""
        client = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)
        client.request("GET", path, headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q="})
        answer = client.getresponse()
        body = answer.read()
        client.close()
        if answer.status != 200:
            raise raw_load.wrong(f"GET {path} was answered with {answer.status}: {body[:200]!r}")

    def rest(self):
        """Waits until it has nothing to do."""
        before = self.cpu()
        for _ in range(600):
            time.sleep(0.05)
            now = self.cpu()
            if now - before < 1_000_000:
                return
            before = now


class results:
    """One curve: what was measured at each x, of each series."""

    def __init__(self, name, **words):
        self.name, self.words, self.series, self.beside = name, words, {}, {}

    def add(self, x, **values):
        for series, value in values.items():
            self.series.setdefault(series, {}).setdefault(x, []).append(value)
        print(f"    {self.name} {x}: " + ", ".join(f"{k} {v:,.0f}" for k, v in values.items()), flush=True)

    def note(self, x, **values):
        """A figure for the table alone."""
        self.beside.setdefault(x, {}).update(values)

    def as_json(self):
        return {"words": self.words, "series": {k: list(v.items()) for k, v in self.series.items()},
                "beside": list(self.beside.items())}


class laboratory:
    def __init__(self, options):
        self.options, self.chance = options, random.Random(7)
        self.quick = options.quick
        self.rounds = options.rounds

    @contextlib.contextmanager
    def node(self, *options):
        directory = tempfile.mkdtemp(prefix="posthorn-curves-", dir=self.options.scratch)
        node = measured_node(self.options.posthornd, directory, options=["--log-level", "error", *options])
        try:
            node.start(60)
            yield node
        finally:
            node.stop()
            shutil.rmtree(directory, ignore_errors=True)

    def cost(self, node, what, count):
        """Nanoseconds per message: (of the node's processors, of the clock)."""
        node.rest()
        before = node.cpu()
        took = what()
        node.rest()
        return (node.cpu() - before) / count, took * 1e9 / count

    def flow(self, node, frames, consumers, count, per_message=1, per_batch=100, window=5000):
        """`count` messages go in, and `per_message` times as many come out; (processor, clock) in ns per message out."""
        sender = publisher(node.port, batches(frames, count, per_batch), window)
        wanted = sum(each.count for each in consumers) + count * per_message
        try:
            return self.cost(node, lambda: raw_load.run([sender], consumers, wanted), count * per_message)
        finally:
            sender.sock.close()


def memory_of(what, node, empty, count):
    """Of each, as far as the node's own memory tells: among few, the rest of the node weighs more."""
    if count < 1000:
        return {}
    return {f"memory per idle {what}": f"{(node.rss_anon() - empty) / count / 1024:.2f} KiB"}


# --- curves -------------------------------------------------------------------------------------------------------

def queues(lab):
    """messages spread over 1 to 100,000 durable queues, all with a consumer"""
    out = results("queues", title="Cost of a message, by the number of queues that they are spread over",
                  x="durable queues, each with a consumer", y="ns per message, published and consumed")
    size = delivery_size(TAG_SIZE, QUEUE_NAME_SIZE, 100)
    with lab.node() as node, node.connect() as admin:
        channel, declared = admin.channel(), 0
        node.rest()
        empty = node.rss_anon()
        for count in steps(1, 100_000):
            since = time.monotonic()
            pipelined(channel, "queue.declare", [{"queue": q, "durable": True} for q in names(count)[declared:]])
            rate = (count - declared) / (time.monotonic() - since)
            declared = count
            node.rest()
            out.note(count, **{"declared per second": f"{rate:,.0f}"}, **memory_of("queue", node, empty, count))
            taker = consumer(node.port, names(count), size, prefetch=1000)
            frames = [message(q, 100) for q in names(count)]
            lab.chance.shuffle(frames)
            total = max(50_000 if lab.quick else 200_000, count)
            lab.flow(node, frames, [taker], total // 5)
            for _ in range(lab.rounds):
                cpu, wall = lab.flow(node, frames, [taker], total)
                out.add(count, **{CPU: cpu, WALL: wall})
            taker.sock.close()
    return out


def connections(lab):
    """one busy pair of connections among up to 10,000, and all of them at 5,000/s together"""
    out = results("connections", title="Cost of a message, by the number of open connections",
                  x="connections with a channel", y="ns per message")
    size, queue = delivery_size(TAG_SIZE, QUEUE_NAME_SIZE, 100), names(1)
    frame = message(queue[0], 100)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with lab.node() as node, node.connect() as admin:
        channel = admin.channel()
        channel.queue(queue[0], durable=True)
        channel.exchange("nowhere", "direct", durable=True)
        slow = message("unused00", 100, "nowhere")
        node.rest()
        empty = node.rss_anon()
        idle = []
        for count in [n for n in steps(1, 10_000) if n < limit - 200]:
            since, missing = time.monotonic(), count - len(idle)
            while len(idle) < count:
                idle.append(publisher(node.port, []))
            rate = missing / (time.monotonic() - since)
            node.rest()
            out.note(count, **{"opened per second": f"{rate:,.0f}"}, **memory_of("connection", node, empty, count))
            taker = consumer(node.port, queue, size)
            total = 50_000 if lab.quick else 200_000
            lab.flow(node, [frame], [taker], total // 5)
            for _ in range(lab.rounds):
                busy, wall = lab.flow(node, [frame], [taker], total)
                calm, _ = lab.cost(node, lambda: raw_load.run_paced(idle, 5000, 10_000, slow), 10_000)
                out.add(count, **{"one busy pair, processor": busy, "one busy pair, time": wall,
                                  "all at 5,000/s together, processor": calm})
            taker.sock.close()
        for each in idle:
            each.sock.close()
    return out


def consumers(lab):
    """1 to 1,000 consumers of one queue"""
    out = results("consumers", title="Cost of a message, by the number of consumers of its queue",
                  x="consumers of one queue", y="ns per message, published and consumed")
    size = delivery_size(TAG_SIZE, QUEUE_NAME_SIZE, 100)
    queue = names(1)
    for series, per_connection in (("on one channel", None), ("on as many connections", 1)):
        with lab.node() as node, node.connect() as admin:
            admin.channel().queue(queue[0], durable=True)
            for count in steps(1, 1000):
                each = count if per_connection is None else per_connection
                takers = [consumer(node.port, queue, size, prefetch=100, ack_every=50 if per_connection is None else 10,
                                   per_queue=each) for _ in range(count // each)]
                total = 50_000 if lab.quick else 200_000
                lab.flow(node, [message(queue[0], 100)], takers, total // 5)
                for _ in range(lab.rounds):
                    cpu, wall = lab.flow(node, [message(queue[0], 100)], takers, total)
                    out.add(count, **{series + ", processor": cpu, series + ", time": wall})
                for taker in takers:
                    taker.sock.close()
                node.rest()
    return out


def bindings(lab):
    """10 to 100,000 bindings of a direct, a topic and a headers exchange"""
    out = results("bindings", title="Cost of a message, by the number of bindings of its exchange",
                  x="bindings, of which a message matches one", y="ns of the node's processors per message")
    for kind in ("direct", "topic", "headers"):
        with lab.node() as node, node.connect() as admin:
            channel = admin.channel()
            channel.queue("q0000000", durable=True)
            channel.exchange("x" * 8, kind, durable=True)

            def asked(n):
                key = {"direct": f"{n:08d}.a.x", "topic": f"{n:08d}.*.x", "headers": "0" * 12}[kind]
                return {"queue": "q0000000", "exchange": "x" * 8, "routing_key": key,
                        "arguments": {"n": n, "x-match": "all"} if kind == "headers" else {}}

            def sent(n):
                properties = {"delivery_mode": 2, "headers": {"n": n}} if kind == "headers" else None
                key = "0" * 12 if kind == "headers" else f"{n:08d}.a.x"
                return message(key, 100, "x" * 8, properties)

            properties = {"delivery_mode": 2, "headers": {"n": 1}} if kind == "headers" else None
            size, bound = delivery_size(TAG_SIZE, 12, 100, 8, properties), 0
            for count in steps(10, 100_000):
                since = time.monotonic()
                pipelined(channel, "queue.bind", [asked(n) for n in range(bound, count)])
                out.note(count, **{f"{kind}: bound per second": f"{(count - bound) / (time.monotonic() - since):,.0f}"})
                bound = count
                taker = consumer(node.port, ["q0000000"], size)
                frames = [sent(n) for n in range(count)]
                lab.chance.shuffle(frames)
                total = 50_000 if lab.quick else 200_000
                if kind == "headers":
                    total = min(total, 20_000_000 // count)
                lab.flow(node, frames, [taker], max(100, total // 5))
                for _ in range(lab.rounds):
                    cpu, _ = lab.flow(node, frames, [taker], total)
                    out.add(count, **{kind: cpu})
                taker.sock.close()
    return out


def size(lab):
    """bodies of 16 B to 64 MiB"""
    out = results("size", title="Cost of a message, by the size of its body", x="body", y="ns per message", binary=True)
    with lab.node("--amqp-message-size-max", "64 MiB") as node, node.connect() as admin:
        admin.channel().queue("q0000000", durable=True)
        volume = 256 * MIB if lab.quick else 1024 * MIB
        for octets in (16, 256, 4096, 64 << 10, MIB, 16 * MIB, 64 * MIB):
            taker = consumer(node.port, ["q0000000"], delivery_size(TAG_SIZE, QUEUE_NAME_SIZE, octets),
                             prefetch=1000, ack_every=100 if octets <= 4096 else 1)
            total = max(4, min(50_000 if lab.quick else 200_000, volume // octets))
            per_batch = max(1, min(100, 65536 // octets))
            frames = [message("q0000000", octets)]
            lab.flow(node, frames, [taker], max(2, total // 5), 1, per_batch)
            for _ in range(lab.rounds):
                cpu, wall = lab.flow(node, frames, [taker], total, 1, per_batch)
                out.add(octets, **{CPU: cpu, WALL: wall})
            out.note(octets, **{"MiB per second": f"{octets / MIB / statistics.median(out.series[WALL][octets]) * 1e9:,.1f}"})
            taker.sock.close()
    return out


def backlog(lab):
    """in front of 0 to 10,000,000 messages that wait"""
    out = results("backlog", title="Cost of a message, by the number of messages that wait before it",
                  x="messages of 100 B that wait in the queue", y="ns per message")
    octets, depth = delivery_size(TAG_SIZE, QUEUE_NAME_SIZE, 100), 0
    frame = message("q0000000", 100)
    with lab.node() as node, node.connect() as admin:
        admin.channel().queue("q0000000", durable=True)
        total = 50_000 if lab.quick else 200_000
        for wanted in (0, 1000, 10_000, 100_000, 1_000_000) + (() if lab.quick else (10_000_000,)):
            if wanted > depth:
                fill = publisher(node.port, batches([frame], wanted - depth), 10_000)
                raw_load.run([fill])
                fill.sock.close()
                depth = wanted
            node.rest()
            out.note(wanted, **{"memory of the node": f"{node.rss_anon() / MIB:,.0f} MiB"})
            for _ in range(lab.rounds):
                taker = consumer_of_backlog(node, octets, total)
                sender = publisher(node.port, batches([frame], total), 5000)
                cpu, wall = lab.cost(node, lambda: raw_load.run([sender], [taker], total), total)
                sender.sock.close()
                taken = taker.acknowledged
                taker.sock.close()
                node.rest()
                depth += total - taken
                out.add(wanted, **{"published and consumed, processor": cpu, "published and consumed, time": wall})
                sender = publisher(node.port, batches([frame], total), 5000)
                cpu, wall = lab.cost(node, lambda: raw_load.run([sender]), total)
                sender.sock.close()
                depth += total
                out.add(wanted, **{"published alone, processor": cpu, "published alone, time": wall})
                taker = consumer_of_backlog(node, octets, total)
                cpu, _ = lab.cost(node, lambda: raw_load.run([], [taker], total), total)
                depth -= taker.acknowledged
                taker.sock.close()
                node.rest()
                ready = admin_count(node)
                if ready != depth:
                    raise raw_load.wrong(f"{ready} messages wait where {depth} should")
                if wanted:
                    out.add(wanted, **{"consumed alone, processor": cpu})
    return out


def admin_count(node):
    with node.connect() as connection:
        return connection.channel().count("q0000000")[0]


class consumer_of_backlog(consumer):
    """Its first deliveries come while it still waits for consume-ok; takes `total` messages and stops its prefetch there."""

    def __init__(self, node, octets, total):
        connection = node.connect()
        channel = connection.channel()
        channel.call("basic.qos", prefetch_count=1000)
        self.sock, self.size, self.ack_every = connection.sock, octets, 100
        self.bytes = self.acknowledged = 0
        self.out, self.total = b"", total
        # The answer to this is one frame of known size before the first delivery.
        self.bytes = -(8 + 4 + 1 + TAG_SIZE)
        channel.send("basic.consume", queue="q0000000", consumer_tag="t0000000")
        self.sock.setblocking(False)

    def acknowledge(self):
        # No more than asked for: the rest goes back to the queue with the connection.
        count = min(self.count, self.total)
        if count > self.acknowledged:
            self.acknowledged = count
            self.out += amqp_raw.frame(1, 1, raw_load.struct.pack(">HHQB", 60, 80, count, 1))
            self.write()


def fan_out(lab):
    """a fanout exchange that leads to 1 to 1,000 queues"""
    out = results("fan-out", title="Cost of a delivery, by the number of queues that a message goes to",
                  x="queues bound to a fanout exchange, each with a consumer", y="ns per delivery")
    octets = delivery_size(TAG_SIZE, QUEUE_NAME_SIZE, 100, 8)
    with lab.node() as node, node.connect() as admin:
        channel = admin.channel()
        channel.exchange("f" * 8, "fanout", durable=True)
        bound = 0
        for count in steps(1, 1000):
            fresh = names(count)[bound:]
            pipelined(channel, "queue.declare", [{"queue": q, "durable": True} for q in fresh])
            pipelined(channel, "queue.bind", [{"queue": q, "exchange": "f" * 8} for q in fresh])
            bound = count
            taker = consumer(node.port, names(count), octets, prefetch=1000, ack_every=200)
            frame = message("k" * 8, 100, "f" * 8)
            total = max(200, (100_000 if lab.quick else 500_000) // count)
            per_batch = max(1, 100 // count)
            lab.flow(node, [frame], [taker], total // 5, count, per_batch, 1000)
            for _ in range(lab.rounds):
                cpu, wall = lab.flow(node, [frame], [taker], total, count, per_batch, 1000)
                out.add(count, **{CPU: cpu, WALL: wall})
            taker.sock.close()
    return out


# --- who stops whom -----------------------------------------------------------------------------------------------

def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def stolen():
    """Ticks of the clock on all processors so far: (that the machine below took away, all)."""
    with open("/proc/stat") as text:
        ticks = [int(x) for x in text.readline().split()[1:]]
    return ticks[7], sum(ticks[:8])


class watched:
    """The probe as a process of its own, so that our work does not hold up its clock."""

    def __init__(self, node):
        self.process = subprocess.Popen([sys.executable, str(pathlib.Path(raw_load.__file__)), "probe", str(node.port),
                                         os.path.dirname(node.data_dir)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline().strip() != "ready":
            raise raw_load.wrong("the probe did not start")
        self.spans = []

    @contextlib.contextmanager
    def during(self, name, after=0.3):
        began, (away, all_ticks) = time.monotonic(), stolen()
        yield
        ended = time.monotonic()
        time.sleep(after)
        away, all_ticks = stolen()[0] - away, stolen()[1] - all_ticks
        self.spans.append((name, began, ended + after, ended - began, 100 * away / max(1, all_ticks)))
        time.sleep(0.5)

    def finish(self):
        out, _ = self.process.communicate()
        seen = json.loads(out)
        rows = []
        for name, began, until, took, away in self.spans:
            row = {"what": name, "took": took, "stolen": away}
            for kind in ("delivered", "confirmed", "disk"):
                values = [1000 * latency for at, latency in seen[kind] if began <= at + latency and at <= until]
                row[kind] = {"p50": percentile(values, .5), "p99": percentile(values, .99), "max": max(values, default=0),
                             "count": len(values)}
            rows.append(row)
            print(f"    {name}: {took:.2f} s; " + "; ".join(
                f"{k} p50 {row[k]['p50']:.2f} p99 {row[k]['p99']:.2f} max {row[k]['max']:.2f} ms"
                for k in ("delivered", "confirmed", "disk")) + f"; stolen {away:.0f} %", flush=True)
        return rows


def median_row(rows):
    """One row of several rounds: the median of each figure, so that a disk that stood still once does not count."""
    row = {"what": rows[0]["what"], **{k: statistics.median(r[k] for r in rows) for k in ("took", "stolen")}}
    for kind in ("delivered", "confirmed", "disk"):
        row[kind] = {k: statistics.median(r[kind][k] for r in rows) for k in ("p50", "p99", "max", "count")}
    return row


def stops(lab):
    """what one client's operations do to a probe of 1,000 messages per second on connections of its own"""
    return {"rows": [median_row(same) for same in zip(*(stops_once(lab) for _ in range(lab.rounds)))]}


def stops_in_memory(lab):
    """the same with the store in memory (/dev/shm), where a sync takes no time: what of it is not the disk"""
    disk, lab.options.scratch = lab.options.scratch, "/dev/shm"
    try:
        return stops(lab)
    finally:
        lab.options.scratch = disk


def stops_once(lab):
    many = 10_000
    deep = 500_000 if lab.quick else 5_000_000

    def fill(node, count, queue="q0000000"):
        sender = publisher(node.port, batches([message(queue, 100)], count), 10_000)
        raw_load.run([sender])
        sender.sock.close()

    with lab.node() as node:
        admin = node.connect()
        channel = admin.channel()
        channel.exchange("t" * 8, "topic", durable=True)
        channel.queue("q0000000", durable=True)
        fill(node, deep)
        node.rest()
        for queue in ("busy", "through0", "large", "matched"):
            channel.queue(queue, durable=True)
        channel.exchange("h" * 8, "headers", durable=True)
        pipelined(channel, "queue.bind", [{"queue": "matched", "exchange": "h" * 8, "routing_key": "",
                                           "arguments": {"n": n}} for n in range(many)])
        probe = watched(node)
        time.sleep(1)
        with probe.during("nothing else"):
            time.sleep(3)
        with probe.during(f"declare of {many:,} durable queues, pipelined"):
            pipelined(channel, "queue.declare", [{"queue": "d" + q, "durable": True} for q in names(many)])
        with probe.during(f"{many:,} binds to one topic exchange, pipelined"):
            pipelined(channel, "queue.bind", [{"queue": "d" + q, "exchange": "t" * 8, "routing_key": q + ".*"}
                                              for q in names(many)])
        with probe.during(f"delete of the exchange with {many:,} bindings"):
            channel.call("exchange.delete", exchange="t" * 8, timeout=120)
        with probe.during(f"delete of {many:,} queues, pipelined"):
            pipelined(channel, "queue.delete", [{"queue": "d" + q} for q in names(many)])
        with probe.during(f"a consumer of {deep:,} messages that does not read"):
            deaf = node.connect()
            deaf.channel().send("basic.consume", queue="q0000000", consumer_tag="deaf", no_ack=False)
            time.sleep(3)
        with probe.during("its connection breaks"):
            deaf.drop()
            time.sleep(1)
        copy = tempfile.mkdtemp(prefix="posthorn-curves-", dir=lab.options.scratch)
        with probe.during(f"backup of the store with {deep:,} messages"):
            subprocess.run([pathlib.Path(lab.options.posthornd).with_name("posthorn"), "backup", node.data_dir, copy],
                           check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(copy)
        with probe.during("a publisher of 100 B at full speed, without a consumer"):
            fill(node, 200_000, "busy")
        with probe.during("100,000 messages of 1 KiB through another queue"):
            taker = consumer(node.port, ["through0"], delivery_size(TAG_SIZE, QUEUE_NAME_SIZE, 1024))
            sender = publisher(node.port, batches([message("through0", 1024)], 100_000), 10_000)
            raw_load.run([sender], [taker], 100_000)
            sender.sock.close()
            taker.sock.close()
        with probe.during("1,000 messages through a headers exchange with 10,000 bindings"):
            sender = publisher(node.port, batches([message("", 100, "h" * 8, {"headers": {"n": n}}) for n in range(100)],
                                                  1000), 1000)
            raw_load.run([sender])
            sender.sock.close()
        with probe.during("a publisher with confirms that does not read"):
            mute = node.connect()
            mute.channel().call("confirm.select")
            mute.sock.setblocking(False)
            until, block = time.monotonic() + 3, message("q0000000", 100) * 500
            while time.monotonic() < until:
                with contextlib.suppress(BlockingIOError):
                    # Whole blocks, or the rest of one: what matters is that the socket stays full.
                    left = memoryview(block)
                    while left and time.monotonic() < until:
                        try:
                            left = left[mute.sock.send(left):]
                        except BlockingIOError:
                            time.sleep(0.005)
            mute.drop()
        with probe.during(f"basic.get of 1,000 and reject of them, with {deep:,} behind"):
            with node.connect() as getter:
                c = getter.channel()
                for _ in range(1000):
                    c.get("q0000000")
                c.send("basic.nack", delivery_tag=0, multiple=True, requeue=True)
                c.call("basic.qos", prefetch_count=1)
        with probe.during("100,000 unacknowledged messages come back"):
            holder = node.connect()
            c = holder.channel()
            c.send("basic.consume", queue="q0000000", consumer_tag="t0000000")
            holder.sock.settimeout(30)
            wanted, got = 100_000 * delivery_size(TAG_SIZE, QUEUE_NAME_SIZE, 100), 0
            while got < wanted:
                got += len(holder.sock.recv(1 << 20))
            holder.drop()
        with probe.during(f"purge of about {deep:,} messages", after=3):
            channel.call("queue.purge", queue="q0000000", timeout=300)
        channel.queue("q0000000", durable=True)
        fill(node, deep)
        node.rest()
        with probe.during(f"delete of a queue with {deep:,} messages", after=3):
            channel.call("queue.delete", queue="q0000000", timeout=300)
        with probe.during("1,000 connections open, one after the other"):
            made = [node.connect() for _ in range(1000)]
        with probe.during("1,000 connections break at once"):
            for each in made:
                each.drop()
        with probe.during("64 bodies of 8 MiB"):
            sender = publisher(node.port, batches([message("large", 8 * MIB)], 64, 1), 8)
            raw_load.run([sender])
            sender.sock.close()
        wide = 100_000
        pipelined(channel, "queue.declare", [{"queue": "w" + q, "durable": True} for q in names(wide)])
        node.rest()
        with probe.during(f"nothing else, with {wide:,} idle queues"):
            time.sleep(4)
        with probe.during(f"one declare after the other, with {wide:,} idle queues"):
            for q in names(200):
                channel.queue("one" + q, durable=True)
        for path in ("/metrics", "/api/overview", "/api/queues", "/api/actors?path=/"):
            with probe.during(f"GET {path}, with {wide:,} idle queues"):
                node.ask(path)
        rows = probe.finish()
        admin.drop()
    return rows


def starts(lab):
    """start and stop with 1,000,000 messages in 1,000 queues, and with none in 100,000"""
    rows = []

    def measure(what, fill):
        with lab.node() as node:
            fill(node)
            node.rest()
            for _ in range(lab.rounds):
                code, stopped = node.terminate(120)
                ready = node.start(120)
                rows.append({"what": what, "stopped": stopped, "ready": ready, "code": code})
                print(f"    {what}: stopped in {stopped:.2f} s, ready in {ready:.2f} s", flush=True)

    def messages(node):
        with node.connect() as admin:
            pipelined(admin.channel(), "queue.declare", [{"queue": q, "durable": True} for q in names(1000)])
        sender = publisher(node.port, batches([message(q, 100) for q in names(1000)], 1_000_000), 10_000)
        raw_load.run([sender])
        sender.sock.close()

    def declared(node):
        with node.connect() as admin:
            pipelined(admin.channel(), "queue.declare", [{"queue": q, "durable": True} for q in names(100_000)])

    measure("1,000,000 messages of 100 B in 1,000 queues", messages)
    measure("100,000 empty durable queues", declared)
    return {"rows": rows}


CURVES = {"queues": queues, "connections": connections, "consumers": consumers, "bindings": bindings, "size": size,
          "backlog": backlog, "fan-out": fan_out}
TABLES = {"stops": stops, "stops-in-memory": stops_in_memory, "starts": starts}
__doc__ += ", ".join([*CURVES, *TABLES])


# --- pictures and tables ------------------------------------------------------------------------------------------

def figure(ns):
    return f"{ns / 1e6:,.1f} ms" if ns >= 1e6 else f"{ns / 1e3:,.1f} µs" if ns >= 1e4 else f"{ns / 1e3:.2f} µs"


def table_of(curve):
    series, beside = curve["series"], dict((x, v) for x, v in curve["beside"])
    extra = list(dict.fromkeys(k for v in beside.values() for k in v))
    lines = [f"| {curve['words']['x']} | " + " | ".join([*series, *extra]) + " |",
             "| ---: " * (1 + len(series) + len(extra)) + "|"]
    values = {name: dict((x, v) for x, v in points) for name, points in series.items()}
    for x in sorted({x for points in values.values() for x in points}):
        cells = [figure(statistics.median(points[x])) if x in points else "" for points in values.values()]
        cells += [beside.get(x, {}).get(k, "") for k in extra]
        lines.append(f"| {picture.binary(x) if curve['words'].get('binary') else f'{x:,}'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_of_stops(rows):
    lines = ["| while | took | delivery p50 / p99 / max | confirm p50 / p99 / max | the disk itself p50 / p99 / max | stolen |",
             "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for row in rows:
        cells = [" / ".join(f"{row[k][p]:.1f}" for p in ("p50", "p99", "max")) + " ms"
                 for k in ("delivered", "confirmed", "disk")]
        lines.append(f"| {row['what']} | {row['took']:.2f} s | " + " | ".join(cells) + f" | {row['stolen']:.0f} % |")
    return "\n".join(lines)


def table_of_starts(rows):
    lines = ["| with | stopped within | ready after |", "| --- | ---: | ---: |"]
    for what in dict.fromkeys(row["what"] for row in rows):
        mine = [row for row in rows if row["what"] == what]
        lines.append(f"| {what} | {statistics.median(r['stopped'] for r in mine):.2f} s | "
                     f"{statistics.median(r['ready'] for r in mine):.2f} s |")
    return "\n".join(lines)


def draw(data, out, document):
    text = document.read_text()
    for name in CURVES:
        if name not in data:
            continue
        curve = data[name]
        words = curve["words"]
        series = [(label, sorted((x, v) for x, v in points)) for label, points in curve["series"].items()]
        (out / f"{name}.svg").write_text(picture.draw(words["title"], words["x"], words["y"], series,
                                                      is_binary=words.get("binary", False)))
        text = put_between(text, name, SCRIPT,
                           f"\n![{words['title']}](curves/{name}.svg)\n\n{table_of(curve)}\n\n{data['runs'][name]}\n")
    for name, table in (("stops", table_of_stops), ("stops-in-memory", table_of_stops), ("starts", table_of_starts)):
        if name in data:
            text = put_between(text, name, SCRIPT, f"\n{table(data[name]['rows'])}\n\n{data['runs'][name]}\n")
    document.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posthornd", help="the node to be measured")
    parser.add_argument("--quick", action="store_true", help="fewer messages, backlogs to 1,000,000 and 500,000")
    parser.add_argument("--only", default="", metavar="NAMES", help="some of them, with commas between")
    parser.add_argument("--rounds", type=int, default=0, help="measurements of each point (3, quick: 2)")
    parser.add_argument("--scratch", default=None, help="where the nodes' directories are made")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "curves", help="for pictures and curves.json")
    parser.add_argument("--document", type=pathlib.Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    chosen = parser.parse_args()
    chosen.rounds = chosen.rounds or (2 if chosen.quick else 3)
    wanted = [name for name in chosen.only.split(",") if name] or [*CURVES, *TABLES]
    if unknown := set(wanted) - {*CURVES, *TABLES}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    kept = chosen.out / "curves.json"
    data = json.loads(kept.read_text()) if kept.exists() else {}
    if chosen.draw:
        draw(data, chosen.out, chosen.document)
        return
    if not chosen.posthornd:
        parser.error("--posthornd is missing")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no node stays behind
    lab, failed = laboratory(chosen), []
    for name in wanted:
        print(f"{name}: {(CURVES | TABLES)[name].__doc__}", flush=True)
        try:
            found = (CURVES | TABLES)[name](lab)
        except (raw_load.wrong, amqp_raw.gone, amqp_raw.closed, TimeoutError, AssertionError, OSError) as problem:
            print(f"  {name} failed: {problem!r}", flush=True)
            failed.append(name)
            continue
        data[name] = json.loads(json.dumps(found.as_json() if isinstance(found, results) else found))
        data.setdefault("runs", {})[name] = f"{machine()}, {chosen.rounds} round{'s' if chosen.rounds > 1 else ''}{', --quick' if chosen.quick else ''}."
        kept.write_text(json.dumps(data, indent=1) + "\n")
        draw(data, chosen.out, chosen.document)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
