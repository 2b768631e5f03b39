"""Behaviours 21 to 35: publishing, confirms, returns, routing. One test for each number of the reference list.

| number | where else it is tested |
| --- | --- |
| 21, 22 | closes: publish_to_an_unknown_exchange_21, publish_to_an_internal_exchange_22 |
| 23 | closes.not_implemented_23_44_45, protocol.access_request_and_flow_23 |
| 24 | returned, acked, dropped: protocol.mandatory_return_comes_before_the_ack_24; alternate exchange: here |
| 25 | protocol.confirms_count_per_channel_25; numbers under refusal: here |
| 26 | a target that goes: protocol.publishes_to_a_queue_that_goes_are_confirmed_26; refusals: here |
| 33 | protocol.empty_body_33, and here that no body frame follows |
| 34 | protocol: topic_exchange_34, headers_exchange_34; texts and types: here |
"""
import contextlib
import struct

from amqp_raw import closed, frame, gone, header_payload, method_payload, typed
from behaviours_administration import administration, own_user
from behaviours_stage import (NAMES, asker, bodies, confirming, get_soon, got, kept_exchange, kept_queue, line, open_channel,
                              outcome, own_queue, publish, refusal, refused, same, silent, wait_for)
from harness import equal, require

PUBLISH, BIND = (60, 40), (50, 20)


def test_unknown_exchange_21(t):
    ask, none = asker(t), t.unique("none")
    text = f"no exchange '{none}' in vhost '/'"
    same([("publish", ask.publish(none, "k"), refusal(404, text, PUBLISH)),
          ("mandatory", ask.publish(none, "k", mandatory=True), refusal(404, text, PUBLISH))])
    channel = confirming(ask.channel)
    queue = own_queue(t, channel)
    channel.publish("", queue, b"before")
    channel.confirm()
    channel.publish(none, "k", b"x")
    with refused(404, text, PUBLISH):
        channel.wait("basic.nack", "basic.ack")
    require(not channel.owner.inbox[1], "no nack came before the close")


def test_internal_exchange_22(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel)
    internal, outer = kept_exchange(t, ask.channel, "fanout", internal=True), kept_exchange(t, ask.channel, "fanout")
    same([("publish", ask.publish(internal, "k"),
           refusal(403, f"cannot publish to internal exchange '{internal}' in vhost '/'", PUBLISH))])
    ask.channel.call("exchange.bind", source=outer, destination=internal)
    ask.channel.bind(queue, internal)
    confirming(ask.channel).publish(outer, "", b"through another")
    ask.channel.confirm()
    equal(bodies(got(ask.channel, queue)), [b"through another"])


def test_not_implemented_23(t):
    ask = asker(t)
    same([("immediate", ask.publish("", "k", immediate=True), refusal(540, "immediate=true", PUBLISH)),
          ("flow off", ask("channel.flow", active=False), refusal(540, "active=false", (20, 20))),
          ("flow on", ask("channel.flow", active=True), "ok")])
    equal(ask.channel.call("access.request", realm="/data", exclusive=True, passive=True, read=True).ticket, 1)


def test_routed_by_an_alternate_exchange_24(t):
    channel = confirming(open_channel(t))
    queue, nowhere = own_queue(t, channel), t.unique("nowhere")
    alternate = kept_exchange(t, channel, "fanout")
    exchange = kept_exchange(t, channel, arguments={"alternate-exchange": alternate})
    lost = kept_exchange(t, channel, arguments={"alternate-exchange": nowhere})
    channel.publish(exchange, "none", b"1", mandatory=True)
    back = channel.wait("basic.return", "basic.ack")
    equal((back.name, back.reply_code, back.reply_text, back.exchange, back.routing_key, back.body),
          ("basic.return", 312, "NO_ROUTE", exchange, "none", b"1"), "the alternate exchange routes it nowhere")
    equal(channel.wait("basic.return", "basic.ack").name, "basic.ack")
    channel.bind(queue, alternate)
    channel.publish(exchange, "none", b"2", mandatory=True)
    equal(channel.wait("basic.return", "basic.ack").name, "basic.ack", "routed by the alternate exchange")
    message = channel.get(queue, no_ack=True)
    equal((message.exchange, message.routing_key, message.body), (exchange, "none", b"2"))
    channel.publish(lost, "none", b"3", mandatory=True)
    equal(channel.wait("basic.return", "basic.ack").name, "basic.return", "an alternate exchange that is not there")
    equal(channel.wait("basic.return", "basic.ack").name, "basic.ack")


def test_confirm_numbers_25(t):
    channel = open_channel(t)
    full = kept_queue(t, channel, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    open_queue = kept_queue(t, channel)
    publish(channel, full, b"fills it")
    channel.judged = 1
    for n in range(50):
        channel.publish("", full if n % 3 == 1 else open_queue, b"%d" % n, delivery_mode=1 + n % 2)
    equal(outcome(channel, 50), ["nack" if n % 3 == 1 else "ack" for n in range(50)])
    equal(channel.judged, 51)
    other = confirming(channel.owner.channel(2))
    other.publish("", open_queue, b"x")
    equal(other.wait("basic.ack").delivery_tag, 1, "each channel counts for itself")
    equal(channel.call("confirm.select").name, "confirm.select-ok", "a second confirm.select is no error")
    channel.publish("", open_queue, b"x")
    equal(channel.wait("basic.ack").delivery_tag, 52, "and does not begin anew")


def test_fan_out_with_a_refusal_26(t):
    channel = open_channel(t)
    exchange = kept_exchange(t, channel, "fanout")
    full = kept_queue(t, channel, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    free = [own_queue(t, channel), own_queue(t, channel)]
    publish(channel, full, b"fills it")
    channel.judged = 1
    for queue in (free[0], full, free[1]):
        channel.bind(queue, exchange)
    for n in range(3):
        channel.publish(exchange, "", b"%d" % n, mandatory=True)
    equal(outcome(channel, 3), ["nack"] * 3)
    silent(channel, "basic.ack", "basic.nack", "basic.return")
    for queue in free:
        wait_for(channel, queue, 3)
        equal(bodies(got(channel, queue)), [b"0", b"1", b"2"], "the others keep their copies")
    equal(bodies(got(channel, full)), [b"fills it"])


def test_transactions_27(t):
    ask = asker(t)
    same([("commit without select", ask("tx.commit"), refusal(406, "channel is not transactional", (90, 20))),
          ("rollback without select", ask("tx.rollback"), refusal(406, "channel is not transactional", (90, 30)))])
    ask.channel.call("tx.select")
    same([("confirm after tx", ask("confirm.select"), refusal(406, "cannot switch from tx to confirm mode", (85, 10)))])
    ask.channel.call("confirm.select")
    same([("tx after confirm", ask("tx.select"), refusal(406, "cannot switch from confirm to tx mode", (90, 10)))])
    channel, watcher = ask.channel, open_channel(t)
    queue = kept_queue(t, channel)
    channel.call("tx.select")
    equal(channel.call("tx.select").name, "tx.select-ok", "a second select is no error")
    for n in range(3):
        channel.publish("", queue, b"%d" % n, delivery_mode=2)
    channel.publish("", t.unique("none"), b"back", mandatory=True)
    channel.call("basic.qos")
    equal(watcher.count(queue), (0, 0), "nothing before the commit")
    require(not channel.owner.inbox[1], "nor does anything come back before it")
    channel.call("tx.commit")
    equal(channel.wait("basic.return").reply_code, 312)
    equal(watcher.count(queue), (3, 0))
    channel.publish("", queue, b"never")
    channel.call("tx.rollback")
    equal(watcher.count(queue), (3, 0))
    # Acknowledgements belong to the transaction, too.
    one, two = channel.get(queue), channel.get(queue)
    channel.send("basic.ack", delivery_tag=one.delivery_tag)
    channel.call("tx.rollback")
    channel.send("basic.ack", delivery_tag=one.delivery_tag)
    channel.send("basic.reject", delivery_tag=two.delivery_tag, requeue=True)
    equal(watcher.count(queue), (1, 0), "the reject waits for its commit")
    channel.call("tx.commit")
    wait_for(watcher, queue, 2)
    equal([(each.body, each.redelivered) for each in got(watcher, queue)], [(b"1", True), (b"2", False)])
    channel.send("basic.ack", delivery_tag=9)
    same([("unknown tag, at once", ask.judge(lambda: channel.call("basic.qos")),
           refusal(406, "unknown delivery tag 9", (60, 80)))])
    channel = ask.channel
    full = kept_queue(t, channel, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    publish(watcher, full, b"fills it")
    channel.call("tx.select")
    channel.publish("", full, b"refused")
    channel.publish("", queue, b"accepted")
    same([("a queue refuses", ask("tx.commit"), refusal(406, "partial tx completion", (90, 20)))])
    wait_for(watcher, queue, 1)
    if t.suite.peer:
        return  # RabbitMQ closes the connection over what follows
    # Whose queue is deleted before the commit has no way any more.
    channel = ask.channel
    for mandatory in (True, False):
        gone = own_queue(t, channel, "gone")
        channel.call("tx.select")
        channel.publish("", gone, b"no way", mandatory=mandatory)
        channel.call("queue.delete", queue=gone)
        channel.call("tx.commit")
        if mandatory:
            back = channel.wait("basic.return")
            equal((back.reply_code, back.body), (312, b"no way"))
        channel.call("basic.qos")
        require(not channel.owner.inbox[1], "and nothing else is said")


def test_user_id_28(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel)
    none = t.unique("none")
    same([("no exchange comes first", ask.publish(none, "k", user_id="a"),
           refusal(404, f"no exchange '{none}' in vhost '/'", PUBLISH)),
          ("then the expiration", ask.publish("", queue, user_id="a", expiration="abc"),
           refusal(406, "invalid expiration 'abc': no_integer", PUBLISH)),
          ("then CC", ask.publish("", queue, user_id="a", headers={"CC": 1}),
           refusal(406, "invalid message: {unacceptable_type_in_header,\"CC\",signedint}", PUBLISH))])
    same([("another", ask.publish("", queue, user_id="a"),
           refusal(406, "user_id property set to 'a' but authenticated user was 'guest'", PUBLISH)),
          ("one's own", ask.publish("", queue, user_id="guest"), "ok"),
          ("empty", ask.publish("", queue, user_id=""),
           refusal(406, "user_id property set to '' but authenticated user was 'guest'", PUBLISH))])


def test_impersonator_28(t):
    operator = administration(t)
    user = own_user(t, operator, tags=("impersonator",), **{"/": (".*", ".*", ".*")})
    ask = asker(t, user=user, password="secret")
    queue = own_queue(t, ask.channel)
    same([("another, as an impersonator", ask.publish("", queue, user_id="a"), "ok")])
    equal(get_soon(ask.channel, queue).properties, {"user_id": "a"})


def test_expiration_29(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel)

    def refusal_of(value, reason):
        return ask.publish("", queue, expiration=value), refusal(406, f"invalid expiration '{value}': {reason}", PUBLISH)
    same([
        ("no number", *refusal_of("abc", "no_integer")),
        ("trailing", *refusal_of("10s", "{leftover_string,\"s\"}")),
        ("fraction", *refusal_of("1.5", "{leftover_string,\".5\"}")),
        ("empty", *refusal_of("", "no_integer")),
        ("negative", *refusal_of("-1", "{value_negative,-1}")),
        ("too much", *refusal_of("99999999999999", "{value_too_large,99999999999999}")),
        ("largest", ask.publish("", queue, expiration="4294967295"), "ok"),
    ])

def test_expiration_of_0_29(t):
    channel = open_channel(t)
    queue = own_queue(t, channel)
    publish(channel, queue, b"0", expiration="0")
    equal(channel.get(queue).name, "basic.get-empty", "0 expires where nobody waits")
    channel.consume(queue, no_ack=True)
    channel.publish("", queue, b"at once", expiration="0")
    message = channel.wait("basic.deliver")
    equal((message.body, message.properties["expiration"]), (b"at once", "0"), "0 is delivered where somebody waits")


def test_size_30(t):
    ask = asker(t)
    queue, largest = own_queue(t, ask.channel), 16 * 1024 * 1024
    same([("one too many", ask.publish("", queue, bytes(largest + 1)),
           refusal(406, f"message size {largest + 1} is larger than configured max size {largest}", PUBLISH))])
    # What no setting would allow is not read at all.
    for size in (512 * 1024 * 1024 + 1, 2**63, 2**64 - 1):
        ask.channel.owner.send_raw(frame(1, 1, method_payload("basic.publish", routing_key=queue)) +
                                   frame(2, 1, header_payload(size)))
        same([(f"{size} octets", ask.judge(lambda: ask.channel.wait("nothing", timeout=5)), refusal(
            501, f"content body size {size} exceeds maximum allowed size {512 * 1024 * 1024}", PUBLISH))])
    queue = own_queue(t, ask.channel)
    channel = confirming(ask.channel)
    channel.publish("", queue, bytes(largest))
    channel.confirm()
    equal(len(get_soon(channel, queue).body), largest)


def test_cc_and_bcc_31(t):
    ask = asker(t)
    channel = confirming(ask.channel)
    exchange = kept_exchange(t, channel)
    queues = [own_queue(t, channel) for _ in range(4)]
    for n, queue in enumerate(queues):
        channel.bind(queue, exchange, f"k{n}")
    channel.publish(exchange, "k0", b"x", headers={"CC": ["k1", "k0"], "BCC": ["k2", "k1"], "other": 1})
    channel.confirm()
    for n, queue in enumerate(queues):
        messages = got(channel, queue)
        equal(bodies(messages), [b"x"] if n < 3 else [], f"one copy in queue {n}")
        for message in messages:
            equal(message.routing_key, "k0")
            equal(message.properties["headers"], {"CC": ["k1", "k0"], "other": typed("I", 1)}, "BCC is taken away")
    channel.publish("", queues[0], b"by the default exchange", headers={"BCC": [queues[1]]})
    channel.confirm()
    equal([bodies(got(channel, queue)) for queue in queues[:2]], [[b"by the default exchange"]] * 2)
    channel.publish(exchange, "none", b"routed by CC", mandatory=True, headers={"CC": ["k3"]})
    channel.confirm()
    equal(bodies(got(channel, queues[3])), [b"routed by CC"])
    same([("CC a string", ask.publish(exchange, "k0", headers={"CC": "k1"}),
           refusal(406, "invalid message: {unacceptable_type_in_header,\"CC\",longstr}", PUBLISH)),
          ("BCC a number", ask.publish(exchange, "k0", headers={"BCC": 1}),
           refusal(406, "invalid message: {unacceptable_type_in_header,\"BCC\",signedint}", PUBLISH)),
          ("CC with a number", ask.publish(exchange, "k3", headers={"CC": ["k1", 1]}), "ok")])


def test_frames_32(t):
    declare = frame(1, 1, method_payload("basic.publish", routing_key="none"))
    header = frame(2, 1, header_payload(10))
    def dump(code, text, within):
        """RabbitMQ shows octets and errors as Erlang writes them; of these, the code and the ids count."""
        return refusal(code, text, within) if t.suite.peer else (code, within)
    none, cannot = (0, 0), "expected content header for class 60, got non content header frame instead"
    method_first = refusal(505, "expected method frame, got non method frame instead", none)
    cases = [
        ("wrong frame end", declare[:-1] + b"\x00", dump(
            501, "type 1, all octets = <<0,60,0,40,0,0,0,4,110,111,110,101,0>>: {invalid_frame_end_marker,\n" + " " * 63 + "0}",
            none)),
        ("unknown frame type", frame(77, 1, b"x"), dump(501, "type 77, all octets = <<\"x\">>: unknown_frame", none)),
        ("frame too large", struct.pack(">BHI", 3, 1, 131073) + bytes(100),
         dump(501, "type 3, all octets = <<>>: {frame_too_large,131073,131064}", none)),
        ("body without header", declare + frame(3, 1, b"x"), refusal(505, cannot, PUBLISH)),
        ("header without publish", header, method_first),
        ("body without publish", frame(3, 1, b"x"), method_first),
        ("method in place of a header", declare + declare, refusal(505, cannot, PUBLISH)),
        ("method in place of a body", declare + header + declare,
         refusal(505, "expected content body, got non content body frame instead", PUBLISH)),
        ("header of another class", declare + frame(2, 1, header_payload(1, class_id=50)),
         refusal(505, "expected content header for class 60, got one for class 50 instead", PUBLISH)),
        ("header with a weight", declare + frame(2, 1, struct.pack(">HHQH", 60, 7, 0, 0)), refusal(505, cannot, PUBLISH)),
        ("header cut short", declare + frame(2, 1, b"\x00\x3c"),
         dump(501, "type 2, all octets = <<0,60>>: unknown_frame", none)),
        ("heartbeat on a channel", frame(8, 1, b""), dump(505, "type 8, all octets = <<>>", none)),
        ("heartbeat with a payload", frame(8, 0, b"x"),
         dump(501, "type 8, all octets = <<\"x\">>: unknown_frame", none)),
        ("header for a missing channel", frame(2, 9, header_payload(1)), method_first),
        ("body for a missing channel", frame(3, 9, b"x"), method_first),
        ("more body than announced", declare + header + frame(3, 1, b"x" * 11),
         refusal(501, "content body frame exceeds remaining content size", PUBLISH)),
        ("method cut short", frame(1, 1, method_payload("queue.declare", queue="abc")[:-6]),
         dump(501, "cannot decode <<0,0,3,97,98>>", (50, 10))),
        ("table longer than its method", frame(1, 1, method_payload("queue.declare", queue="q", arguments={"x": 1})[:-3]),
         dump(501, "cannot decode <<0,0,1,113,0,0,0,0,7,1,120,73,0>>", (50, 10))),
    ]
    pairs = []
    for what, octets, expected in cases:
        ask = asker(t)

        def action(ask=ask, octets=octets):
            ask.channel.owner.send_raw(octets)
            with contextlib.suppress(TimeoutError):
                ask.channel.wait("nothing", timeout=2)
        answer = ask.judge(action)
        if isinstance(expected, tuple):
            code, within = expected
            fits = answer.startswith(f"connection.close {code} {NAMES[code]} - ") and answer.endswith(f" {within}")
            expected = answer if fits else f"connection.close {code} {NAMES[code]} - … {within}"
        pairs.append((what, answer, expected))
    same(pairs)


def test_unknown_methods_end_the_connection_32(t):
    """RabbitMQ hangs up on these without a word; a close that says why is as good."""
    for octets in (frame(1, 1, struct.pack(">HH", 999, 1)), frame(1, 1, struct.pack(">HH", 50, 999)),
                   frame(1, 1, method_payload("queue.declare", queue="q", arguments={"x": typed("?", b"")}))):
        channel = open_channel(t)
        channel.owner.send_raw(octets)
        try:
            channel.wait("nothing", timeout=5)
        except closed as close:
            equal(close.name, "connection.close", line(close))
        except gone:
            require(t.suite.peer, "hung up without a word")


def test_a_full_body_frame_32(t):
    channel = open_channel(t)
    queue = own_queue(t, channel)
    body = t.random.randbytes(131072 - 8)
    publish(channel, queue, body)
    channel.send("basic.get", queue=queue, no_ack=True)
    kinds = [channel.owner.read_frame() for _ in range(3)]
    equal([(kind, len(payload)) for kind, _, payload in kinds[2:]], [(3, len(body))], "one frame as large as may be")


def test_an_empty_body_has_no_frame_33(t):
    channel = open_channel(t)
    queue = own_queue(t, channel)
    publish(channel, queue, b"")
    channel.send("basic.get", queue=queue, no_ack=True)
    channel.send("basic.qos")
    frames = [channel.owner.read_frame() for _ in range(3)]
    equal([(kind, payload[:4]) for kind, _, payload in frames],
          [(1, struct.pack(">HH", 60, 71)), (2, struct.pack(">HH", 60, 0)), (1, struct.pack(">HH", 60, 11))],
          "get-ok, header, then the next answer")
    equal(frames[1][2][4:12], bytes(8), "a size of 0")


def test_wrong_x_match_34(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel)

    def bind(value):
        return ask("queue.bind", queue=queue, exchange="amq.headers", arguments={"x-match": value})

    def wrong(shown):
        return refusal(406, f"Invalid x-match field value {shown}; expected all, any, all-with-x, or any-with-x", BIND)
    same([("some", bind("some"), wrong("<<\"some\">>")), ("ALL", bind("ALL"), wrong("<<\"ALL\">>")),
          ("a number", bind(1), refusal(406, "Invalid x-match field type signedint (value 1); expected longstr", BIND)),
          *[(each, bind(each), "ok") for each in ("all", "any", "all-with-x", "any-with-x")]])
    channel = ask.channel
    exchange = kept_exchange(t, channel, "headers")
    bindings = {"int": 1, "float": 1.0, "text": "1", "true": True, "void": None}
    queues = {}
    for name, value in bindings.items():
        queues[name] = own_queue(t, channel, name)
        channel.bind(queues[name], exchange, "", h=value)
    confirming(channel)
    matches = {}
    for what, value in (("I", 1), ("l", typed("l", 1)), ("b", typed("b", 1)), ("d", 1.0), ("S", "1"), ("t", True),
                        ("V", None)):
        channel.publish(exchange, "", what, headers={"h": value})
    channel.confirm()
    for name, queue in queues.items():
        matches[name] = b" ".join(bodies(got(channel, queue))).decode()
    equal(matches, {"int": "I l b", "float": "d", "text": "S", "true": "t", "void": "I l b d S t V"})


def test_direct_reply_to_publish_35(t):
    ask = asker(t)
    pseudo = "amq.rabbitmq.reply-to"
    same([
        ("request without a consumer", ask.publish("", "none", reply_to=pseudo),
         refusal(406, "fast reply consumer does not exist", PUBLISH)),
        ("bind", ask("queue.bind", queue=pseudo, exchange="amq.direct", routing_key="k"),
         refusal(404, f"no queue '{pseudo}' in vhost '/'", BIND)),
    ])
    channel = ask.channel
    requests = kept_queue(t, channel)
    channel.consume(pseudo, no_ack=True)
    channel.publish("", requests, b"ask", reply_to=pseudo)
    other = confirming(open_channel(t))
    request = get_soon(other, requests)
    address = request.properties["reply_to"]
    require(address.startswith(pseudo + "."), address)
    other.publish("", address, b"answer", mandatory=True, correlation_id="7")
    equal(other.wait("basic.ack", "basic.return").name, "basic.ack", "it counts as routed")
    answer = channel.wait("basic.deliver")
    equal((answer.body, answer.exchange, answer.routing_key, answer.properties["correlation_id"]),
          (b"answer", "", address, "7"))
    channel.call("channel.close", reply_code=200)
    other.publish("", address, b"nobody", mandatory=True)
    equal(other.wait("basic.ack", "basic.return").name, "basic.ack", "still routed, to a consumer that is gone")
    other.publish("", pseudo + ".nobody", b"nobody", mandatory=True)
    back = other.wait("basic.ack", "basic.return")
    equal((back.name, back.routing_key), ("basic.return", pseudo + ".nobody"), "an address that never was")
    equal(other.wait("basic.ack").delivery_tag, 3)
