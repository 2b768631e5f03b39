"""Behaviours 68 to 79: opening, permissions, alarms, closing, tables. One test for each number of the reference list.

| number | where else it is tested |
| --- | --- |
| 69 | closes.failed_login_69; from elsewhere: lifecycle.guest_only_from_loopback_69, guest_from_mapped_loopback_69 |
| 72 | closes.tune_ok_above_the_offer_72 |
| 73 | closes: channel_life_cycle_73, after_a_server_close_the_channel_ignores_all_until_close_ok_73 |
| 74 | lifecycle: the_node_sends_heartbeats_74, a_silent_client_is_dropped_74, any_octet_counts_as_life_74, |
|    | heartbeat_zero_switches_them_off_74 |
| 75 | faults.blocked_only_if_the_client_asked_75; reasons, and who is told: here |
| 76 | shutdown: lifecycle.sigterm_tells_the_clients_and_ends_in_time; by the operator: here |
| 78 | protocol.properties_and_header_types_round_trip_78; times, unknown letters: here |
| 79 | #1608: protocol.topic_exchange_34. #1557: 31. #1723, #1244: 65. #1344, #1921: 45, 51. #996, #976: 49. #1999, #1813: 32. |
|    | #1980: 73. #1958: 26. #1705: 78. #1811: 12. #1871: lifecycle.guest_from_mapped_loopback_69. #1429, #1887, #1714: here |
"""
import contextlib
import time
from concurrent import futures

from amqp_raw import closed, field, frame, gone, method_payload, publish_frames, reader, typed
from behaviours_administration import administration, own_user, own_vhost, undo
from behaviours_stage import (asker, bodies, connect, elapsed, get_soon, kept_queue, line, open_channel, own_queue, publish,
                              refusal, refused, same, silent, wait_for)
from harness import equal, poll, require

OPEN, NONE = (10, 40), (0, 0)


def test_protocol_headers_68(t):
    pairs, own = [], b"AMQP\x00\x00\x09\x01"
    other = b"AMQP\x03\x01\x00\x00" if t.suite.peer else own  # RabbitMQ asks those for AMQP 1.0, which is not spoken here
    for header, expected in (
            (b"HTTP/1.1", other), (b"AMQP\x00\x02\x00\x00", other), (b"AMQP\x09\x09\x09\x09", other),
            (b"AMQP\x01\x01\x09\x01", other), (b"AMQP\x00\x00\x08\x00", other), (b"amqp\x00\x00\x09\x01", other),
            (b"AMQP\x00\x00\x09\x00", own), (b"AMQP\x00\x00\x09\x02", own), (b"AMQP\x00\x00\x0a\x00", own)):
        connection = t.shared_node().raw()
        t.on_exit(connection.drop)
        connection.send_raw(header)
        with contextlib.suppress(TimeoutError):
            connection.wait_gone(5)
            pairs.append((header, bytes(connection.buffer), expected))
            continue
        pairs.append((header, "still connected", expected))
    same(pairs)
    connection = t.shared_node().raw()
    t.on_exit(connection.drop)
    connection.send_raw(b"AMQP\x01\x01\x00\x09")
    start = connection.wait(0, "connection.start")
    equal((start.version_major, start.version_minor), (0, 9), "0-9 is accepted")


def login(t, **arguments):
    """How a login ends: `open`, its close, or `gone`; and after how many seconds."""
    connection = t.shared_node().raw()
    t.on_exit(connection.drop)
    since = time.monotonic()
    try:
        connection.open(**arguments)
        return "open", elapsed(since)
    except closed as close:
        return line(close), elapsed(since)
    except gone:
        return "gone", elapsed(since)


def test_failed_login_69(t):
    def text(mechanism):
        return refusal(403, f"Login was refused using authentication mechanism {mechanism}. For details see the broker "
                       "logfile.", NONE, "connection")
    same([
        ("wrong password", login(t, password="wrong")[0], text("PLAIN")),
        ("unknown user", login(t, user="nobody")[0], text("PLAIN")),
        ("AMQPLAIN", login(t, password="wrong", mechanism="AMQPLAIN")[0], text("AMQPLAIN")),
        ("AMQPLAIN, right", login(t, mechanism="AMQPLAIN")[0], "open"),
    ])
    for user in (b"somebody", b"guests"):
        answer, _ = login(t, response=user + b"\0guest\0guest")
        require(answer != "open", f"guest acted for {user}")
    answer, seconds = login(t, password="wrong", capabilities={})
    equal(answer, "gone", "who cannot be told gets the end only")
    require(2 < seconds < 5, f"after {seconds:.2f} s, so that guessing is slow")


def test_vhosts_70(t):
    same([("missing", login(t, vhost="nowhere")[0], refusal(530, "vhost nowhere not found", OPEN))])


def test_vhost_access_and_limits_70(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    user = own_user(t, operator, **{vhost: (".*", ".*", ".*")})
    stranger = own_user(t, operator, stem="stranger")
    same([("denied", login(t, vhost=vhost, user=stranger, password="secret")[0],
           refusal(530, f"access to vhost '{vhost}' refused for user '{stranger}'", OPEN)),
          ("allowed", login(t, vhost=vhost, user=user, password="secret")[0], "open")])
    limited = own_vhost(t, operator, users=("guest", user))
    operator.set_vhost_limit(limited, "max-connections", 1)
    connect(t, vhost=limited)
    same([("second connection", login(t, vhost=limited)[0],
           refusal(530, f"access to vhost '{limited}' refused for user 'guest': connection limit (1) is reached", OPEN))])
    busy = own_user(t, operator, stem="busy", **{vhost: (".*", ".*", ".*")})
    operator.set_user_limit(busy, "max-connections", 1)
    first = connect(t, vhost=vhost, user=busy, password="secret")
    same([("second of a user", login(t, vhost=vhost, user=busy, password="secret")[0],
           refusal(530, f"connection refused for user '{busy}': user connection limit (1) is reached", OPEN))])
    first.close()
    operator.set_user_limit(busy, "max-channels", 2)
    poll("room for a connection", lambda: login(t, vhost=vhost, user=busy, password="secret")[0] == "open" or None, 5)


def test_user_channel_limit_70(t):
    operator = administration(t)
    user = own_user(t, operator, **{"/": (".*", ".*", ".*")})
    operator.set_user_limit(user, "max-channels", 1)
    connection = connect(t, user=user, password="secret")
    connection.channel(1)
    with refused(530, f"number of channels opened for user '{user}' has reached the maximum allowed user limit of 1", NONE):
        connection.channel(2)


def test_permissions_71(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    made = open_channel(t, vhost=vhost)
    for name in ("q", "other"):
        made.queue(name, durable=True)
        made.exchange("x." + name, "direct", durable=True)

    users = {}

    def case(what, rules, method, needs, within, **arguments):
        """One request by a user of these rules alone (configure, write, read)."""
        if rules not in users:
            users[rules] = own_user(t, operator, **{vhost: rules})
        user = users[rules]
        ask = asker(t, vhost=vhost, user=user, password="secret")
        answer = ask.publish(**arguments) if method == "publish" else ask(method, **arguments)
        expected = refusal(403, f"{needs} in vhost '{vhost}' refused for user '{user}'", within) if needs else "ok"
        return what, answer, expected
    queue, exchange = {"queue": "q"}, {"exchange": "x.q"}
    binding = {"queue": "q", "exchange": "x.q"}
    no_configure, no_write, no_read = ("", ".*", ".*"), (".*", "", ".*"), (".*", ".*", "")
    none = t.unique("none")
    same([
        case("declare", no_configure, "queue.declare", "configure access to queue 'q'", (50, 10), durable=True, **queue),
        case("declare a new one", no_configure, "queue.declare", "configure access to queue 'n'", (50, 10), queue="n"),
        case("delete", no_configure, "queue.delete", "configure access to queue 'q'", (50, 40), **queue),
        case("exchange.declare", no_configure, "exchange.declare", "configure access to exchange 'x.q'", (40, 10),
             type="direct", durable=True, **exchange),
        case("exchange.delete", no_configure, "exchange.delete", "configure access to exchange 'x.q'", (40, 20), **exchange),
        case("bind: write to the queue", no_write, "queue.bind", "write access to queue 'q'", (50, 20), **binding),
        case("bind: read from the exchange", no_read, "queue.bind", "read access to exchange 'x.q'", (50, 20), **binding),
        case("unbind", no_write, "queue.unbind", "write access to queue 'q'", (50, 50), **binding),
        case("exchange.bind: write", no_write, "exchange.bind", "write access to exchange 'x.other'", (40, 30), source="x.q",
             destination="x.other"),
        case("exchange.bind: read", no_read, "exchange.bind", "read access to exchange 'x.q'", (40, 30), source="x.q",
             destination="x.other"),
        case("publish", no_write, "publish", "write access to exchange 'x.q'", (60, 40), key="k", **exchange),
        case("publish to the default exchange", no_write, "publish", "write access to exchange 'amq.default'", (60, 40),
             exchange="", key="q"),
        case("get", no_read, "basic.get", "read access to queue 'q'", (60, 70), **queue),
        case("consume", no_read, "basic.consume", "read access to queue 'q'", (60, 20), **queue),
        case("purge", no_read, "queue.purge", "read access to queue 'q'", (50, 30), **queue),
        case("a pattern that fits", ("", "", "^q$"), "basic.get", "", NONE, **queue),
        case("a pattern is searched for, not matched whole", ("", "", "the"), "basic.get", "", NONE, queue="other"),
        case("permission comes before existence", no_read, "basic.get", f"read access to queue '{none}'", (60, 70), queue=none),
        case("server-named queues", ("^amq\\.gen-.*$", "", ""), "queue.declare", "", NONE, queue="", exclusive=True),
    ])


def test_topic_permissions_71(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    open_channel(t, vhost=vhost).exchange("topic", "topic", durable=True)
    user = own_user(t, operator, **{vhost: (".*", ".*", ".*")})
    operator.set_topic_permissions(user, vhost, "topic", "^w[.]", "^r[.]")
    ask = asker(t, vhost=vhost, user=user, password="secret")
    queue = own_queue(t, ask.channel)

    def needs(access, key, within):
        return refusal(403, f"{access} access to topic '{key}' in exchange 'topic' in vhost '{vhost}' refused for user "
                       f"'{user}'", within)
    same([
        ("write", ask.publish("topic", "w.1"), "ok"),
        ("write, refused", ask.publish("topic", "r.1"), needs("write", "r.1", (60, 40))),
        ("read", ask("queue.bind", queue=queue, exchange="topic", routing_key="r.#"), "ok"),
        ("read, refused", ask("queue.bind", queue=queue, exchange="topic", routing_key="w.#"), needs("read", "w.#", (50, 20))),
        ("another exchange", ask.publish("amq.topic", "r.1"), "ok"),
    ])


def test_tune_ok_72(t):
    """RabbitMQ writes the reason to its log only and hangs up after three seconds; a close that says it is as good."""
    cases = [
        ({"channel_max": 65535}, "negotiated channel_max = 65535 is higher than the maximum allowed value (2047)"),
        ({"channel_max": 0}, "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)"),
        ({"frame_max": 131073}, "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)"),
        # The protocol's own floor is 4096. RabbitMQ 4.3 asks for 8192.
        ({"frame_max": 4095}, "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)")]
    with futures.ThreadPoolExecutor() as pool:  # they take their time, all at once
        answers = list(pool.map(lambda case: login(t, **case[0])[0], cases))
    for (arguments, text), answer in zip(cases, answers):
        if not t.suite.peer or answer != "gone":
            equal(answer, refusal(530, text, (10, 31)), f"{arguments}")
    same([("less", login(t, channel_max=1, frame_max=8192, heartbeat=600)[0], "open")])


def test_channel_limit_72(t):
    connection = connect(t, channel_max=3)
    for n in (1, 2, 4):
        connection.channel(n)  # what counts is how many there are
    with refused(530, "number of channels opened (3) has reached the negotiated channel_max (3)", NONE):
        connection.channel(3)


def test_channels_73(t):
    within = {"queue.declare": (50, 10), "channel.close": (20, 40), "channel.flow": (20, 20), "basic.qos": (60, 10)}

    def answer(channel_id, method, prepare=lambda connection: None):
        connection = connect(t)
        prepare(connection)
        connection.send(channel_id, method)
        try:
            connection.wait(channel_id, "nothing", timeout=2)
        except closed as close:
            return line(close)
        except TimeoutError:
            return "nothing"

    def closed_before(connection):
        connection.channel(5).call("channel.close", reply_code=200)
    pairs = [("open twice", answer(5, "channel.open", lambda connection: connection.channel(5)),
              refusal(504, "second 'channel.open' seen", (20, 10)))]
    for method, ids in within.items():
        expected = refusal(504, "expected 'channel.open'", ids)
        pairs += [(f"{method}, never opened", answer(5, method), expected),
                  (f"{method}, closed", answer(5, method, closed_before), expected)]
    unexpected = "unexpected method in connection state running"
    pairs += [(f"{method} on channel 0", answer(0, method), refusal(504, unexpected, ids)) for method, ids in (
        ("channel.open", (20, 10)), ("queue.declare", (50, 10)), ("connection.open", OPEN), ("connection.start-ok", (10, 11)))]
    pairs += [("connection.close on a channel", answer(1, "connection.close", lambda connection: connection.channel(1)),
               refusal(503, "unimplemented method", (10, 50)))]
    same(pairs)


def test_after_a_server_close_73(t):
    connection = connect(t)
    channel = connection.channel()
    queue, none = own_queue(t, channel), t.unique("none")
    publish(channel, queue, b"held")
    held = channel.get(queue)
    for octets in (frame(1, 1, method_payload("queue.declare", queue=none, passive=True)),
                   publish_frames("", queue, b"lost"), frame(1, 1, method_payload("basic.ack", delivery_tag=held.delivery_tag)),
                   frame(1, 1, method_payload("queue.declare", queue=queue, passive=True))):
        connection.send_raw(octets)
    with refused(404, f"no queue '{none}' in vhost '/'", (50, 10)):
        channel.wait("queue.declare-ok")
    channel.open()
    wait_for(channel, queue, 1)
    message = channel.get(queue, no_ack=True)
    equal((message.body, message.redelivered, message.delivery_tag), (b"held", True, 1), "a channel anew, its tags begin anew")


def test_blocked_75(t):
    operator = administration(t)
    undo(t, lambda: operator.clear_alarm("memory"))
    undo(t, lambda: operator.clear_alarm("disk"))
    publisher, unaware, idle = open_channel(t), open_channel(t, capabilities={}), open_channel(t)
    queue, read = kept_queue(t, idle), kept_queue(t, idle)
    for channel in (publisher, unaware):
        publish(channel, queue, b"before")
        publish(channel, read, b"to be read")
    operator.raise_alarm("memory")
    try:
        def blocked():
            """The alarm takes a moment to reach the connection, which then blocks with its next publish."""
            publisher.publish("", queue, b"while blocked")
            with contextlib.suppress(TimeoutError):
                return publisher.owner.wait(0, "connection.blocked", timeout=0.3)
        equal(poll("the publisher is told", blocked).reason, "low on memory")
        unaware.publish("", queue, b"while blocked")
        silent(unaware, "basic.ack")
        reading = open_channel(t)  # connections are still taken
        reading.consume(read)
        equal(bodies(reading.deliveries(2)), [b"to be read"] * 2, "consumers go on")
        reading.send("basic.ack", delivery_tag=0, multiple=True)
        wait_for(idle, read, 0)
        for channel in (idle, reading):
            require(not channel.owner.inbox[0], "who has not published is not told")
        operator.raise_alarm("disk")
        silent(idle, "nothing")
        idle.publish("", queue, b"while blocked by two")
        equal(idle.owner.wait(0, "connection.blocked").reason, "low on disk & memory")
        operator.clear_alarm("memory")
        silent(publisher, "basic.ack")
        require(not any(each.name == "connection.unblocked" for each in publisher.owner.inbox[0]), "one alarm is left")
    finally:
        operator.clear_alarm("disk")
        operator.clear_alarm("memory")
    publisher.owner.wait(0, "connection.unblocked")
    publisher.confirm()  # what waited in the socket is taken
    unaware.confirm()
    require(not any(each.name.startswith("connection.") for each in unaware.owner.inbox[0]), "told though it did not ask")
    require(not any(each.name == "connection.unblocked" for each in publisher.owner.inbox[0]), "unblocked once")


def test_closed_by_the_operator_76(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    connection = connect(t, vhost=vhost)
    channel = connection.channel()
    queue = channel.queue(exclusive=True).queue
    operator.close_connections(vhost, "Closed for a reason")
    with refused(320, "Closed for a reason", NONE):
        channel.wait("nothing")
    connection.wait_gone()
    equal(asker(t, vhost=vhost)("queue.declare", queue=queue, passive=True),
          refusal(404, f"no queue '{queue}' in vhost '{vhost}'", (50, 10)), "its exclusive queue is gone")


def test_update_secret_77(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    made = open_channel(t, vhost=vhost)
    for name in ("kept", "lost"):
        made.queue(name, durable=True)
    user = own_user(t, operator, **{vhost: (".*", ".*", ".*")})
    connection = connect(t, vhost=vhost, user=user, password="secret")
    channel = connection.channel()
    kept, lost = channel.consume("kept"), channel.consume("lost")
    connection.send(0, "connection.update-secret", new_secret="another", reason="a test")
    connection.wait(0, "connection.update-secret-ok")
    silent(channel, "basic.cancel")
    operator.set_permissions(user, vhost, "", "", "^kept$")
    connection.send(0, "connection.update-secret", new_secret="another", reason="a test")
    connection.wait(0, "connection.update-secret-ok")
    equal(channel.wait("basic.cancel").consumer_tag, lost)
    publish(made, "kept", b"still read")
    message = channel.wait("basic.deliver")
    equal((message.consumer_tag, message.body), (kept, b"still read"))
    operator.clear_permissions(user, vhost)
    connection.send(0, "connection.update-secret", new_secret="another", reason="a test")
    with refused(530, f"access to vhost '{vhost}' refused for user '{user}'", (10, 70)):
        connection.wait(0, "connection.update-secret-ok")


def test_field_tables_78(t):
    ask = asker(t)
    channel = ask.channel
    queue = own_queue(t, channel)
    headers = {letter: typed(letter, value) for letter, value in (
        ("b", -128), ("B", 255), ("s", -32768), ("u", 65535), ("I", -2**31), ("i", 2**32 - 1), ("l", -2**63),
        ("f", 0.25), ("d", -1e300), ("T", 2**63 + 1), ("D", (2, 12345)), ("x", b"\x00\xff"))}
    headers |= {"t": True, "f0": False, "S": "ütf", "V": None,
                "A": [typed("s", 1), "x", [None, typed("T", 5)], {"k": typed("b", 1)}],
                "F": {"inner": {"deep": [typed("u", 7)]}}, "empty": {}, "none": []}
    for stamp in (0, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1):
        publish(channel, queue, b"x", headers=headers, timestamp=stamp)
        properties = channel.get(queue, no_ack=True).properties
        equal(properties["timestamp"], stamp)
        same([(key, properties["headers"].get(key), value) for key, value in reader(field(headers)[1:]).table().items()])
    publish(channel, queue, b"x", headers={"L": typed("L", -5)})
    equal(channel.get(queue, no_ack=True).properties["headers"]["L"].value, -5, "L is signed, as l")
    publish(channel, queue, b"x", headers={"t": typed("t", 7)})
    equal(channel.get(queue, no_ack=True).properties["headers"], {"t": True}, "whatever is not zero is true")
    # A message that nobody could read is taken by nobody: not in its headers, nor deep in them.
    unknown = typed("U", b"\x00\x01")
    target = kept_queue(t, channel)
    for headers in ({"x": unknown}, {"BCC": [queue], "x": unknown}, {"f": {"a": [unknown]}}):
        connection = connect(t)
        connection.channel().publish("", target, b"x", headers=headers)
        answer = connection.wait(0, "connection.close", timeout=5)
        equal(answer.reply_code, 541 if t.suite.peer else 502, f"{headers}: {answer!r}")
        equal(channel.count(target), (0, 0), f"{headers}")
    for name, arguments in (("queue.declare", {"queue": "q"}), ("basic.consume", {"queue": queue})):
        connection = connect(t)
        connection.channel()
        connection.send(1, name, arguments={"x": typed("U", b"\x00\x01")}, **arguments)
        try:
            connection.wait(0, "nothing", timeout=5)
        except closed as close:
            equal((close.name, close.code), ("connection.close", 502), line(close))
        except gone:
            require(t.suite.peer, f"{name}: hung up, as RabbitMQ does")


def test_false_arguments_79(t):
    """LavinMQ #1429: a boolean argument may be false."""
    ask = asker(t)
    queue = t.unique("q")
    same([("false", ask("queue.declare", queue=queue, exclusive=True, arguments={"x-single-active-consumer": False}), "ok")])
    one, two = ask.channel.owner.channel(2), ask.channel.owner.channel(3)
    one.consume(queue)
    two.consume(queue)
    publish(ask.channel, queue, b"1", b"2")
    equal({one.wait("basic.deliver").body, two.wait("basic.deliver").body}, {b"1", b"2"}, "both are active")


def test_exclusive_consumers_leave_nothing_79(t):
    """LavinMQ #1887: what is exclusive is free again however its owner goes."""
    watcher = open_channel(t)
    queue = kept_queue(t, watcher)
    for leave in (lambda c: c.call("basic.cancel", consumer_tag="x"), lambda c: c.call("channel.close", reply_code=200),
                  lambda c: c.owner.close(), lambda c: c.owner.drop()):
        owner = open_channel(t)
        owner.consume(queue, "x", exclusive=True)
        leave(owner)
        wait_for(watcher, queue, 0, 0)


def test_expiry_over_a_restart_79(t):
    """LavinMQ #1714: what expired while the node was down is gone, and goes where it should, once it is up."""
    node = t.node()
    channel = node.connect().channel()
    channel.queue("dead", durable=True)
    channel.queue("q", durable=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"})
    channel.queue("idle", durable=True, arguments={"x-expires": 1000})
    publish(channel, "q", b"x", delivery_mode=2, expiration="300")
    code, _ = node.terminate()
    equal(code, 0)
    time.sleep(0.5)  # its time passes while the node is down
    node.start()
    with node.connect() as connection:
        channel = connection.channel()
        equal(get_soon(channel, "dead").body, b"x")
        equal(channel.count("q"), (0, 0))
