"""A publish-and-consume load over several queues and exchanges, and the ledger that knows what must be there afterwards.

The ledger stands outside of the broker. It counts a message as promised when its confirm was read, and as settled when
its acknowledgement had been handed to the kernel. Times are of the monotonic clock.
"""
import os
import random
import struct
import threading
import time
import zlib

import amqp_raw

MAGIC = b"PHrn"
HEADER = struct.Struct(">4sIQI")  # magic, producer, number, checksum of the rest
SETTLED_SAFELY = 0.2  # an acknowledgement this old at the kill must hold
# It waits for the commit that is under way and for its own. A disk that takes as long as this for one sync leaves the
# broker no way to keep that time: such a round says nothing of late acknowledgements, and another one is run for it.
DISK_STOOD_STILL = SETTLED_SAFELY / 2
POOL = random.Random(7).randbytes(1 << 20)

QUEUES = ["plain", "direct", "topic", "headers", "backlog"]
SINGLE_CONSUMER = {"direct", "topic", "headers"}  # "plain" has two, "backlog" none
# exchange, key, headers -> queues
ROUTES = [
    ("", "plain", None, ("plain",)),
    ("", "backlog", None, ("backlog",)),
    ("load.direct", "d", None, ("direct",)),
    ("load.direct", "b", None, ("backlog",)),
    ("load.topic", "a.b", None, ("topic",)),
    ("load.topic", "x.c", None, ("headers",)),
    ("load.topic", "a.c", None, ("topic", "headers")),
    ("load.fanout", "", None, ("direct", "topic", "headers", "backlog")),
    ("load.headers", "", {"kind": "x"}, ("headers",)),
    ("load.headers", "", {"kind": "y"}, ("headers", "direct")),
]


def declare(connection):
    channel = connection.channel()
    for queue in QUEUES:
        channel.queue(queue, durable=True)
    for kind in ("direct", "topic", "fanout", "headers"):
        channel.exchange("load." + kind, kind, durable=True)
    channel.bind("direct", "load.direct", "d")
    channel.bind("backlog", "load.direct", "b")
    channel.bind("topic", "load.topic", "a.#")
    channel.bind("headers", "load.topic", "*.c")
    for queue in ("direct", "topic", "headers", "backlog"):
        channel.bind(queue, "load.fanout")
    channel.bind("headers", "load.headers", "", kind="x")
    channel.bind("headers", "load.headers", "", **{"x-match": "any", "kind": "y"})
    channel.bind("direct", "load.headers", "", kind="y")


def make_body(producer, number, chance):
    kind = chance.random()
    size = chance.randrange(1500) if kind < 0.97 else chance.randrange(20_000) if kind < 0.998 else 300_000
    at = chance.randrange(len(POOL) - size) if size < len(POOL) else 0
    rest = POOL[at:at + size]
    return HEADER.pack(MAGIC, producer, number, zlib.crc32(rest)) + rest


def read_body(body):
    """The message's (producer, number), or None if it is not as it was published."""
    if len(body) < HEADER.size:
        return None
    magic, producer, number, checksum = HEADER.unpack_from(body)
    return (producer, number) if magic == MAGIC and zlib.crc32(memoryview(body)[HEADER.size:]) == checksum else None


class ledger:
    """All that was ever promised, and the problems found. Producers and consumers write only what is their own."""

    def __init__(self):
        self.producers = {}  # producer -> list of published, by number
        self.settled = {queue: {} for queue in QUEUES}  # queue -> id -> when
        # An acknowledgement that was tried when the broker died may have arrived: its message may be there, or not.
        self.tried = {queue: set() for queue in QUEUES}
        self.survived = {queue: {} for queue in QUEUES}  # queue -> id: seen after a restart, so it is on disk
        self.dropped = {queue: set() for queue in QUEUES}  # promised to nobody, and not there after a restart
        self.delivered = {queue: set() for queue in QUEUES}
        self.undecided = 0  # messages that only the note of a tried acknowledgement excuses
        self.late = []  # acknowledgements that should have held, of the check under way
        self.repeated = 0  # rounds with late acknowledgements in which the disk stood still
        self.problems = []
        self.lock = threading.Lock()

    def problem(self, text):
        with self.lock:
            self.problems.append(text)

    def confirmed_count(self):
        return sum(each.confirmed for producer in self.producers.values() for each in producer)

    def settled_count(self):
        return sum(len(each) for each in self.settled.values())


class published:
    __slots__ = ("queues", "persistent", "confirmed", "confirmed_at")

    def __init__(self, queues, persistent):
        self.queues, self.persistent, self.confirmed, self.confirmed_at = queues, persistent, False, 0.0


class producer(threading.Thread):
    """Publishes on one channel with confirms, until the connection ends or it is told to stop."""

    def __init__(self, book, connection, number, chance, window=400, batch=40, routes=None, transient=0.1, on_confirm=None):
        super().__init__(daemon=True)
        self.book, self.connection, self.number, self.chance = book, connection, number, chance
        self.window, self.batch, self.routes, self.transient = window, batch, routes or ROUTES, transient
        self.on_confirm = on_confirm or (lambda: None)
        self.mine = book.producers[number] = []
        self.waiting = set()
        self.stopping = False
        self.blocked = False

    def run(self):
        try:
            channel = self.connection.channel()
            channel.call("confirm.select")
            while not self.stopping:
                room = self.window - len(self.waiting)
                if room > 0:
                    self.connection.send_raw(b"".join(self.next() for _ in range(min(room, self.chance.randint(1, self.batch)))))
                self.read_confirms(0 if room > self.batch else 0.05)
        except (amqp_raw.gone, TimeoutError, OSError):
            pass
        except amqp_raw.closed as close:
            self.book.problem(f"a producer was closed: {close}")
        self.read_rest()

    def next(self):
        number = len(self.mine)
        exchange, key, headers, queues = self.routes[self.chance.randrange(len(self.routes))]
        persistent = self.chance.random() >= self.transient
        body = make_body(self.number, number, self.chance)
        # It is in the ledger before it is on the wire.
        self.mine.append(published(queues, persistent))
        self.waiting.add(number)
        return amqp_raw.publish_frames(exchange, key, body, {"delivery_mode": 2 if persistent else 1, "headers": headers})

    def read_confirms(self, timeout):
        connection = self.connection
        try:
            connection.read_some(timeout)
        except TimeoutError:
            return
        self.take_confirms()

    def take_confirms(self):
        connection, any_came = self.connection, False
        while len(connection.buffer) >= 7 and len(connection.buffer) >= struct.unpack_from(">I", connection.buffer, 3)[0] + 8:
            connection.pump(0)
        while connection.inbox[1]:
            answer = connection.inbox[1].popleft()
            if answer.name not in ("basic.ack", "basic.nack"):
                self.book.problem(f"a producer got {answer}")
                self.stopping = True
                continue
            tag = answer.delivery_tag - 1
            if tag >= len(self.mine):
                self.book.problem(f"confirm {tag + 1} of {len(self.mine)} publishes")
            for number in [n for n in self.waiting if n <= tag] if answer.multiple else [tag]:
                self.waiting.discard(number)
                self.mine[number].confirmed = answer.name == "basic.ack"
                self.mine[number].confirmed_at = time.monotonic()
                any_came = True
        for answer in connection.inbox[0]:
            if answer.name == "connection.blocked":
                self.blocked = True
            elif answer.name == "connection.unblocked":
                self.blocked = False
            else:
                if answer.reply_code != 320:
                    self.book.problem(f"a producer was closed: {answer}")
                self.stopping = True
        connection.inbox[0].clear()
        if any_came:
            self.on_confirm()

    def read_rest(self):
        """What the broker had written before it died counts: it was promised."""
        deadline = time.monotonic() + 5
        try:
            while time.monotonic() < deadline and not (self.stopping and not self.waiting):
                self.read_confirms(0.2)
        except (amqp_raw.gone, OSError, ValueError):
            pass


class consumer(threading.Thread):
    """Consumes one queue with manual acknowledgements: mostly acks, often of several, now and then a nack or a reject."""

    def __init__(self, book, connection, queue, chance, prefetch=60, alone=False):
        super().__init__(daemon=True)
        self.book, self.connection, self.queue, self.chance = book, connection, queue, chance
        self.prefetch, self.alone = prefetch, alone
        self.seen = []  # ids in the order of first delivery
        self.stopping = False

    def run(self):
        try:
            channel = self.connection.channel()
            channel.call("basic.qos", prefetch_count=self.prefetch)
            channel.consume(self.queue)
            pending, last, limit = [], {}, self.chance.randint(1, 25)
            while not self.stopping:
                try:
                    message = channel.wait("basic.deliver", timeout=0.05)
                except TimeoutError:
                    message = None
                if message is not None:
                    pending.append((message.delivery_tag, self.check(message, last)))
                if pending and (message is None or len(pending) >= limit):
                    self.settle(channel, pending)
                    pending, limit = [], self.chance.randint(1, 25)
        except (amqp_raw.gone, TimeoutError, OSError):
            pass
        except amqp_raw.closed as close:
            if close.code != 320:
                self.book.problem(f"a consumer of {self.queue} was closed: {close}")

    def check(self, message, last):
        name = read_body(message.body)
        book, queue = self.book, self.queue
        if name is None:
            book.problem(f"{queue}: a corrupt body of {len(message.body)} octets was delivered")
            return None
        origin, number = name
        if origin not in book.producers or number >= len(book.producers[origin]):
            book.problem(f"{queue}: {name} was delivered but never published")
        elif queue not in book.producers[origin][number].queues:
            book.problem(f"{queue}: {name} was delivered but not routed there")
        book.delivered[queue].add(name)
        if name in book.settled[queue]:
            book.problem(f"{queue}: {name} was delivered again after it had been acknowledged")
        if not message.redelivered:
            if number <= last.get(origin, -1):
                book.problem(f"{queue}: {name} was first delivered after {(origin, last[origin])}")
            last[origin] = number
            self.seen.append(name)
        return name

    def settle(self, channel, pending):
        kind = self.chance.random()
        if kind < 0.02:
            channel.send("basic.nack", delivery_tag=pending[-1][0], multiple=True, requeue=True)
        elif kind < 0.85:
            self.settle_some(channel, pending, "basic.ack", multiple=True)
        elif kind < 0.9:
            self.settle_some(channel, pending, "basic.nack", multiple=True)
        else:
            for each in pending:
                self.settle_some(channel, [each], "basic.ack" if kind < 0.95 else "basic.reject")

    def settle_some(self, channel, some, how, **arguments):
        """Notes each acknowledgement twice: before it is tried, and when the kernel has taken it."""
        names = [name for _, name in some]
        self.book.tried[self.queue].update(names)
        channel.send(how, delivery_tag=some[-1][0], **arguments)
        now = time.monotonic()
        self.book.settled[self.queue].update((name, now) for name in names)


def last_commit(book, killed_at):
    """Seconds from the last confirm that only a commit can have caused, to the kill: nobody consumes the backlog."""
    times = [each.confirmed_at for producer in book.producers.values() for each in producer
             if each.confirmed and each.persistent and "backlog" in each.queues and each.confirmed_at <= killed_at]
    return killed_at - max(times) if times else float("inf")


class disk_probe(threading.Thread):
    """Syncs a small file of its own beside the store, over and over: what the disk itself takes, whatever the broker does."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.path, self.syncs, self.stopping = os.path.join(directory, "probe"), [], threading.Event()
        self.start()

    def run(self):
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        while not self.stopping.wait(0.02):
            began = time.monotonic()
            os.pwrite(file, b"x" * 4096, 0)
            os.fdatasync(file)
            self.syncs.append((began, time.monotonic()))
        os.close(file)

    def finish(self, killed_at):
        """Seconds of the slowest sync of the last second before the kill; what it took after the kill does not count."""
        self.stopping.set()
        self.join(30)
        return max((min(ended, killed_at) - began for began, ended in self.syncs if ended > killed_at - 1 and began < killed_at),
                   default=0.0)


def describe(book, queue, lost, found, killed_at):
    """What is known of lost messages: a loss at the end tells of another defect than one in the midst."""
    ages = [killed_at - book.producers[origin][number].confirmed_at for origin, number in lost]
    last = {}
    for origin, number in found:
        last[origin] = max(number, last.get(origin, -1))
    at_end = sum(number > last.get(origin, -1) for origin, number in lost)
    before = {}
    for origin, number in found:
        before[origin] = min(number, before.get(origin, number))
    at_start = sum(number < before.get(origin, number + 1) for origin, number in lost)
    return (f"{sum(name in book.delivered[queue] for name in lost)} had been delivered, "
            f"{sum(name in book.survived[queue] for name in lost)} had survived an earlier restart, {at_start} stood before "
            f"and {at_end} behind all that is left, confirmed {min(ages):.3f} to {max(ages):.3f} s before the end")


def check_queue(book, connection, channel_id, queue, killed_at, order_seen=(), empty=False):
    """After a restart: reads all that is in the queue, and holds it against the ledger. Empties it if asked to."""
    channel = connection.channel(channel_id)
    ready = channel.count(queue)[0]
    tag = channel.consume(queue)
    found, problem = [], book.problem
    for _ in range(ready):
        message = channel.wait("basic.deliver", timeout=20)
        name = read_body(message.body)
        if name is None:
            problem(f"{queue}: a corrupt body of {len(message.body)} octets came back")
        else:
            found.append(name)
    names = set(found)
    if len(names) != len(found):
        problem(f"{queue}: {len(found) - len(names)} messages came back twice")
    for name in found:
        origin, number = name
        known = origin in book.producers and number < len(book.producers[origin])
        if not known or queue not in book.producers[origin][number].queues:
            problem(f"{queue}: {name} was never published there")
        settled_at = book.settled[queue].get(name)
        if settled_at is not None and settled_at < killed_at - SETTLED_SAFELY:
            book.late.append(f"{queue}: {name} came back, acknowledged {killed_at - settled_at:.3f} s before the end")
        if name in book.dropped[queue]:
            problem(f"{queue}: {name} was gone after an earlier restart and is there again")
    lost = []
    for origin, messages in book.producers.items():
        for number, each in enumerate(messages):
            name = (origin, number)
            if queue not in each.queues or name in names or name in book.settled[queue] or name in book.dropped[queue]:
                continue
            if each.persistent and (each.confirmed or name in book.survived[queue]):
                if name in book.tried[queue]:
                    book.undecided += 1
                else:
                    lost.append(name)
            book.dropped[queue].add(name)
    if lost:
        problem(f"{queue}: lost {len(lost)} of {len(lost) + len(found)} confirmed and unacknowledged messages, "
                f"the first {lost[:5]}; {describe(book, queue, lost, found, killed_at)}; "
                f"{channel.count(queue)[0]} more became ready since")
    last = {}
    for origin, number in found:
        if number < last.get(origin, -1):
            problem(f"{queue}: after the restart {(origin, number)} stands behind {(origin, last[origin])}")
        last[origin] = number
    if order_seen:  # a lone consumer saw the order of all producers together
        place = {name: at for at, name in enumerate(order_seen)}
        places = [place[name] for name in found if name in place]
        if places != sorted(places):
            problem(f"{queue}: after the restart messages stand in another order than they were delivered in")
    for name in found:
        book.survived[queue][name] = True
        # It came back although it had been acknowledged just before the end: that acknowledgement did not happen.
        book.settled[queue].pop(name, None)
        book.tried[queue].discard(name)
    # Cancelled first: what is given back would come at once again.
    channel.call("basic.cancel", consumer_tag=tag)
    if empty and found:
        channel.send("basic.ack", delivery_tag=0, multiple=True)
        now = time.monotonic()
        book.settled[queue].update((name, now) for name in found)
    else:
        channel.send("basic.nack", delivery_tag=0, multiple=True, requeue=True)
    channel.call("channel.close", reply_code=200)
    return len(found)


class run_of_load:
    """Producers and consumers together, from their start to the broker's end."""

    def __init__(self, book, node, chance, round_number, producers=3, consume=True, on_confirm=None, **options):
        self.book = book
        self.producers = [producer(book, node.connect(), round_number * 10 + n, random.Random(chance.random()),
                                   on_confirm=on_confirm, **options) for n in range(producers)]
        self.consumers = []
        if consume:
            for queue, count in (("plain", 2), ("direct", 1), ("topic", 1), ("headers", 1)):
                self.consumers += [consumer(book, node.connect(), queue, random.Random(chance.random()), alone=count == 1)
                                   for _ in range(count)]
        for each in self.consumers + self.producers:
            each.start()

    def finish(self):
        for each in self.producers + self.consumers:
            each.stopping = True
        for each in self.producers + self.consumers:
            each.join(30)
            if each.is_alive():
                raise AssertionError("a load thread hangs")
            each.connection.drop()

    def order_seen(self):
        return {each.queue: each.seen for each in self.consumers if each.alone}


def judge_late(book, killed_at, slowest_sync):
    """Late acknowledgements are problems, unless the disk itself took too many seconds for a sync: then the round is repeated."""
    late, book.late = book.late, []
    if late and slowest_sync >= DISK_STOOD_STILL:
        book.repeated += 1
    elif late:
        book.problems += [f"(the last commit that a producer saw was {last_commit(book, killed_at):.3f} s before the end; the "
                          f"disk took up to {slowest_sync:.3f} s to sync 4 KiB beside the store)"] + late


def check_all(book, node, killed_at, order_seen=None, empty=False, slowest_sync=0.0):
    """Checks all queues. `slowest_sync`: the seconds that the disk itself took, if that was measured."""
    with node.connect() as connection:
        found = sum(check_queue(book, connection, 1 + at, queue, killed_at, (order_seen or {}).get(queue, ()), empty)
                    for at, queue in enumerate(QUEUES))
    judge_late(book, killed_at, slowest_sync)
    return found


def judged_rounds(book, count):
    """The numbers of rounds to run until `count` of them were judged in full. A disk that keeps standing still ends the test."""
    number, before = 0, book.repeated
    while number - (book.repeated - before) < count:
        if book.repeated > 2 + count // 4:
            raise AssertionError(f"the disk stood still for over {DISK_STOOD_STILL} s in {book.repeated} rounds in which "
                                 "acknowledgements were late: they cannot be judged on it")
        number += 1
        yield number
