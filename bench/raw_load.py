"""Load from bare sockets for bench/curves.py: frames are made beforehand and answers are counted, not decoded, so that one
Python process keeps a node busy over any number of queues and connections.

A delivery's size is known before it comes: names have a fixed length, and all bodies of a run the same size. Whatever does
not add up ends the measurement.

    raw_load.py probe PORT DIRECTORY     measures, until its standard input ends, and prints one line of JSON
"""
import gc
import json
import os
import pathlib
import select
import struct
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "e2e"))
import amqp_raw  # noqa: E402

PATIENCE = 120.0
CONFIRM_SIZE = 21
CONFIRM, REFUSAL = b"\x00\x3c\x00\x50", b"\x00\x3c\x00\x78"
PERSISTENT = {"delivery_mode": 2}


class wrong(Exception):
    """What came from the node is not what the load expects."""


def pipelined(channel, name, requests, block=1000):
    """Asks for all, a block at a time, and waits for each answer."""
    for at in range(0, len(requests), block):
        part = requests[at:at + block]
        channel.owner.send_raw(b"".join(
            amqp_raw.frame(amqp_raw.FRAME_METHOD, channel.id, amqp_raw.method_payload(name, **each)) for each in part))
        for _ in part:
            channel.wait(name + "-ok", timeout=PATIENCE)


def message(key, size, exchange="", properties=None, fill=b"x"):
    return amqp_raw.publish_frames(exchange, key, fill * size, PERSISTENT if properties is None else properties)


def delivery_size(tag_size, key_size, size, exchange_size=0, properties=None, frame_max=131072):
    """Bytes on the wire of one delivery of `size` octets."""
    head = 8 + 4 + 1 + tag_size + 8 + 1 + 1 + exchange_size + 1 + key_size
    content = 8 + len(amqp_raw.header_payload(0, PERSISTENT if properties is None else properties))
    return head + content + size + 8 * -(-size // (frame_max - 8))


class publisher:
    """A connection that sends batches, each (bytes, count of messages), with at most `window` unconfirmed messages."""

    def __init__(self, port, batches, window=5000):
        connection = amqp_raw.connection(port, timeout=PATIENCE).open()
        connection.channel().call("confirm.select")
        self.sock, self.batches, self.window = connection.sock, iter(batches), window
        self.sock.setblocking(False)
        self.sent = self.confirmed = 0
        self.out, self.answers, self.next = memoryview(b""), bytearray(), next(self.batches, None)

    @property
    def done(self):
        return self.next is None and not self.out and self.confirmed == self.sent

    def write(self):
        while True:
            while self.out:
                try:
                    self.out = self.out[self.sock.send(self.out):]
                except BlockingIOError:
                    return
            # A single message may be larger than the window.
            if self.next is None or (self.sent > self.confirmed and
                                     self.sent + self.next[1] - self.confirmed > self.window):
                return
            self.out = memoryview(self.next[0])
            self.sent += self.next[1]
            self.next = next(self.batches, None)

    def read(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise wrong("the node closed a publisher's connection")
        self.answers += data
        whole = len(self.answers) // CONFIRM_SIZE
        if whole:
            part = bytes(self.answers[:whole * CONFIRM_SIZE])
            if part.count(CONFIRM) < whole:
                raise wrong(f"a publisher was answered with {part[:200]!r}")
            self.confirmed = struct.unpack_from(">Q", part, (whole - 1) * CONFIRM_SIZE + 11)[0]
            del self.answers[:whole * CONFIRM_SIZE]
        self.write()


class consumer:
    """A connection that consumes from queues, and acknowledges all that came whenever `ack_every` messages did."""

    def __init__(self, port, queues, size_on_wire, prefetch=1000, ack_every=100, per_queue=1):
        connection = amqp_raw.connection(port, timeout=PATIENCE).open()
        channel = connection.channel()
        channel.call("basic.qos", prefetch_count=prefetch)
        self.sock, self.size, self.ack_every = connection.sock, size_on_wire, ack_every
        self.bytes = self.acknowledged = 0
        self.out = b""
        requests = [{"queue": queue, "consumer_tag": f"t{n:07d}"}
                    for n, queue in enumerate(queue for queue in queues for _ in range(per_queue))]
        for at in range(0, len(requests), 1000):
            pipelined(channel, "basic.consume", requests[at:at + 1000])
        if connection.partial or connection.inbox[1] or connection.buffer:
            raise wrong("deliveries came while consumers were added")
        self.sock.setblocking(False)

    @property
    def count(self):
        return self.bytes // self.size

    def read(self):
        data = self.sock.recv(1 << 20)
        if not data:
            raise wrong("the node closed a consumer's connection")
        self.bytes += len(data)
        if self.count - self.acknowledged >= self.ack_every:
            self.acknowledge()

    def acknowledge(self):
        if self.count == self.acknowledged:
            return
        self.acknowledged = self.count
        self.out += amqp_raw.frame(amqp_raw.FRAME_METHOD, 1, struct.pack(">HHQB", 60, 80, self.acknowledged, 1))
        self.write()

    def write(self):
        if self.out:
            try:
                self.out = self.out[self.sock.send(self.out):]
            except BlockingIOError:
                pass


def run(publishers, consumers=(), deliveries=0):
    """Until all is confirmed and `deliveries` came; returns the seconds that took."""
    poller = select.epoll()
    by_fd = {each.sock.fileno(): each for each in (*publishers, *consumers)}
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    began = heard = time.monotonic()
    waiting = set()
    for fd, each in by_fd.items():
        each.write()
        if each.out:
            waiting.add(fd)
            poller.modify(fd, select.EPOLLIN | select.EPOLLOUT)
    while not (all(each.done for each in publishers) and sum(each.count for each in consumers) >= deliveries):
        ready = poller.poll(1.0)
        now = time.monotonic()
        if ready:
            heard = now
        elif now - heard > PATIENCE:
            raise wrong(f"nothing came for {PATIENCE:g} s: {[(p.sent, p.confirmed) for p in publishers][:3]} sent and "
                        f"confirmed, {sum(c.count for c in consumers)} of {deliveries} delivered")
        else:
            for each in consumers:
                each.acknowledge()
        for fd, events in ready:
            each = by_fd[fd]
            if events & select.EPOLLOUT:
                each.write()
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                each.read()
            if bool(each.out) != (fd in waiting):
                waiting.symmetric_difference_update({fd})
                poller.modify(fd, select.EPOLLIN | (select.EPOLLOUT if each.out else 0))
    took = time.monotonic() - began
    for each in consumers:
        each.acknowledge()
        while each.out:
            select.select([], [each.sock], [], 1.0)
            each.write()
        if each.bytes % each.size:
            raise wrong(f"a consumer read {each.bytes} bytes, which are no whole deliveries of {each.size}")
    poller.close()
    return took


def run_paced(publishers, rate, count, frames):
    """`count` messages, one each 1/`rate` seconds from the next connection; until all is confirmed."""
    poller = select.epoll()
    by_fd = {each.sock.fileno(): each for each in publishers}
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    began = time.monotonic()
    give_up = began + count / rate + PATIENCE
    sent = 0
    before = sum(each.confirmed for each in publishers)
    while sum(each.confirmed for each in publishers) - before < count if sent >= count else True:
        now = time.monotonic()
        if now > give_up:
            raise wrong(f"{sent} of {count} were sent, and not all confirmed")
        due = min(count, int((now - began) * rate))
        for _ in range(due - sent):
            each = publishers[sent % len(publishers)]
            each.sock.send(frames)
            each.sent += 1
            sent += 1
        for fd, _ in poller.poll(0 if sent < due else 0.001):
            by_fd[fd].read()
    poller.close()
    return time.monotonic() - began


def batches(frames, count, per_batch=100):
    """`count` messages out of `frames`, in turn, as batches for a publisher."""
    made = {}
    for at in range(0, count, per_batch):
        first, size = at % len(frames), min(per_batch, count - at)
        if (first, size) not in made:
            if len(made) > 2000:
                made.clear()
            made[first, size] = b"".join(frames[(first + n) % len(frames)] for n in range(size))
        yield made[first, size], size


# --- the probe ----------------------------------------------------------------------------------------------------

def watch_disk(directory, seen, enough):
    """What a page and its sync take, of a file of its own: whatever stops this stops every commit, and is not the node's."""
    with open(os.path.join(directory, "probe"), "wb", buffering=0) as file:
        while not enough.wait(0.02):
            began = time.monotonic()
            os.pwrite(file.fileno(), os.urandom(4096), 0)
            os.fdatasync(file.fileno())
            seen.append((began, time.monotonic() - began))


def probe(port, directory, rate=1000):
    """Half of its messages go to a queue with a consumer, half to one without: how long until the delivery, and until the
    confirm, which the second kind gets only from the disk. Both queues and connections are its own."""
    try:
        os.nice(-10)
    except PermissionError:
        pass
    gc.disable()
    live, kept, reader = (amqp_raw.connection(port).open() for _ in range(3))
    for connection, queue in ((live, "probe-live"), (kept, "probe-kept")):
        connection.channel().queue(queue, durable=True)
    kept_channel = amqp_raw.channel(kept, 1)
    kept_channel.call("confirm.select")
    consuming = reader.channel()
    consuming.consume("probe-live", tag="probe", no_ack=True)
    size = delivery_size(5, len("probe-live"), 8)
    frames = {"live": message("probe-live", 8, fill=b"\0"), "kept": message("probe-kept", 8)}
    sent_at, delivered, confirmed = [], [], []
    poller = select.epoll()
    for each in (kept, reader, live):
        each.sock.setblocking(False)
    poller.register(kept.sock.fileno(), select.EPOLLIN)
    poller.register(reader.sock.fileno(), select.EPOLLIN)
    poller.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
    disk, enough = [], threading.Event()
    disk_watch = threading.Thread(target=watch_disk, args=(directory, disk, enough))
    disk_watch.start()
    print("ready", flush=True)
    deliveries, answers = bytearray(), bytearray()
    began, number, confirms, stop_at = time.monotonic(), 0, 0, None
    while stop_at is None or time.monotonic() < stop_at:
        now = time.monotonic()
        if stop_at is None and now >= began + number / rate:
            if number % 2 == 0:
                data = frames["live"][:-9] + struct.pack(">d", now) + amqp_raw.FRAME_END
                live.sock.send(data)
            else:
                sent_at.append(now)
                kept.sock.send(frames["kept"])
            number += 1
        wait = max(0.0, began + number / rate - time.monotonic()) if stop_at is None else 0.05
        for fd, _ in poller.poll(wait):
            now = time.monotonic()
            if fd == sys.stdin.fileno():
                poller.unregister(fd)
                stop_at = now + 0.5
            elif fd == reader.sock.fileno():
                deliveries += reader.sock.recv(1 << 16)
                while len(deliveries) >= size:
                    at = struct.unpack_from(">d", deliveries, size - 9)[0]
                    delivered.append((at, now - at))
                    del deliveries[:size]
            else:
                answers += kept.sock.recv(1 << 16)
                while len(answers) >= CONFIRM_SIZE:
                    tag = struct.unpack_from(">Q", answers, 11)[0]
                    confirmed += [(at, now - at) for at in sent_at[confirms:tag]]
                    confirms = tag
                    del answers[:CONFIRM_SIZE]
    now = time.monotonic()
    confirmed += [(at, now - at) for at in sent_at[confirms:]]
    enough.set()
    disk_watch.join()
    print(json.dumps({"delivered": delivered, "confirmed": confirmed, "disk": disk}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] != "probe":
        raise SystemExit(__doc__)
    probe(int(sys.argv[2]), sys.argv[3])
