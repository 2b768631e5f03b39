"""What a hostile or broken client may send: never a crash, a hang or memory that stays."""
import contextlib
import os
import random
import resource
import socket
import struct
import time

import amqp_raw
from amqp_raw import PROTOCOL_HEADER, field, frame, header_payload, longstr, method_payload, shortstr, table
from harness import poll, require

MEMORY_TOLERANCE = 48 << 20


@contextlib.contextmanager
def unharmed(t, environment=None):
    """A node that afterwards lives, serves, has let go of all connections and gives the memory back."""
    node = t.node(environment=environment)
    use(node)
    before = settled_memory(node)
    descriptors = open_descriptors(node)
    yield node
    require(not node.exited(), f"the node died: {node.process.returncode}")
    use(node)
    poll("the dead connections are let go", lambda: open_descriptors(node) <= descriptors + 5, 15)
    # What the allocator keeps between what is in use, an idle node gives back within some seconds.
    after = 0

    def is_given_back():
        nonlocal after
        after = settled_memory(node)
        return after - before < MEMORY_TOLERANCE

    try:
        poll("the memory is given back", is_given_back, 30)
    finally:
        t.note(f"own memory {before >> 20} MiB before, {after >> 20} MiB after")


def use(node):
    with node.connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        channel.publish("", queue, b"still here")
        require(channel.get(queue).body == b"still here", "the node serves")


def open_descriptors(node):
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


def settled_memory(node):
    """RssAnon once it no longer falls."""
    last = node.rss_anon()
    for _ in range(20):
        until = time.monotonic() + 0.1
        poll("a moment", lambda: time.monotonic() > until)
        now = node.rss_anon()
        if now >= last:
            return now
        last = now
    return last


def send_and_drop(node, octets, read=0.0):
    """Sends what may be refused half-way; reads for a moment if asked; drops."""
    with contextlib.suppress(OSError):
        with socket.create_connection(("127.0.0.1", node.port), 5) as sock:
            sock.settimeout(5)
            sock.sendall(octets)
            if read:
                sock.settimeout(read)
                while sock.recv(65536):
                    pass


HANDSHAKE = (PROTOCOL_HEADER
             + frame(1, 0, method_payload("connection.start-ok", mechanism="PLAIN", response="\0guest\0guest", locale="en_US"))
             + frame(1, 0, method_payload("connection.tune-ok", channel_max=2047, frame_max=131072))
             + frame(1, 0, method_payload("connection.open", virtual_host="/"))
             + frame(1, 1, method_payload("channel.open")))


def test_random_octets(t):
    with unharmed(t) as node:
        for n in range(300):
            start = (b"", PROTOCOL_HEADER, HANDSHAKE)[n % 3]
            send_and_drop(node, start + t.random.randbytes(t.random.choice((1, 7, 8, 100, 5000, 200_000))))


def test_random_frames(t):
    """Well-formed frames around random payloads reach deeper than random octets."""
    with unharmed(t) as node:
        names = list(amqp_raw.METHODS)
        for _ in range(300):
            octets = HANDSHAKE
            for _ in range(t.random.randint(1, 10)):
                kind = t.random.choice((1, 1, 1, 2, 3, 8, 9))
                payload = t.random.randbytes(t.random.choice((0, 1, 4, 20, 300)))
                if kind == 1 and t.random.random() < 0.8:
                    payload = struct.pack(">HH", *amqp_raw.METHODS[t.random.choice(names)][:2]) + payload
                octets += frame(kind, t.random.choice((0, 1, 1, 1, 2, 65535)), payload)
            send_and_drop(node, octets, read=0.02)


def test_mutated_sessions(t):
    """A good session with a few octets changed, cut out, or doubled."""
    session = HANDSHAKE
    for name, arguments in (("queue.declare", {"queue": "m", "exclusive": True, "arguments": {"a": 1, "b": {"c": ["d"]}}}),
                            ("queue.bind", {"queue": "m", "exchange": "amq.topic", "routing_key": "a.#"}),
                            ("confirm.select", {}), ("basic.qos", {"prefetch_count": 5}),
                            ("basic.consume", {"queue": "m", "consumer_tag": "t"})):
        session += frame(1, 1, method_payload(name, **arguments))
    session += amqp_raw.publish_frames("amq.topic", "a.b", b"x" * 5000, {"headers": {"k": "v"}, "delivery_mode": 2})
    session += frame(1, 1, method_payload("basic.ack", delivery_tag=1))
    with unharmed(t) as node:
        for _ in range(400):
            octets = bytearray(session)
            for _ in range(t.random.randint(1, 5)):
                at = t.random.randrange(len(octets))
                what = t.random.randrange(4)
                if what == 0:
                    octets[at] = t.random.randrange(256)
                elif what == 1:
                    del octets[at:at + t.random.randint(1, 20)]
                elif what == 2:
                    octets[at:at] = octets[at:at + t.random.randint(1, 50)]
                else:
                    octets[at:at + 4] = struct.pack(">I", t.random.choice((0, 0xFFFFFFFF, 0x7FFFFFFF, 131072)))
            send_and_drop(node, bytes(octets), read=0.01)


def test_truncated_at_every_place(t):
    """A session that ends after each of its octets."""
    session = HANDSHAKE + amqp_raw.publish_frames("", "none", b"body", {"headers": {"k": [1, {"a": None}]}})
    with unharmed(t) as node:
        for size in range(len(session)):
            send_and_drop(node, session[:size])


def test_oversized_frames(t):
    with unharmed(t) as node:
        for start, size in ((PROTOCOL_HEADER, 0xFFFFFFFF), (PROTOCOL_HEADER, 0x7FFFFFF0), (PROTOCOL_HEADER, 1 << 20),
                            (HANDSHAKE, 0xFFFFFFFF), (HANDSHAKE, 131_073)):
            for kind in (1, 2, 3, 8):
                send_and_drop(node, start + struct.pack(">BHI", kind, 1, size) + b"x" * 300_000, read=0.1)
        # Announced bodies that never come must not be paid for in advance.
        held = []
        for size in (2**64 - 1, 2**63, 2**40, 500 << 20):
            for _ in range(20):
                connection = node.connect()
                connection.channel()
                connection.send_raw(frame(1, 1, method_payload("basic.publish", routing_key="none"))
                                    + frame(2, 1, header_payload(size)) + frame(3, 1, b"x" * 1000))
                held.append(connection)
        use(node)
        require(node.rss_anon() < 400 << 20, f"{node.rss_anon() >> 20} MiB for bodies that were only announced")
        for connection in held:
            connection.drop()


def nested(letter, depth):
    """A field of tables in tables, or of arrays in arrays."""
    value = b"V"
    for _ in range(depth):
        value = letter + longstr(shortstr("k") + value if letter == b"F" else value)
    return value


def test_deep_and_huge_tables(t):
    with unharmed(t) as node:
        tables = [longstr(shortstr("k") + nested(letter, depth)) for letter in (b"F", b"A") for depth in (1000, 10_000)]
        tables.append(table({f"key{n}": n for n in range(8_000)}))
        tables.append(longstr(b"".join(shortstr("same") + field(n) for n in range(10_000))))
        tables.append(longstr(b"\x00V" * 50_000))
        tables.append(longstr(shortstr("k") + b"A" + longstr(b"V" * 100_000)))
        tables.append(longstr(shortstr("k") + b"S" + struct.pack(">I", 0xFFFFFFFF)))
        tables.append(longstr(shortstr("k") + b"S" + longstr(b"x" * 120_000)))
        for arguments in tables:
            if len(arguments) > 131_000:
                continue
            name = t.unique("t")
            # In a declaration, a binding, a consumer, a login, and in a message's headers on its way through.
            declare = method_payload("queue.declare", queue=name, exclusive=True)[:-4] + arguments
            bind = method_payload("queue.bind", queue=name, exchange="amq.headers")[:-4] + arguments
            properties = struct.pack(">HHQH", 60, 0, 1, 1 << 13) + arguments
            publish = frame(1, 1, method_payload("basic.publish", exchange="amq.headers")) + frame(2, 1, properties) \
                + frame(3, 1, b"x")
            plain = frame(1, 1, method_payload("queue.declare", queue=name, exclusive=True))
            for octets in (frame(1, 1, declare), plain + frame(1, 1, bind), plain + publish):
                send_and_drop(node, HANDSHAKE + octets, read=0.3)
            login = method_payload("connection.start-ok")[:4] + arguments + shortstr("PLAIN") + longstr("\0guest\0guest") \
                + shortstr("en_US")
            send_and_drop(node, PROTOCOL_HEADER + frame(1, 0, login), read=0.3)


def test_deep_headers_come_back_as_they_were(t):
    """What only passes through is not looked into: the octets return unchanged, whatever their depth."""
    with unharmed(t) as node, node.connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        for depth in (10, 100, 1000):
            headers = longstr(shortstr("k") + nested(b"F", depth))
            payload = struct.pack(">HHQH", 60, 0, 0, 1 << 13) + headers
            connection.send_raw(frame(1, 1, method_payload("basic.publish", routing_key=queue)) + frame(2, 1, payload))
            channel.send("basic.get", queue=queue, no_ack=True)
            got = []
            try:
                while len(got) < 2:
                    got.append(connection.read_frame())
            except amqp_raw.gone:
                break
            name = amqp_raw.decode_method(got[0][2]).name
            if name == "connection.close":
                break  # a limit on depth is an answer too, if the protocol tells it
            require(got[1][2].endswith(headers), f"headers of depth {depth} came back different")


def test_half_open_connections(t):
    """10,000 connections that say nothing, half a header, or leave in the midst of the login."""
    waves, per_wave = 20, 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < per_wave + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    with unharmed(t) as node:
        for wave in range(waves):
            sockets = []
            for n in range(per_wave):
                sock = socket.create_connection(("127.0.0.1", node.port), 10)
                start = (b"", PROTOCOL_HEADER[:5], PROTOCOL_HEADER, HANDSHAKE[:60])[n % 4]
                if start:
                    sock.sendall(start)
                sockets.append(sock)
            if wave % 5 == 0:
                use(node)
            for sock in sockets:
                if wave % 2:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
                sock.close()
        require(not node.exited(), "the node died")


def test_a_slow_handshake_is_dropped(t):
    with unharmed(t, environment={"POSTHORN_AMQP_HANDSHAKE_TIMEOUT": "1 s"}) as node:
        login = PROTOCOL_HEADER + frame(1, 0, method_payload("connection.start-ok", mechanism="PLAIN",
                                                             response="\0guest\0guest", locale="en_US"))
        for sent in (b"", PROTOCOL_HEADER[:4], PROTOCOL_HEADER, login, HANDSHAKE[:len(login) + 5]):
            connection = node.raw()
            since = time.monotonic()
            connection.send_raw(sent)
            connection.wait_gone(6)
            took = time.monotonic() - since
            connection.drop()
            require(0.5 < took < 5, f"after {len(sent)} octets of handshake it took {took:.2f} s")
        # One octet at a time does not extend it.
        connection, since, at = node.raw(), time.monotonic(), 0
        with contextlib.suppress(amqp_raw.gone):
            while time.monotonic() - since < 6:
                connection.send_raw(login[at:at + 1])
                at += 1
                with contextlib.suppress(TimeoutError):
                    connection.read_some(0.2)
        require(time.monotonic() - since < 5, "a dripping handshake is dropped too")
        # An opened connection stays.
        with node.connect() as connection:
            until = time.monotonic() + 2
            poll("two timeouts pass", lambda: time.monotonic() > until, interval=0.1)
            connection.channel().queue(exclusive=True)


def never_read(node):
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("big", durable=True)
        channel.call("confirm.select")
        for _ in range(400):
            channel.publish("", "big", b"x" * 500_000, delivery_mode=2)
        channel.confirm(timeout=60)
        stuck = []
        for _ in range(4):
            each = node.connect()
            each.channel().call("basic.qos", prefetch_count=0)
            each.send(1, "basic.consume", queue="big")
            stuck.append(each)
        poll("they take what they can", lambda: channel.count("big")[1] == 4)
        use(node)
        require(node.rss_anon() < 512 << 20, f"{node.rss_anon() >> 20} MiB for clients that do not read")
        for each in stuck:
            each.drop()
        poll("all is back", lambda: channel.count("big") == (400, 0), 20)
        channel.call("queue.delete", queue="big")


def test_clients_that_never_read(t):
    """Deliveries to clients that do not read wait in bounded memory, which an idle node gives back."""
    with unharmed(t) as node:
        for _ in range(3):
            never_read(node)


def test_many_channels_and_floods(t):
    """Thousands of channels, queues and small methods without ever reading an answer."""
    with unharmed(t) as node:
        chance = random.Random(t.random.random())
        with node.connect() as connection:
            for n in range(1, 2048):
                connection.send(n, "channel.open")
            for n in range(1, 2048):
                connection.wait(n, "channel.open-ok")
        octets = HANDSHAKE + frame(1, 1, method_payload("queue.declare", exclusive=True))
        octets += frame(1, 1, method_payload("queue.declare", passive=True)) * 20_000
        for _ in range(3):
            send_and_drop(node, octets[:chance.randrange(len(octets))])
