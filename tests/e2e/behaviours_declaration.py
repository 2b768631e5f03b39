"""Behaviours 1 to 20: declaring, binding, deleting. One test for each number of the reference list.

| number | where else it is tested |
| --- | --- |
| 1 | properties: closes.redeclare_with_other_properties_1; arguments: here |
| 5 | the text within 255 octets: here; by each method: closes.exclusive_queue_of_another_connection_5, and here |
| 15 | protocol: direct_exchange_and_idempotent_bindings_15, headers_exchange_34; arguments: here |
| 16 | protocol: auto_delete_queue_16, auto_delete_exchange_16; channels that close, chains of exchanges: here |
"""
import time

from amqp_raw import closed, typed
from behaviours_administration import administration, own_user, own_vhost
from behaviours_stage import (asker, bodies, confirming, elapsed, got, is_gone, kept_exchange, kept_queue,
                              later, open_channel, own_queue, publish, quorum_queue, refusal, same, wait_for)
from harness import equal, poll, require

DECLARE, BIND, UNBIND, PURGE, DELETE = (50, 10), (50, 20), (50, 50), (50, 30), (50, 40)
EXCHANGE_DECLARE, EXCHANGE_DELETE, EXCHANGE_BIND, EXCHANGE_UNBIND = (40, 10), (40, 20), (40, 30), (40, 40)
CONSUME, GET = (60, 20), (60, 70)


def test_redeclare_with_other_arguments_1(t):
    ask = asker(t)
    queue = kept_queue(t, ask.channel, **{"x-message-ttl": 1000, "x-overflow": "drop-head"})
    plain = kept_queue(t, ask.channel)
    exchange = kept_exchange(t, ask.channel, arguments={"alternate-exchange": "one"}, durable=True)
    bare = kept_exchange(t, ask.channel, durable=True)

    def declare(name, **arguments):
        return ask("queue.declare", queue=name, durable=True, arguments=arguments)

    def unequal(argument, name, received, current, kind="queue"):
        return refusal(406, f"inequivalent arg '{argument}' for {kind} '{name}' in vhost '/': received {received} but "
                       f"current is {current}", DECLARE if kind == "queue" else EXCHANGE_DECLARE)
    same([
        ("other value", declare(queue, **{"x-message-ttl": 2000, "x-overflow": "drop-head"}),
         unequal("x-message-ttl", queue, "'2000'", "'1000'")),
        ("number missing", declare(queue, **{"x-overflow": "drop-head"}),
         unequal("x-message-ttl", queue, "none", "the value '1000' of type 'signedint'")),
        ("string missing", declare(queue, **{"x-message-ttl": 1000}),
         unequal("x-overflow", queue, "none", "the value 'drop-head' of type 'longstr'")),
        ("number added", declare(plain, **{"x-message-ttl": 1000}),
         unequal("x-message-ttl", plain, "the value '1000' of type 'signedint'", "none")),
        ("long added", declare(plain, **{"x-expires": typed("l", 60000)}),
         unequal("x-expires", plain, "the value '60000' of type 'long'", "none")),
        ("boolean added", declare(plain, **{"x-single-active-consumer": True}),
         unequal("x-single-active-consumer", plain, "the value 'true' of type 'bool'", "none")),
        ("the same", declare(queue, **{"x-message-ttl": 1000, "x-overflow": "drop-head"}), "ok"),
        ("exchange: other", ask("exchange.declare", exchange=exchange, type="direct", durable=True,
                                arguments={"alternate-exchange": "two"}),
         unequal("alternate-exchange", exchange, "'two'", "'one'", "exchange")),
        ("exchange: missing", ask("exchange.declare", exchange=exchange, type="direct", durable=True),
         unequal("alternate-exchange", exchange, "none", "the value 'one' of type 'longstr'", "exchange")),
        ("exchange: added", ask("exchange.declare", exchange=bare, type="direct", durable=True,
                                arguments={"alternate-exchange": "two"}),
         unequal("alternate-exchange", bare, "the value 'two' of type 'longstr'", "none", "exchange")),
        ("exchange: auto_delete", ask("exchange.declare", exchange=bare, type="direct", durable=True, auto_delete=True),
         unequal("auto_delete", bare, "'true'", "'false'", "exchange")),
        ("exchange: internal", ask("exchange.declare", exchange=bare, type="direct", durable=True, internal=True),
         unequal("internal", bare, "'true'", "'false'", "exchange")),
        ("exchange: argument of no meaning", ask("exchange.declare", exchange=bare, type="direct", durable=True,
                                                 arguments={"x-whatever": 1}), "ok"),
    ])


def test_arguments_that_are_equal_2(t):
    ask = asker(t)
    queue = kept_queue(t, ask.channel, **{"x-max-length": 100, "x-whatever": 1})

    def declare(**arguments):
        return ask("queue.declare", queue=queue, durable=True, arguments=arguments)
    same([(f"x-max-length as {letter}", declare(**{"x-max-length": typed(letter, 100)}), "ok") for letter in "bBsuIil"])
    same([
        ("type by its name", declare(**{"x-max-length": 100, "x-queue-type": "classic"}), "ok"),
        ("unknown argument with another value", declare(**{"x-max-length": 100, "x-whatever": "2"}), "ok"),
        ("another type", declare(**{"x-max-length": 100, "x-queue-type": "quorum"}),
         refusal(406, f"inequivalent arg 'x-queue-type' for queue '{queue}' in vhost '/': received 'quorum' but current is "
                 "'classic'", DECLARE)),
    ])
    same([
        ("a timestamp of the same number", declare(**{"x-max-length": typed("T", 100)}), "ok"),
        ("nothing as a value", declare(**{"x-max-length": None}),
         refusal(406, f"inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/': received none but current is '100'",
                 DECLARE)),
        ("an array", declare(**{"x-max-length": ["a"]}),
         refusal(406, f"inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/': received "
                 "'[{longstr,<<\"a\">>}]' but current is '100'", DECLARE)),
        ("what only a stream knows", declare(**{"x-max-length": 100, "x-max-age": "1h"}), "ok"),
    ])
    quorum = quorum_queue(t, ask.channel)
    same([("quorum declared without a type", ask("queue.declare", queue=quorum, durable=True),
           refusal(406, f"inequivalent arg 'x-queue-type' for queue '{quorum}' in vhost '/': received 'classic' but current "
                   "is 'quorum'", DECLARE))])


def test_all_arguments_of_a_type_are_compared_2(t):
    """One after the other is given, in RabbitMQ's order; the first that is not, is told."""
    ask = asker(t)
    pairs = []
    for kind, arguments in (
            ("classic", {"x-expires": 60000, "x-message-ttl": 1000, "x-dead-letter-exchange": "d",
                         "x-dead-letter-routing-key": "k", "x-max-length": 5, "x-max-length-bytes": 5, "x-max-priority": 5,
                         "x-overflow": "drop-head", "x-queue-mode": "lazy", "x-queue-version": 2,
                         "x-single-active-consumer": True, "x-queue-leader-locator": "balanced"}),
            ("quorum", {"x-dead-letter-exchange": "d", "x-dead-letter-routing-key": "k",
                        "x-dead-letter-strategy": "at-most-once", "x-expires": 60000, "x-max-length": 5,
                        "x-max-length-bytes": 5, "x-max-in-memory-length": 5, "x-max-in-memory-bytes": 5,
                        "x-overflow": "drop-head", "x-single-active-consumer": True, "x-quorum-initial-group-size": 1,
                        "x-delivery-limit": 5, "x-message-ttl": 1000, "x-queue-leader-locator": "balanced",
                        "x-consumer-disconnected-timeout": 60000, "x-consumer-timeout": 60000, "x-delayed-retry-type": "all",
                        "x-delayed-retry-min": 5, "x-delayed-retry-max": 6}),
            ("stream", {"x-max-length-bytes": 5, "x-max-age": "1h", "x-stream-max-segment-size-bytes": 1000000,
                        "x-stream-filter-size-bytes": 16, "x-initial-cluster-size": 1,
                        "x-queue-leader-locator": "balanced"})):
        queue = kept_queue(t, ask.channel, **{"x-queue-type": kind}, **arguments)
        received = {"x-queue-type": kind}
        for name, value in arguments.items():
            answer = ask("queue.declare", queue=queue, durable=True, arguments=received)
            shown = 3600000 if name == "x-max-age" else str(value).lower() if value is True else value
            kept = {bool: "bool", str: "longstr", int: "signedint"}[type(value)]
            pairs.append((f"{kind}: {name}", answer, refusal(
                406, f"inequivalent arg '{name}' for queue '{queue}' in vhost '/': received none but current is the value "
                f"'{shown}' of type '{kept}'", DECLARE)))
            received[name] = value
        pairs.append((f"{kind}: all", ask("queue.declare", queue=queue, durable=True, arguments=received), "ok"))
    same(pairs)


def test_invalid_arguments_3(t):
    ask = asker(t)
    cases = [
        ("x-message-ttl", {"x-message-ttl": -1}, "{value_negative,-1}"),
        ("x-message-ttl", {"x-message-ttl": "soon"}, '"expected integer, got longstr"'),
        ("x-message-ttl", {"x-message-ttl": 315360000001}, "{value_too_large,315360000001}"),  # ten years are the most
        ("x-expires", {"x-expires": 315360000001}, "{value_too_large,315360000001}"),
        ("x-expires", {"x-expires": 0}, "{value_zero,0}"),
        ("x-expires", {"x-expires": -5}, "{value_negative,-5}"),
        ("x-expires", {"x-expires": 1.5}, '"expected integer, got double"'),
        ("x-max-length", {"x-max-length": -1}, "{value_negative,-1}"),
        ("x-max-length", {"x-max-length": "x"}, '"expected integer, got longstr"'),
        ("x-max-length-bytes", {"x-max-length-bytes": -7}, "{value_negative,-7}"),
        ("x-overflow", {"x-overflow": "drop-tail"}, "invalid_overflow"),
        ("x-overflow", {"x-overflow": 1}, "{unacceptable_type,signedint}"),
        ("x-dead-letter-routing-key", {"x-dead-letter-routing-key": "k"}, "routing_key_but_no_dlx_defined"),
        ("x-dead-letter-routing-key", {"x-dead-letter-exchange": "d", "x-dead-letter-routing-key": 1},
         "{unacceptable_type,signedint}"),
        ("x-max-priority", {"x-max-priority": 256}, "{max_value_exceeded,256}"),
        ("x-max-priority", {"x-max-priority": -1}, "{value_negative,-1}"),
        ("x-single-active-consumer", {"x-single-active-consumer": "yes"}, "{unacceptable_type,longstr}"),
        ("x-max-priority", {"x-max-priority": "x"}, '"expected integer, got longstr"'),
        ("x-queue-version", {"x-queue-version": 1}, "\"unsupported queue version '1'\""),
        ("x-queue-version", {"x-queue-version": -1}, "{value_negative,-1}"),
        ("x-message-ttl", {"x-queue-master-locator": "a", "x-message-ttl": -1}, "{value_negative,-1}"),
        ("x-queue-type", {"x-queue-type": "other"}, "\"unsupported queue type 'other'\""),
    ]
    pairs = []

    def declare(**arguments):
        queue = t.unique("q")
        later(t, "queue.delete", queue=queue)
        return queue, ask("queue.declare", queue=queue, durable=True, arguments=arguments)
    for argument, arguments, reason in cases:
        queue, answer = declare(**arguments)
        pairs.append((str(arguments), answer, refusal(
            406, f"invalid arg '{argument}' for queue '{queue}' in vhost '/': {reason}", DECLARE)))
    queue, answer = declare(**{"x-dead-letter-exchange": 1})
    pairs.append(("DLX a number", answer, refusal(
        406, f"invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue '{queue}' in vhost '/'", DECLARE)))
    exchange = t.unique("x")
    pairs.append(("AE a number", ask("exchange.declare", exchange=exchange, type="direct",
                                     arguments={"alternate-exchange": 1}), refusal(
        406, f"invalid type 'signedint' for arg 'alternate-exchange' in exchange '{exchange}' in vhost '/'",
        EXCHANGE_DECLARE)))
    same(pairs)


def test_invalid_arguments_of_quorum_queues_and_streams_3(t):
    ask = asker(t)
    pairs = []

    def answer(kind, argument, value):
        queue = t.unique("q")
        later(t, "queue.delete", queue=queue)
        return queue, ask("queue.declare", queue=queue, durable=True, arguments={"x-queue-type": kind, argument: value})
    for kind, argument, value, reason in (
            ("quorum", "x-dead-letter-strategy", "other", "invalid_dlx_strategy"),
            ("quorum", "x-dead-letter-strategy", 1, "{unacceptable_type,signedint}"),
            ("quorum", "x-overflow", "other", "invalid_overflow"),
            ("quorum", "x-queue-leader-locator", "other", "invalid_queue_locator_arg"),
            ("quorum", "x-consumer-timeout", -1, "{value_negative,-1}"),
            ("quorum", "x-consumer-timeout", "x", '"expected integer, got longstr"'),
            ("quorum", "x-consumer-disconnected-timeout", -1, "{value_negative,-1}"),
            ("quorum", "x-max-in-memory-length", "x", '"expected integer, got longstr"'),
            ("quorum", "x-max-in-memory-bytes", -1, "{value_negative,-1}"),
            ("quorum", "x-quorum-initial-group-size", 0, "{value_zero,0}"),
            ("stream", "x-initial-cluster-size", 0, "{value_zero,0}"),
            ("stream", "x-max-age", "5", "invalid_max_age"), ("stream", "x-max-age", 5, "{unacceptable_type,signedint}"),
            ("stream", "x-max-length-bytes", -1, "{value_negative,-1}"),
            ("stream", "x-stream-max-segment-size-bytes", -1, "{value_negative,-1}")):
        queue, line = answer(kind, argument, value)
        pairs.append((f"{kind}: {argument} = {value!r}", line, refusal(
            406, f"invalid arg '{argument}' for queue '{queue}' in vhost '/': {reason}", DECLARE)))
    for argument, value, text in (
            ("x-stream-max-segment-size-bytes", typed("l", 4_000_000_000),
             "Exceeded max value for x-stream-max-segment-size-bytes"),
            ("x-stream-filter-size-bytes", 15, "Invalid value for x-stream-filter-size-bytes"),
            ("x-stream-filter-size-bytes", 256, "Invalid value for x-stream-filter-size-bytes")):
        pairs.append((f"stream: {argument} = {value!r}", answer("stream", argument, value)[1], refusal(406, text, DECLARE)))
    # What one would not expect to be taken, and is.
    for kind, argument, value in (
            ("quorum", "x-delivery-limit", -2), ("quorum", "x-overflow", "reject-publish-dlx"),
            ("quorum", "x-consumer-timeout", 0), ("quorum", "x-delayed-retry-type", "other"),
            ("quorum", "x-consumer-timeout", typed("l", 2**62)),
            ("classic", "x-queue-mode", "other"), ("classic", "x-max-priority", 0), ("classic", "x-max-length", 0),
            ("classic", "x-expires", 315360000000), ("stream", "x-max-length-bytes", 0)):
        pairs.append((f"{kind}: {argument} = {value!r}", answer(kind, argument, value)[1], "ok"))
    same(pairs)


def test_arguments_of_another_queue_type_4(t):
    ask = asker(t)
    cases = [("quorum", "x-max-priority", 5), ("quorum", "x-queue-mode", "lazy"), ("quorum", "x-queue-version", 2),
             ("quorum", "x-max-age", "1h"), ("classic", "x-quorum-initial-group-size", 1), ("classic", "x-max-age", "1h"),
             ("classic", "x-dead-letter-strategy", "at-least-once"), ("classic", "x-consumer-timeout", 5),
             ("quorum", "x-queue-master-locator", "min-masters"), ("stream", "x-queue-master-locator", "min-masters"),
             ("classic", "x-delayed-retry-type", "all"), ("classic", "x-consumer-disconnected-timeout", 5),
             ("classic", "x-max-in-memory-length", 5), ("stream", "x-max-in-memory-bytes", 5),
             ("stream", "x-consumer-disconnected-timeout", 5), ("stream", "x-max-length", -5), ("quorum", "x-max-priority", "x"),
             ("stream", "x-message-ttl", 5),
             ("stream", "x-dead-letter-exchange", "d"), ("stream", "x-expires", 500), ("stream", "x-overflow", "drop-head"),
             ("stream", "x-max-length", 5), ("stream", "x-max-priority", 5), ("stream", "x-delivery-limit", 5),
             ("stream", "x-single-active-consumer", True), ("stream", "x-consumer-timeout", 5)]
    if t.suite.peer:  # the delivery limit is for classic queues, too, here
        cases.append(("classic", "x-delivery-limit", 5))
    pairs = []
    for kind, argument, value in cases:
        queue = t.unique("q")
        later(t, "queue.delete", queue=queue)
        answer = ask("queue.declare", queue=queue, durable=True, arguments={"x-queue-type": kind, argument: value})
        pairs.append((f"{argument} for {kind}", answer, refusal(
            406, f"invalid arg '{argument}' for queue '{queue}' in vhost '/' of queue type rabbit_{kind}_queue", DECLARE)))
    same(pairs)


def test_locked_queue_of_another_connection_5(t):
    owner, ask = open_channel(t), asker(t)
    name = t.unique("q")
    queue = owner.queue(name[:40], exclusive=True).queue
    text = (f"cannot obtain exclusive access to locked queue '{queue}' in vhost '/'. It could be originally declared on "
            "another connection or the exclusive property value does not match that of the original declaration.")
    other = kept_queue(t, owner)
    same([(f"{method} {arguments}", ask(method, **arguments), refusal(405, text, within)) for method, arguments, within in (
        ("queue.declare", {"queue": queue}, DECLARE), ("queue.declare", {"queue": queue, "passive": True}, DECLARE),
        ("queue.declare", {"queue": queue, "exclusive": True}, DECLARE),
        ("queue.bind", {"queue": queue, "exchange": "amq.direct", "routing_key": "k"}, BIND),
        ("basic.consume", {"queue": queue}, CONSUME), ("basic.get", {"queue": queue}, GET),
        ("queue.purge", {"queue": queue}, PURGE), ("queue.delete", {"queue": queue}, DELETE))])
    same([("exclusive where it is not", ask("queue.declare", queue=other, durable=True, exclusive=True),
           refusal(405, text.replace(queue, other), DECLARE))])
    same([("unbinding is allowed", ask("queue.unbind", queue=queue, exchange="amq.direct", routing_key="k"), "ok")])
    publish(ask.channel, queue, b"publishing is not touching")
    equal(bodies(got(owner, queue)), [b"publishing is not touching"])


def test_exclusive_queues_6(t):
    ask, other = asker(t), asker(t)
    queue = own_queue(t, ask.channel)
    same([("durable does not matter where it is exclusive",
           ask("queue.declare", queue=queue, exclusive=True, durable=True), "ok"),
          ("neither does it the other way", ask("queue.declare", queue=queue, exclusive=True), "ok")])
    require(is_gone(other.channel, t.unique("none")), "a probe")
    ask.channel.owner.close()
    poll("it goes with its connection", lambda: other("queue.declare", queue=queue, passive=True) == refusal(
        404, f"no queue '{queue}' in vhost '/'", DECLARE))


def test_passive_declare_7(t):
    ask = asker(t)
    channel = ask.channel
    queue = kept_queue(t, channel, **{"x-max-length": 50})
    publish(channel, queue, b"1", b"2", b"3")
    channel.get(queue)
    equal(channel.count(queue), (2, 0), "ready, without the one that is held")
    channel.consume(queue)
    channel.deliveries(2)
    wait_for(channel, queue, 0, 1)
    none = t.unique("none")
    same([
        ("other flags and arguments", ask("queue.declare", queue=queue, passive=True, auto_delete=True, durable=False,
                                          arguments={"x-max-length": -9, "x-queue-type": "stream"}), "ok"),
        ("nothing", ask("queue.declare", queue=none, passive=True), refusal(404, f"no queue '{none}' in vhost '/'", DECLARE)),
        ("no exchange", ask("exchange.declare", exchange=none, type="direct", passive=True),
         refusal(404, f"no exchange '{none}' in vhost '/'", EXCHANGE_DECLARE)),
        ("exchange of another type", ask("exchange.declare", exchange="amq.topic", type="fanout", passive=True), "ok"),
    ])


def test_passive_declare_needs_any_permission_7(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    made = open_channel(t, vhost=vhost)
    made.queue("q", durable=True)
    made.exchange("x", "direct", durable=True)
    for rules in (("^[qx]$", "", ""), ("", "^[qx]$", ""), ("", "", "^[qx]$")):
        user = own_user(t, operator, **{vhost: rules})
        ask = asker(t, vhost=vhost, user=user, password="secret")
        same([(f"queue, {rules}", ask("queue.declare", queue="q", passive=True), "ok"),
              (f"exchange, {rules}", ask("exchange.declare", exchange="x", type="direct", passive=True), "ok")])
    user = own_user(t, operator, **{vhost: ("^other$", "^other$", "^other$")})
    ask = asker(t, vhost=vhost, user=user, password="secret")
    same([("queue, nothing", ask("queue.declare", queue="q", passive=True),
           refusal(403, f"configure access to queue 'q' in vhost '{vhost}' refused for user '{user}'", DECLARE)),
          ("exchange, nothing", ask("exchange.declare", exchange="x", type="direct", passive=True),
           refusal(403, f"configure access to exchange 'x' in vhost '{vhost}' refused for user '{user}'",
                   EXCHANGE_DECLARE))])


def test_empty_queue_names_8(t):
    ask = asker(t)
    same([(method, ask(method, queue="", **arguments), refusal(404, "no previously declared queue", within))
          for method, arguments, within in (
              ("queue.bind", {"exchange": "amq.direct", "routing_key": "k"}, BIND),
              ("queue.unbind", {"exchange": "amq.direct", "routing_key": "k"}, UNBIND), ("queue.purge", {}, PURGE),
              ("queue.delete", {}, DELETE), ("basic.get", {}, GET), ("basic.consume", {}, CONSUME))])
    channel = ask.channel
    first = channel.queue(exclusive=True).queue
    require(first.startswith("amq.gen-") and len(first) == len("amq.gen-") + 22, first)
    last = channel.queue(exclusive=True).queue
    exchange = kept_exchange(t, channel)
    channel.bind("", exchange)
    channel.bind("", exchange, "key")
    confirming(channel)
    channel.publish(exchange, last, b"by its name")
    channel.publish(exchange, "key", b"by key")
    channel.publish(exchange, "", b"not by the empty key")
    channel.confirm()
    equal([channel.get("").body, channel.get("").body, channel.get("").name], [b"by its name", b"by key", "basic.get-empty"])
    channel.publish("", last, b"purged")
    channel.confirm()
    equal(channel.call("queue.purge", queue="").message_count, 1)
    channel.queue(first, passive=True)
    publish(channel, first, b"in the first")
    equal(channel.get("").body, b"in the first", "a passive declare counts as declared")
    equal(channel.call("queue.delete", queue="").message_count, 0)
    require(is_gone(channel, first), "the last declared was deleted")
    ask.channel.queue(exclusive=True)
    same([("a passive declare asks for a name, and not for the last one", ask("queue.declare", queue="", passive=True),
           refusal(404, "no queue '' in vhost '/'", DECLARE))])


def test_reserved_and_odd_names_9(t):
    ask = asker(t)
    same([
        ("queue", ask("queue.declare", queue="amq.x"),
         refusal(403, "queue name 'amq.x' contains reserved prefix 'amq.*'", DECLARE)),
        ("queue, exclusive", ask("queue.declare", queue="amq.x", exclusive=True),
         refusal(403, "queue name 'amq.x' contains reserved prefix 'amq.*'", DECLARE)),
        ("queue, passive", ask("queue.declare", queue="amq.x", passive=True),
         refusal(404, "no queue 'amq.x' in vhost '/'", DECLARE)),
        ("exchange", ask("exchange.declare", exchange="amq.x", type="direct"),
         refusal(403, "exchange name 'amq.x' contains reserved prefix 'amq.*'", EXCHANGE_DECLARE)),
        ("exchange, passive", ask("exchange.declare", exchange="amq.x", type="direct", passive=True),
         refusal(404, "no exchange 'amq.x' in vhost '/'", EXCHANGE_DECLARE)),
        ("deleting one of the predeclared", ask("exchange.delete", exchange="amq.direct"),
         refusal(403, "deletion of system exchange 'amq.direct' in vhost '/' not allowed", EXCHANGE_DELETE)),
        ("predeclared, as it is", ask("exchange.declare", exchange="amq.fanout", type="fanout", durable=True), "ok"),
        ("predeclared, of another type", ask("exchange.declare", exchange="amq.fanout", type="direct", durable=True),
         refusal(406, "inequivalent arg 'type' for exchange 'amq.fanout' in vhost '/': received 'direct' but current is "
                 "'fanout'", EXCHANGE_DECLARE)),
    ])
    name = t.unique("q")
    equal(ask.channel.queue(f"\r{name[:3]}\r\n{name[3:]}\n", exclusive=True).queue, name, "CR and LF are stripped")
    nameless = ask.channel.queue("\r\n", exclusive=True).queue
    require(nameless.startswith("amq.gen-"), f"nothing is left of the name, so it is generated: {nameless!r}")
    text = "Malformed UTF-8 in shortstr"
    same([("a name that is not UTF-8", ask("queue.declare", queue=b"\xc3\x28"), refusal(501, text, (0, 0))),
          ("an exchange's", ask("exchange.declare", exchange=b"\xff", type="direct"), refusal(501, text, (0, 0)))])
    exchange = t.unique("x")
    later(t, "exchange.delete", exchange=exchange)
    ask.channel.exchange(f"{exchange[:2]}\n{exchange[2:]}", "direct")
    ask.channel.exchange(exchange, "direct", passive=True)


def test_a_generated_name_is_reserved_too_9(t):
    ask = asker(t)
    own = ask.channel.queue(exclusive=True).queue
    same([("declared again", ask("queue.declare", queue=own, exclusive=True),
           refusal(403, f"queue name '{own}' contains reserved prefix 'amq.*'", DECLARE)),
          ("passive", ask("queue.declare", queue=own, passive=True), "ok")])


def test_quorum_and_stream_properties_10(t):
    ask = asker(t)
    queue = t.unique("q")
    later(t, "queue.delete", queue=queue)

    def declare(kind, name, **flags):
        return ask("queue.declare", queue=name, arguments={"x-queue-type": kind}, **flags)

    def invalid(what):
        return refusal(406, f"invalid property '{what}' for queue '{queue}' in vhost '/'", DECLARE)
    for kind in ("quorum", "stream"):
        same([
            (f"{kind}, no name", declare(kind, "", durable=True),
             refusal(406, f"Cannot declare a server-named queue for type rabbit_{kind}_queue", DECLARE)),
            (f"{kind}, auto-delete", declare(kind, queue, durable=True, auto_delete=True), invalid("auto-delete")),
            (f"{kind}, exclusive", declare(kind, queue, durable=True, exclusive=True), invalid("exclusive-owner")),
            (f"{kind}, transient", declare(kind, queue), invalid("non-durable")),
        ])


def test_transient_queues_11(t):
    """RabbitMQ 4.3.6 permits them by default."""
    ask = asker(t)
    one, two = t.unique("q"), t.unique("q")
    for queue in (one, two):
        later(t, "queue.delete", queue=queue)
    same([("transient", ask("queue.declare", queue=one), "ok"),
          ("transient and auto-delete", ask("queue.declare", queue=two, auto_delete=True), "ok")])


def test_queue_master_locator_11(t):
    ask = asker(t)
    queue = t.unique("q")
    later(t, "queue.delete", queue=queue)
    same([
        ("x-queue-master-locator", ask("queue.declare", queue=queue, durable=True,
                                       arguments={"x-queue-master-locator": "min-masters"}),
         refusal(541, "Feature `queue_master_locator` is deprecated.\nBy default, this feature is not permitted anymore.\n"
                 "The feature will be removed from a future major RabbitMQ version, regardless of the configuration; actual "
                 "version to be determined.\nTo continue using this feature", DECLARE)),
    ])


def test_unknown_exchange_type_12(t):
    ask = asker(t)
    same([("foo", ask("exchange.declare", exchange=t.unique("x"), type="foo"),
           refusal(406, "invalid exchange type 'foo'", EXCHANGE_DECLARE)),
          ("empty", ask("exchange.declare", exchange=t.unique("x"), type=""),
           refusal(406, "invalid exchange type ''", EXCHANGE_DECLARE)),
          ("passive", ask("exchange.declare", exchange="amq.direct", type="foo", passive=True), "ok")])


def test_deleting_what_is_not_there_or_in_use_13(t):
    ask = asker(t)
    none = t.unique("none")
    queue = own_queue(t, ask.channel)
    exchange = kept_exchange(t, ask.channel)
    source = kept_exchange(t, ask.channel)
    ask.channel.bind(queue, exchange, "k")
    consumer = ask.channel.owner.channel(2)
    consumer.consume(queue)
    same([
        ("queue", ask("queue.delete", queue=none), "ok"),
        ("queue, if-unused", ask("queue.delete", queue=none, if_unused=True, if_empty=True), "ok"),
        ("exchange", ask("exchange.delete", exchange=none), "ok"),
        ("exchange, if-unused", ask("exchange.delete", exchange=none, if_unused=True), "ok"),
        ("unbind another key", ask("queue.unbind", queue=queue, exchange=exchange, routing_key="other"), "ok"),
        ("unbind other arguments", ask("queue.unbind", queue=queue, exchange=exchange, routing_key="k",
                                       arguments={"a": 1}), "ok"),
        ("unbind a missing queue", ask("queue.unbind", queue=none, exchange=exchange, routing_key="k"), "ok"),
        ("unbind a missing exchange", ask("queue.unbind", queue=queue, exchange=none, routing_key="k"), "ok"),
        ("exchange.unbind", ask("exchange.unbind", source=source, destination=exchange, routing_key="k"), "ok"),
        ("exchange.unbind, missing", ask("exchange.unbind", source=none, destination=exchange, routing_key="k"), "ok"),
        ("bind to a missing exchange", ask("queue.bind", queue=queue, exchange=none, routing_key="k"),
         refusal(404, f"no exchange '{none}' in vhost '/'", BIND)),
        ("bind a missing queue", ask("queue.bind", queue=none, exchange=exchange, routing_key="k"),
         refusal(404, f"no queue '{none}' in vhost '/'", BIND)),
        ("exchange.bind, no source", ask("exchange.bind", source=none, destination=exchange, routing_key="k"),
         refusal(404, f"no exchange '{none}' in vhost '/'", EXCHANGE_BIND)),
        ("exchange.bind, no destination", ask("exchange.bind", source=source, destination=none, routing_key="k"),
         refusal(404, f"no exchange '{none}' in vhost '/'", EXCHANGE_BIND)),
        ("queue in use", ask("queue.delete", queue=queue, if_unused=True),
         refusal(406, f"queue '{queue}' in vhost '/' in use", DELETE)),
        ("exchange in use", ask("exchange.delete", exchange=exchange, if_unused=True),
         refusal(406, f"exchange '{exchange}' in vhost '/' in use", EXCHANGE_DELETE)),
    ])
    consumer.call("channel.close", reply_code=200)
    publish(ask.channel, queue, b"x")
    same([("queue not empty", ask("queue.delete", queue=queue, if_empty=True),
           refusal(406, f"queue '{queue}' in vhost '/' not empty", DELETE)),
          ("unused", ask("queue.delete", queue=queue, if_unused=True), "ok")])


def test_quorum_queues_refuse_conditional_deletes_13(t):
    ask = asker(t)
    queue = quorum_queue(t, ask.channel)
    same([(flag, ask("queue.delete", queue=queue, **{flag.replace("-", "_"): True}),
           refusal(540, f"cannot delete queue '{queue}' in vhost '/'. queue.delete operations with {flag} flag set are not "
                   "supported by quorum queues", DELETE)) for flag in ("if-unused", "if-empty")])


def test_default_exchange_14(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel)
    text = "operation not permitted on the default exchange"
    same([
        ("declare", ask("exchange.declare", exchange="", type="direct", durable=True), refusal(403, text, EXCHANGE_DECLARE)),
        ("passive", ask("exchange.declare", exchange="", type="direct", passive=True), refusal(403, text, EXCHANGE_DECLARE)),
        ("delete", ask("exchange.delete", exchange=""), refusal(403, text, EXCHANGE_DELETE)),
        ("bind", ask("queue.bind", queue=queue, exchange="", routing_key="k"), refusal(403, text, BIND)),
        ("unbind", ask("queue.unbind", queue=queue, exchange="", routing_key=queue), refusal(403, text, UNBIND)),
        ("as a source", ask("exchange.bind", source="", destination="amq.fanout"), refusal(403, text, EXCHANGE_BIND)),
        ("as a destination", ask("exchange.bind", source="amq.fanout", destination=""), refusal(403, text, EXCHANGE_BIND)),
        ("unbound as a source", ask("exchange.unbind", source="", destination="amq.fanout"),
         refusal(403, text, EXCHANGE_UNBIND)),
    ])
    publish(ask.channel, queue, b"by its name")
    equal(bodies(got(ask.channel, queue)), [b"by its name"])


def test_bindings_differ_by_their_arguments_15(t):
    channel = open_channel(t)
    queue, exchange = own_queue(t, channel), kept_exchange(t, channel)
    for _ in range(2):
        channel.bind(queue, exchange, "k")
    channel.bind(queue, exchange, "k", a=1)
    confirming(channel)

    def copies():
        channel.publish(exchange, "k", b"x")
        channel.confirm()
        return len(got(channel, queue))
    equal(copies(), 1, "two bindings, one copy")
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="k")
    equal(copies(), 1, "the one with arguments is left")
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="k", arguments={"a": 2})
    equal(copies(), 1, "other arguments are another binding")
    channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="k", arguments={"a": 1})
    equal(copies(), 0)


def test_auto_delete_is_gone_with_the_answer_16(t):
    channel = open_channel(t)
    watcher = channel.owner.channel(2)
    queue = t.unique("auto")
    later(t, "queue.delete", queue=queue)
    for _ in range(20):
        channel.queue(queue, durable=True, auto_delete=True)
        tag = channel.consume(queue)
        channel.call("basic.cancel", consumer_tag=tag)
        require(is_gone(watcher, queue), "who hears that his last consumer is gone finds no queue any more")
        channel.queue(queue, durable=True, auto_delete=True)
        channel.consume(queue)
        channel.call("channel.close", reply_code=200)
        require(is_gone(watcher, queue), "nor who hears that his channel is closed")
        channel.open()
        other = open_channel(t)
        other.queue(queue, durable=True, auto_delete=True)
        other.consume(queue)
        other.owner.close()
        require(is_gone(watcher, queue), "nor who hears that his connection is")


def test_auto_delete_16(t):
    channel = open_channel(t)
    watcher = channel.owner.channel(2)
    queue = t.unique("auto")
    later(t, "queue.delete", queue=queue)
    channel.queue(queue, durable=True, auto_delete=True)
    channel.get(queue)
    require(not is_gone(watcher, queue), "a get is no consumer")
    channel.consume(queue)
    channel.call("channel.close", reply_code=200)
    poll("it goes with the channel of its last consumer", lambda: is_gone(watcher, queue))
    channel.open()
    source = kept_exchange(t, channel, auto_delete=True)
    target = kept_exchange(t, channel, auto_delete=True)
    channel.call("exchange.bind", source=source, destination=target, routing_key="k")
    own = own_queue(t, channel)
    channel.bind(own, target, "k")
    channel.call("queue.delete", queue=own)  # the target loses its last binding as a source, and so does then the source

    def exchange_is_gone(name):
        try:
            watcher.exchange(name, "direct", passive=True)
            return False
        except closed as close:
            equal(close.code, 404)
            watcher.open()
            return True
    poll("the target goes", lambda: exchange_is_gone(target))
    poll("the source goes", lambda: exchange_is_gone(source))


def test_expires_17(t):
    channel = open_channel(t)
    watcher = channel.owner.channel(2)
    dead = own_queue(t, channel, "dead")
    dlx = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    idle = kept_queue(t, channel, "idle", **{"x-expires": 300}, **dlx)
    consumed = kept_queue(t, channel, "consumed", **{"x-expires": 300})
    asked = kept_queue(t, channel, "asked", **{"x-expires": 300})
    again = kept_queue(t, channel, "again", **{"x-expires": 300})
    publish(channel, idle, b"not dead-lettered")
    channel.consume(consumed, "c")
    since = time.monotonic()
    while elapsed(since) < 0.7:  # longer than twice the limit
        channel.get(asked)
        channel.queue(again, durable=True, arguments={"x-expires": 300})
        time.sleep(0.05)  # the pace at which they are used
    require(is_gone(watcher, idle), "it went, a passive declare or a publish does not keep it")
    for name in (consumed, asked, again):
        require(not is_gone(watcher, name), f"{name} was in use")
    channel.call("basic.cancel", consumer_tag="c")
    for name in (consumed, asked, again):
        # Asking passively whether it is there renews the lease, so it is not asked before it should be gone.
        time.sleep(0.45 if name == consumed else 0)
        poll(f"{name} goes when it is left alone", lambda n=name: is_gone(watcher, n), interval=0.5)
    equal(channel.count(dead), (0, 0), "expiry does not dead-letter")


def test_dead_letter_and_alternate_exchanges_need_permissions_18(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    dlx, ae = {"x-dead-letter-exchange": "d"}, {"alternate-exchange": "a"}

    def case(what, rules, method, arguments, needs):
        user = own_user(t, operator, **{vhost: rules})
        ask = asker(t, vhost=vhost, user=user, password="secret")
        within = DECLARE if method == "queue.declare" else EXCHANGE_DECLARE
        expected = refusal(403, f"{needs} in vhost '{vhost}' refused for user '{user}'", within) if needs else "ok"
        return what, ask(method, durable=True, **arguments), expected
    queue = {"queue": "q", "arguments": dlx}
    exchange = {"exchange": "x", "type": "direct", "arguments": ae}
    same([
        case("queue, no read", ("^q$", "^d$", ""), "queue.declare", queue, "read access to queue 'q'"),
        case("queue, no write", ("^q$", "", "^q$"), "queue.declare", queue, "write access to exchange 'd'"),
        case("queue, both", ("^q$", "^d$", "^q$"), "queue.declare", queue, ""),
        case("exchange, no read", ("^x$", "^a$", ""), "exchange.declare", exchange, "read access to exchange 'x'"),
        case("exchange, no write", ("^x$", "", "^x$"), "exchange.declare", exchange, "write access to exchange 'a'"),
        case("exchange, both", ("^x$", "^a$", "^x$"), "exchange.declare", exchange, ""),
    ])


def test_queue_limit_19(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    operator.set_vhost_limit(vhost, "max-queues", 2)
    ask = asker(t, vhost=vhost)
    same([
        ("first", ask("queue.declare", queue="a", durable=True), "ok"),
        ("second", ask("queue.declare", queue="b", exclusive=True), "ok"),
        ("third", ask("queue.declare", queue="c", durable=True),
         refusal(406, f"cannot declare queue 'c': queue limit in vhost '{vhost}' (2) is reached", DECLARE)),
        ("again", ask("queue.declare", queue="a", durable=True), "ok"),
        ("passive", ask("queue.declare", queue="c", passive=True),
         refusal(404, f"no queue 'c' in vhost '{vhost}'", DECLARE)),
    ])
    generated = ask("queue.declare", queue="", exclusive=True)
    require(generated.startswith("channel.close 406 PRECONDITION_FAILED - cannot declare queue 'amq.gen-"), generated)
    ask.channel.call("queue.delete", queue="b")
    same([("room again", ask("queue.declare", queue="c", durable=True), "ok")])


def test_policy_and_argument_20(t):
    operator = administration(t)
    vhost = own_vhost(t, operator)
    channel = open_channel(t, vhost=vhost)

    def left(queue, **arguments):
        """How many of ten messages such a queue keeps."""
        channel.queue(queue, durable=True, arguments=arguments)
        publish(channel, queue, *[b"%d" % n for n in range(10)])
        return len(got(channel, queue))
    operator.set_policy(vhost, "length", "^p", {"max-length": 5})
    equal(left("p.none"), 5, "the policy's")
    equal(left("p.lower", **{"x-max-length": 3}), 3, "the lower number: the argument's")
    equal(left("p.higher", **{"x-max-length": 8}), 5, "the lower number: the policy's")
    operator.set_policy(vhost, "strong", "^p[.]strong", {"max-length": 7}, priority=5)
    equal(left("p.strong"), 7, "one policy, by priority")
    operator.set_operator_policy(vhost, "cap", "^p", {"max-length": 4})
    equal(left("p.capped"), 4, "the operator's")
    equal(left("p.strong.capped"), 4, "the operator's caps that of the highest priority")
    equal(left("p.lower.capped", **{"x-max-length": 3}), 3, "the lowest of three")
    operator.clear_operator_policy(vhost, "cap")
    operator.clear_policy(vhost, "length")
    equal(left("p.later"), 10, "without a policy")
    # What is not a number: the argument wins.
    dead, other = own_queue(t, channel, "dead"), own_queue(t, channel, "other")
    operator.set_policy(vhost, "dead", "^d[.]", {"dead-letter-exchange": "", "dead-letter-routing-key": other,
                                                 "max-length": 1})
    equal(left("d.policy"), 1)
    wait_for(channel, other, 9)
    equal(left("d.argument", **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}), 1)
    wait_for(channel, dead, 9)
    equal(channel.count(other), (9, 0))
    # A policy reaches queues that are there.
    channel.queue("e", durable=True)
    publish(channel, "e", b"1", b"2", b"3")
    operator.set_policy(vhost, "late", "^e$", {"max-length": 2})
    wait_for(channel, "e", 2)
    equal(bodies(got(channel, "e")), [b"2", b"3"])
