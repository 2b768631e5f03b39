"""How the node says no: codes, texts and scopes. Numbers in names are those of the reference list of behaviours."""
import contextlib
import struct

from amqp_raw import (PROTOCOL_HEADER, closed, connection as raw_connection, frame, gone, header_payload, method_payload,
                      publish_frames, typed)
from harness import closes, equal, require, skip

LOCKED = ("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{}' in vhost '/'. It could be originally "
          "declared on another connection or the exclusive property value does not match that of the original "
          "declaration.")


@contextlib.contextmanager
def opened(t, **arguments):
    """A connection and its channel 1; the connection may be dead at the end."""
    connection = t.shared_node().connect(**arguments)
    try:
        yield connection, connection.channel()
    finally:
        connection.drop()


def test_redeclare_with_other_properties_1(t):
    with opened(t) as (_, channel):
        queue, exchange = t.unique("q"), t.unique("x")
        channel.queue(queue, durable=True)
        with closes(406, f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': received "
                    "'false' but current is 'true'", within=(50, 10)):
            channel.queue(queue)
        channel.open()
        with closes(406, f"PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue '{queue}' in vhost '/': "
                    "received 'true' but current is 'false'", within=(50, 10)):
            channel.queue(queue, durable=True, auto_delete=True)
        channel.open()
        channel.queue(queue, durable=True)
        channel.call("queue.delete", queue=queue)
        channel.exchange(exchange, "direct", durable=True)
        with closes(406, f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}' in vhost '/': "
                    "received 'fanout' but current is 'direct'", within=(40, 10)):
            channel.exchange(exchange, "fanout", durable=True)
        channel.open()
        with closes(406, f"PRECONDITION_FAILED - inequivalent arg 'durable' for exchange '{exchange}' in vhost '/': "
                    "received 'false' but current is 'true'", within=(40, 10)):
            channel.exchange(exchange, "direct")
        channel.open().call("exchange.delete", exchange=exchange)


def test_exclusive_queue_of_another_connection_5(t):
    with opened(t) as (_, owner), opened(t) as (_, channel):
        queue = owner.queue(t.unique("q"), exclusive=True).queue
        text = LOCKED.format(queue)
        attempts = [("queue.declare", {"queue": queue}), ("queue.declare", {"queue": queue, "passive": True}),
                    ("queue.declare", {"queue": queue, "exclusive": True}),
                    ("queue.bind", {"queue": queue, "exchange": "amq.direct"}), ("basic.consume", {"queue": queue}),
                    ("basic.get", {"queue": queue}), ("queue.purge", {"queue": queue}), ("queue.delete", {"queue": queue})]
        for name, arguments in attempts:
            with closes(405, text if len(text) <= 255 else text[:200] + "…"):
                channel.call(name, **arguments)
            channel.open()


def test_passive_declare_of_nothing_7(t):
    with opened(t) as (_, channel):
        queue = t.unique("none")
        with closes(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'", within=(50, 10)):
            channel.queue(queue, passive=True)
        channel.open()
        with closes(404, f"NOT_FOUND - no exchange '{queue}' in vhost '/'", within=(40, 10)):
            channel.exchange(queue, "direct", passive=True)
        channel.open()
        queue = channel.queue(exclusive=True).queue
        channel.queue(queue, passive=True, durable=True, auto_delete=True, arguments={"x-message-ttl": 5})


def test_things_that_are_not_there(t):
    with opened(t) as (_, channel):
        name = t.unique("none")
        queue = channel.queue(t.unique("q"), exclusive=True).queue
        no_queue = f"NOT_FOUND - no queue '{name}' in vhost '/'"
        for method, arguments, text, within in (
                ("basic.consume", {"queue": name}, no_queue, (60, 20)), ("basic.get", {"queue": name}, no_queue, (60, 70)),
                ("queue.purge", {"queue": name}, no_queue, (50, 30)),
                ("queue.bind", {"queue": name, "exchange": "amq.direct"}, no_queue, (50, 20)),
                ("queue.bind", {"queue": queue, "exchange": name}, f"NOT_FOUND - no exchange '{name}' in vhost '/'",
                 (50, 20))):
            with closes(404, text, within=within):
                channel.call(method, **arguments)
            channel.open()


def test_no_previously_declared_queue_8(t):
    for method in ("basic.consume", "basic.get", "queue.purge"):
        with opened(t) as (_, channel):
            with closes(404, "NOT_FOUND - no previously declared queue"):
                channel.call(method, queue="")


def test_reserved_names_9(t):
    with opened(t) as (_, channel):
        with closes(403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'", within=(50, 10)):
            channel.queue("amq.mine")
        channel.open()
        with closes(404, "NOT_FOUND - no queue 'amq.mine' in vhost '/'"):
            channel.queue("amq.mine", passive=True)
        channel.open()
        with closes(403, "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'", within=(40, 10)):
            channel.exchange("amq.mine", "direct")
        channel.open()
        with closes(403, "ACCESS_REFUSED - …", within=(40, 20)):
            channel.call("exchange.delete", exchange="amq.direct")


def test_unknown_exchange_type_12(t):
    if t.suite.peer:
        raise skip("an older peer answers 503")
    with opened(t) as (_, channel):
        with closes(406, "PRECONDITION_FAILED - invalid exchange type 'foo'", within=(40, 10)):
            channel.exchange(t.unique("x"), "foo")


def test_if_unused_and_if_empty_13(t):
    with opened(t) as (_, channel):
        queue, exchange = channel.queue(t.unique("q"), exclusive=True).queue, t.unique("x")
        channel.publish("", queue, b"x")
        with closes(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty", within=(50, 40)):
            channel.call("queue.delete", queue=queue, if_empty=True)
        channel.open().consume(queue)
        with closes(406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use", within=(50, 40)):
            channel.call("queue.delete", queue=queue, if_unused=True)
        channel.open().exchange(exchange, "direct")
        channel.bind(queue, exchange)
        with closes(406, f"PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use", within=(40, 20)):
            channel.call("exchange.delete", exchange=exchange, if_unused=True)
        channel.open().call("exchange.delete", exchange=exchange)


def test_default_exchange_is_not_to_be_touched_14(t):
    text = "ACCESS_REFUSED - operation not permitted on the default exchange"
    with opened(t) as (_, channel):
        queue = channel.queue(exclusive=True).queue
        for name, arguments in (("exchange.declare", {"exchange": "", "type": "direct"}), ("exchange.delete", {}),
                                ("queue.bind", {"queue": queue, "routing_key": "k"}),
                                ("queue.unbind", {"queue": queue, "routing_key": "k"})):
            with closes(403, text):
                channel.call(name, **arguments)
            channel.open()


def test_publish_to_an_unknown_exchange_21(t):
    with opened(t) as (_, channel):
        exchange = t.unique("none")
        channel.call("confirm.select")
        channel.publish(exchange, "k", b"x")
        with closes(404, f"NOT_FOUND - no exchange '{exchange}' in vhost '/'", within=(60, 40)):
            channel.wait("basic.ack", "basic.nack")


def test_publish_to_an_internal_exchange_22(t):
    with opened(t) as (_, channel):
        exchange = t.unique("internal")
        channel.exchange(exchange, "fanout", internal=True)
        channel.publish(exchange, "", b"x")
        with closes(403, f"ACCESS_REFUSED - cannot publish to internal exchange '{exchange}' in vhost '/'"):
            channel.wait("basic.ack")
        channel.open().call("exchange.delete", exchange=exchange)


def test_not_implemented_23_44_45(t):
    with opened(t) as (_, channel):
        channel.publish("", "k", b"x", immediate=True)
        with closes(540, "NOT_IMPLEMENTED - immediate=true", "connection", (60, 40)):
            channel.wait("basic.ack")
    for name, arguments, text, within in (("channel.flow", {"active": False}, "active=false", (20, 20)),
                                          ("basic.qos", {"prefetch_size": 7}, "prefetch_size!=0 (7)", (60, 10)),
                                          ("basic.recover", {"requeue": False}, "requeue=false", (60, 110))):
        with opened(t) as (_, channel):
            with closes(540, "NOT_IMPLEMENTED - " + text, "connection", within):
                channel.call(name, **arguments)


def test_invalid_x_match_34(t):
    with opened(t) as (_, channel):
        queue = channel.queue(exclusive=True).queue
        with closes(406, "PRECONDITION_FAILED - Invalid x-match field value …", within=(50, 20)):
            channel.bind(queue, "amq.headers", **{"x-match": "some"})


def test_consumer_tag_reuse_37(t):
    with opened(t) as (_, channel):
        queue = channel.queue(exclusive=True).queue
        channel.consume(queue, "tag")
        with closes(530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'", "connection", (60, 20)):
            channel.consume(queue, "tag")


def test_exclusive_consumer_38(t):
    with opened(t) as (connection, channel):
        queue = channel.queue(exclusive=True).queue
        text = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
        channel.consume(queue, exclusive=True)
        other = connection.channel(2)
        with closes(403, text, within=(60, 20)):
            other.consume(queue)
        with closes(403, text, within=(60, 20)):
            other.open().consume(queue, exclusive=True)
    with opened(t) as (connection, channel):
        queue = channel.queue(exclusive=True).queue
        channel.consume(queue)
        with closes(403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use", within=(60, 20)):
            connection.channel(2).consume(queue, exclusive=True)


def test_unknown_delivery_tags_41(t):
    with opened(t) as (connection, channel):
        queue = channel.queue(exclusive=True).queue
        for n in range(3):
            channel.publish("", queue, b"%d" % n)

        def refused(tag, within, name="basic.ack", **arguments):
            channel.send(name, delivery_tag=tag, **arguments)
            with closes(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}", within=within):
                channel.queue(queue, passive=True)
            channel.open()
        refused(1, (60, 80))
        got = channel.get(queue)
        channel.send("basic.ack", delivery_tag=got.delivery_tag)
        refused(got.delivery_tag, (60, 80))
        got = channel.get(queue)
        channel.send("basic.ack", delivery_tag=got.delivery_tag)
        refused(got.delivery_tag, (60, 80), multiple=True)
        refused(9, (60, 120), "basic.nack")
        refused(9, (60, 90), "basic.reject")
        got, channel.id = channel.get(queue), 2
        channel.open()
        refused(got.delivery_tag, (60, 80))


def test_bad_protocol_header_68(t):
    for header in (b"HTTP/1.1", b"AMQP\x00\x02\x00\x00", b"AMQP\x09\x09\x09\x09"):
        connection = t.shared_node().raw()
        connection.send_raw(header)
        try:
            connection.wait_gone(5)
        finally:
            connection.drop()
        answer = bytes(connection.buffer)
        require(answer in (b"AMQP\x00\x00\x09\x01", b"AMQP\x03\x01\x00\x00"), f"{header}: {answer}")


def refused_login(t, **arguments):
    connection = t.shared_node().raw()
    try:
        connection.open(**arguments)
    finally:
        connection.drop()


def test_failed_login_69(t):
    text = ("ACCESS_REFUSED - Login was refused using authentication mechanism {}. For details see the broker logfile.")
    for mechanism in ("PLAIN", "AMQPLAIN"):
        for user, password in (("guest", "wrong"), ("nobody", "guest"), ("", "")):
            with closes(403, text.format(mechanism), "connection"):
                refused_login(t, user=user, password=password, mechanism=mechanism)
    try:
        refused_login(t, password="wrong", capabilities={})
        raise AssertionError("a wrong password was taken")
    except gone:
        pass  # a client that cannot be told gets no close, only the end
    except closed as close:
        raise AssertionError(f"unasked {close}") from None


def test_unknown_mechanism_and_broken_responses(t):
    for mechanism, response in (("GSSAPI", b"x"), ("PLAIN", b""), ("PLAIN", b"guest"), ("AMQPLAIN", b"\xff\xff"),
                                ("AMQPLAIN", b"\x05LOGINS\x00\x00\xff\xffguest")):
        try:
            refused_login(t, mechanism=mechanism, response=response)
            raise AssertionError(f"{mechanism} {response} was taken")
        except (closed, gone):
            pass
    t.shared_node().connect().close()


def test_vhost_not_found_70(t):
    with closes(530, "NOT_ALLOWED - vhost nowhere not found", "connection", (10, 40)):
        refused_login(t, vhost="nowhere")


def test_tune_ok_above_the_offer_72(t):
    if t.suite.peer:
        raise skip("older versions end without a word")
    with closes(530, "NOT_ALLOWED - negotiated channel_max = 65535 is higher than the maximum allowed value (2047)",
                "connection"):
        refused_login(t, channel_max=65535)
    with closes(530, "NOT_ALLOWED - …", "connection"):
        refused_login(t, channel_max=0)
    with closes(530, "NOT_ALLOWED - …", "connection"):
        refused_login(t, frame_max=200_000)


def test_more_channels_than_the_maximum_72(t):
    if t.suite.peer:
        raise skip("the peer's older versions count otherwise")
    with opened(t, channel_max=2) as (connection, _):
        connection.channel(11)  # its number does not matter
        with closes(530, "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)",
                    "connection", (0, 0)):
            connection.channel(2)


def test_channel_life_cycle_73(t):
    with opened(t) as (_, channel):
        with closes(504, "CHANNEL_ERROR - …", "connection"):
            channel.open()
    for name in ("queue.declare", "basic.qos", "confirm.select"):
        with opened(t) as (connection, _):
            connection.send(5, name)
            with closes(504, "CHANNEL_ERROR - expected 'channel.open'", "connection", None):
                connection.wait(5, name + "-ok")
    with opened(t) as (_, channel):
        channel.call("channel.close", reply_code=200)
        channel.send("basic.qos")
        with closes(504, "CHANNEL_ERROR - expected 'channel.open'", "connection"):
            channel.wait("basic.qos-ok")


def test_after_a_server_close_the_channel_ignores_all_until_close_ok_73(t):
    with opened(t) as (connection, channel):
        queue = channel.queue(t.unique("q"), exclusive=True).queue
        none = t.unique("none")
        connection.send(1, "queue.declare", queue=none, passive=True)
        for _ in range(3):  # all of this is already on its way when the close is read
            connection.send_raw(publish_frames("", queue, b"lost"))
            connection.send(1, "queue.declare", queue=none, passive=True)
        with closes(404, f"NOT_FOUND - no queue '{none}' in vhost '/'"):
            channel.wait("queue.declare-ok")
        channel.open()
        equal(channel.count(queue), (0, 0))
        require(not connection.inbox[1], "nothing more arrives on the reopened channel")


def test_frame_errors_32(t):
    if t.suite.peer:
        raise skip("older versions answer some of these with silence")
    publish = frame(1, 1, method_payload("basic.publish", routing_key="none"))
    header = frame(2, 1, header_payload(10))
    cases = {
        "wrong frame end": (501, publish[:-1] + b"\x00"),
        "unknown frame type": (501, frame(77, 1, b"x")),
        "oversized frame": (501, struct.pack(">BHI", 3, 1, 131073) + b"x" * 100),
        "body without header": (505, publish + frame(3, 1, b"x")),
        "header without publish": (505, header),
        "method in place of a header": (505, publish + publish),
        "header of another class": (505, publish + frame(2, 1, header_payload(1, class_id=50))),
        "heartbeat on a channel": (505, frame(8, 1, b"")),
        "header for a missing channel": (505, frame(2, 9, header_payload(1))),
        "heartbeat with a payload": (501, frame(8, 0, b"x")),
        "more body than announced": ((501, 505), publish + header + frame(3, 1, b"x" * 11)),
        "unknown class": ((501, 502, 503, 540), frame(1, 1, struct.pack(">HH", 999, 1))),
        "unknown method": ((501, 502, 503, 540), frame(1, 1, struct.pack(">HH", 50, 999))),
        "method cut short": ((501, 502, 503), frame(1, 1, method_payload("queue.declare", queue="abc")[:-6])),
        "unknown field type": ((501, 502, 541), frame(1, 1, method_payload(
            "queue.declare", queue=t.unique("q"), arguments={"x": typed("?", b"")}))),
        "table longer than its method": ((501, 502, 541), frame(1, 1, method_payload(
            "queue.declare", queue=t.unique("q"), arguments={"x": 1})[:-3])),
    }
    wrong = []
    for what, (codes, octets) in cases.items():
        with opened(t) as (connection, channel):
            connection.send_raw(octets)
            try:
                channel.wait("nothing", timeout=5)
            except closed as close:
                if close.name != "connection.close" or close.code not in (codes if isinstance(codes, tuple) else (codes,)):
                    wrong.append(f"{what}: {close}, expected connection.close {codes}")
            except (gone, TimeoutError) as error:
                wrong.append(f"{what}: {error!r}, expected connection.close {codes}")
    require(not wrong, "\n".join(wrong))


def test_unexpected_first_methods(t):
    for name in ("connection.open", "queue.declare", "connection.tune-ok", "basic.publish"):
        connection = raw_connection(t.shared_node().port)
        connection.send_raw(PROTOCOL_HEADER)
        connection.wait(0, "connection.start")
        connection.send(0, name)
        try:
            connection.wait(0, "connection.open-ok", timeout=15)
            raise AssertionError(f"{name} before the login was answered")
        except (closed, gone):
            pass
        connection.drop()
    t.shared_node().connect().close()
