"""Connections and the node over time: heartbeats, restart, SIGTERM, and who may log in from where."""
import contextlib
import os
import socket
import time

import amqp_raw
from harness import closes, equal, poll, require, skip


def test_the_node_sends_heartbeats_74(t):
    connection = t.shared_node().connect(heartbeat=2)
    connection.channel()
    stop = time.monotonic() + 4.5
    while time.monotonic() < stop:
        with contextlib.suppress(TimeoutError):
            connection.pump(0.2)
        connection.send_raw(amqp_raw.frame(8, 0, b""))
    require(3 <= connection.heartbeats <= 7, f"{connection.heartbeats} heartbeats in 4.5 s of a 2 s interval")
    connection.close()


def test_a_silent_client_is_dropped_74(t):
    connection = t.shared_node().connect(heartbeat=1)
    connection.channel().queue(exclusive=True)
    since = time.monotonic()
    connection.wait_gone(8)
    took = time.monotonic() - since
    require(1.0 <= took <= 5.0, f"dropped after {took:.2f} s of silence at a 1 s interval")


def test_any_octet_counts_as_life_74(t):
    connection = t.shared_node().connect(heartbeat=1)
    channel = connection.channel()
    queue, stop = channel.queue(exclusive=True).queue, time.monotonic() + 5
    while time.monotonic() < stop:
        channel.publish("", queue, b"alive")
        with contextlib.suppress(TimeoutError):
            connection.pump(0.3)
    require(channel.count(queue)[0] > 5, "still connected")
    connection.close()


def test_heartbeat_zero_switches_them_off_74(t):
    connection = t.shared_node().connect(heartbeat=0)
    channel, stop = connection.channel(), time.monotonic() + 3
    while time.monotonic() < stop:
        with contextlib.suppress(TimeoutError):
            connection.pump(0.5)
    equal(connection.heartbeats, 0)
    channel.queue(exclusive=True)
    connection.close()


def test_restart_keeps_what_is_durable_and_drops_the_rest(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("durable", durable=True)
        if not transient_queues_refused(node):
            channel.queue("transient")
        channel.exchange("kept", "topic", durable=True)
        channel.exchange("kept.fanout", "fanout", durable=True)
        channel.exchange("lost", "direct")
        channel.bind("durable", "kept", "a.#")
        channel.bind("durable", "lost", "a")
        channel.bind("durable", "amq.headers", "", **{"x-match": "all", "n": 1, "s": "x"})
        channel.call("exchange.bind", source="kept.fanout", destination="kept", routing_key="")
        channel.call("confirm.select")
        for n in range(100):
            channel.publish("kept", "a.b", b"persistent %d" % n, delivery_mode=2, message_id=str(n), headers={"n": n})
            channel.publish("kept", "a.b", b"transient %d" % n, delivery_mode=1)
        channel.confirm()
    code, _ = node.terminate()
    equal(code, 0)
    node.start()
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("durable", durable=True)
        channel.exchange("kept", "topic", durable=True)
        for method, arguments in (("queue.declare", {"queue": "transient"}),
                                  ("exchange.declare", {"exchange": "lost", "type": "direct"})):
            with closes(404, "NOT_FOUND - …"):
                channel.call(method, passive=True, **arguments)
            channel.open()
        got = []
        while (answer := channel.get("durable", no_ack=True)).name == "basic.get-ok":
            got.append((answer.body, answer.properties["delivery_mode"], answer.properties.get("message_id")))
        equal(got, [(b"persistent %d" % n, 2, str(n)) for n in range(100)])
        channel.publish("kept.fanout", "a.x", b"by exchange binding")
        channel.publish("amq.headers", "", b"by headers", headers={"n": 1, "s": "x"})
        poll("the bindings are back", lambda: channel.count("durable")[0] == 2)


def transient_queues_refused(node):
    """Transient queues that are not exclusive are deprecated; a node may refuse them (11)."""
    connection = node.connect()
    try:
        connection.channel().queue("probe", auto_delete=True)
        connection.inbox.clear()
        connection.send(1, "queue.delete", queue="probe")
        connection.wait(1, "queue.delete-ok")
        return False
    except amqp_raw.closed as close:
        equal(close.code, 541)
        return True
    finally:
        connection.drop()


def test_deleted_things_stay_deleted(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        for name in ("a", "b"):
            channel.queue(name, durable=True)
            channel.exchange("x." + name, "direct", durable=True)
            channel.bind(name, "x." + name, "k")
        channel.call("confirm.select")
        for name in ("a", "b"):
            for n in range(10):
                channel.publish("x." + name, "k", b"%d" % n, delivery_mode=2)
        channel.confirm()
        channel.call("queue.delete", queue="a")
        channel.call("exchange.delete", exchange="x.b")
        channel.call("queue.purge", queue="b")
    node.kill()
    node.start()
    with node.connect() as connection:
        channel = connection.channel()
        equal(channel.count("b"), (0, 0))
        equal(channel.queue("a", durable=True).message_count, 0)
        channel.publish("x.a", "k", b"the binding went with its queue")
        channel.call("confirm.select")
        channel.exchange("x.b", "direct", durable=True)
        channel.publish("x.b", "k", b"the binding went with its exchange")
        channel.publish("", "b", b"marker")
        equal([channel.count("a")[0], channel.get("b").body], [0, b"marker"])


def test_sigterm_tells_the_clients_and_ends_in_time(t):
    node = t.node()
    idle = [node.connect() for _ in range(5)]
    busy = node.connect()
    channel = busy.channel()
    channel.queue("q", durable=True)
    channel.call("confirm.select")
    for n in range(2000):
        channel.publish("", "q", b"x" * 1000, delivery_mode=2)
    code, took = node.terminate()
    equal(code, 0, "exit code")
    require(took < 5, f"it took {took:.2f} s to end")
    for connection in [*idle, busy]:
        with closes(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", "connection"):
            connection.wait(0, "nothing", timeout=1)
    confirmed = 0
    for answer in busy.inbox[1]:
        if answer.name == "basic.ack":
            confirmed = max(confirmed, answer.delivery_tag) if answer.multiple else confirmed + 1
    node.start()
    with node.connect() as connection:
        require(connection.channel().count("q")[0] >= confirmed, "what was confirmed before the end is there")


def test_sigterm_with_clients_that_do_not_read(t):
    node = t.node()
    stuck = node.connect()
    channel = stuck.channel()
    channel.queue("q", durable=True)
    for _ in range(200):
        channel.publish("", "q", b"x" * 100_000)
    channel.consume("q", no_ack=True)  # 20 MB come, and nobody reads them
    halfway = socket.create_connection(("127.0.0.1", node.port))
    halfway.sendall(b"AMQP")
    code, took = node.terminate()
    equal(code, 0, "exit code")
    require(took < 5, f"it took {took:.2f} s to end")
    halfway.close()
    stuck.drop()


def own_address():
    """An address of this machine that is not loopback; connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            raise skip("this machine has no address but loopback") from None
        address = probe.getsockname()[0]
    if address.startswith("127."):
        raise skip("this machine has no address but loopback")
    return address


def test_guest_only_from_loopback_69(t):
    node = t.node(amqp_host=own_address())
    connection = node.raw()
    with closes(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker "
                "logfile.", "connection"):
        connection.open()
    connection.drop()


def test_guest_from_mapped_loopback_69(t):
    """A socket for both families sees 127.0.0.1 as ::ffff:127.0.0.1, which is loopback too."""
    if not os.path.exists("/proc/net/if_inet6"):
        raise skip("no IPv6")
    t.node(amqp_host="*").connect().close()


def test_healthz_and_metrics(t):
    node = t.shared_node()
    if t.suite.peer:
        raise skip("the peer has none")
    status, text = node.http_get("/healthz")
    equal(status, 200, text)
    status, text = node.http_get("/metrics")
    equal(status, 200)
    require(any(line.startswith("# TYPE ") for line in text.splitlines()), "metrics in Prometheus text")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            float(line.rsplit(" ", 1)[1])
    equal(node.http_get("/nothing")[0], 404)
