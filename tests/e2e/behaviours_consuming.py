"""Behaviours 36 to 56: consuming and acknowledging. One test for each number of the reference list.

| number | where else it is tested |
| --- | --- |
| 37 | closes.consumer_tag_reuse_37, protocol.server_named_consumers_and_queues_8_37; the limit: here |
| 39 | protocol.cancel_keeps_what_is_unacknowledged_39 |
| 40 | a queue that goes: protocol.consumer_cancel_is_told_when_the_queue_goes_40; the client's answer: here |
| 41 | closes.unknown_delivery_tags_41; across consumers and by multiple: here |
| 42 | protocol: get_counts_and_empty_42, got_messages_do_not_count_in_prefetch_42 |
| 45 | closes.not_implemented_23_44_45; in order, and recover-async: here |
| 51 | protocol: unacknowledged_go_back_in_order_when_a_connection_is_lost_51, …_when_a_channel_closes_51 |
"""
import time

from amqp_raw import typed
from behaviours_administration import node_with_consumer_limit
from behaviours_stage import (asker, bodies, elapsed, get_soon, got, integer, kept_queue, long, open_channel, own_queue,
                              publish, quorum_queue, refusal, refused, same, silent, wait_for)
from harness import equal, require, skip

DECLARE, PURGE, QOS, CONSUME, CANCEL, PUBLISH, GET = (50, 10), (50, 30), (60, 10), (60, 20), (60, 30), (60, 40), (60, 70)
ACK, REJECT, NACK, RECOVER = (60, 80), (60, 90), (60, 120), (60, 110)


def test_home_node_down_36(t):
    raise skip("needs a cluster, one node of which is down")


def test_consumer_tags_37(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel)
    require(ask.channel.consume(queue).startswith("amq.ctag-"), "a generated tag")
    other = ask.channel.owner.channel(2)
    equal(ask.channel.consume(queue, "tag"), "tag")
    equal(other.consume(queue, "tag"), "tag", "another channel has tags of its own")
    ask.channel.call("basic.cancel", consumer_tag="tag")
    equal(ask.channel.consume(queue, "tag"), "tag", "free again once it is cancelled")
    same([("reuse", ask("basic.consume", queue=queue, consumer_tag="tag"),
           refusal(530, "attempt to reuse consumer tag 'tag'", CONSUME))])


def test_consumers_per_channel_37(t):
    with node_with_consumer_limit(t, 60) as node:
        channel = open_channel(t, node)
        queue = own_queue(t, channel)
        for _ in range(60):
            channel.consume(queue)
        channel.owner.channel(2).consume(queue)
        with refused(530, "reached maximum (60) of consumers per channel", CONSUME):
            channel.consume(queue)


def test_exclusive_consumers_38(t):
    ask = asker(t)
    queue = kept_queue(t, ask.channel)
    text = f"queue '{queue}' in vhost '/' in exclusive use"
    other = asker(t)
    other.channel.consume(queue, "x", exclusive=True)
    same([("a second", ask("basic.consume", queue=queue), refusal(403, text, CONSUME)),
          ("a second exclusive one", ask("basic.consume", queue=queue, exclusive=True), refusal(403, text, CONSUME)),
          ("get", ask("basic.get", queue=queue), "ok")])
    other.channel.call("basic.cancel", consumer_tag="x")
    ask.channel.consume(queue)
    same([("exclusive where there is one", other("basic.consume", queue=queue, exclusive=True),
           refusal(403, text, CONSUME))])


def test_exclusive_consumer_of_a_single_active_queue_38(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel, **{"x-single-active-consumer": True})
    same([("classic", ask("basic.consume", queue=queue, exclusive=True),
           refusal(403, f"queue '{queue}' in vhost '/' in exclusive use", CONSUME))])


def test_quorum_queues_ignore_exclusive_consumers_38(t):
    ask = asker(t)
    queue = quorum_queue(t, ask.channel)
    same([("exclusive", ask("basic.consume", queue=queue, exclusive=True), "ok"),
          ("and another", ask("basic.consume", queue=queue), "ok")])


def test_cancel_39(t):
    channel = open_channel(t)
    queue = own_queue(t, channel)
    equal(channel.call("basic.cancel", consumer_tag="never").consumer_tag, "never")
    publish(channel, queue, b"1", b"2")
    channel.consume(queue, "c")
    held = channel.deliveries(2)
    channel.call("basic.cancel", consumer_tag="c")
    equal(channel.count(queue), (0, 0))
    channel.send("basic.nack", delivery_tag=held[1].delivery_tag, multiple=True, requeue=True)
    wait_for(channel, queue, 2)


def test_cancel_from_the_server_40(t):
    channel = open_channel(t)
    other = open_channel(t)
    queue = kept_queue(t, channel)
    publish(channel, queue, b"held")
    tag = channel.consume(queue)
    held = channel.wait("basic.deliver")
    other.call("queue.delete", queue=queue)
    cancel = channel.wait("basic.cancel")
    equal((cancel.consumer_tag, cancel.nowait), (tag, True))
    if not t.suite.peer:  # RabbitMQ 4.3.6 ends the connection with 541 INTERNAL_ERROR here, which nobody can want
        channel.send("basic.cancel-ok", consumer_tag=tag)
    channel.send("basic.ack", delivery_tag=held.delivery_tag)  # what it held is gone, and its tag is still known
    channel.call("basic.qos")
    kept_queue(t, channel)
    # Who did not ask for it is not told, and its channel lives on.
    plain = open_channel(t, capabilities={})
    queue = kept_queue(t, channel)
    plain.consume(queue)
    other.call("queue.delete", queue=queue)
    silent(plain, "basic.cancel")
    plain.call("basic.qos")


def test_delivery_tags_41(t):
    ask = asker(t)
    channel = ask.channel
    queue = own_queue(t, channel)
    other_queue = own_queue(t, channel)
    publish(channel, queue, b"1", b"2", b"3")
    publish(channel, other_queue, b"4", b"5")
    channel.consume(queue)
    channel.deliveries(3)
    channel.get(other_queue)
    equal(channel.get(other_queue).delivery_tag, 5, "one row of tags for consumers and gets")
    channel.send("basic.ack", delivery_tag=4, multiple=True)  # across consumers and gets
    channel.send("basic.nack", delivery_tag=5, requeue=True)
    wait_for(channel, other_queue, 1)
    wait_for(channel, queue, 0)
    equal(channel.get(other_queue).delivery_tag, 6, "a tag is never used again")
    for name, arguments in (("basic.ack", {}), ("basic.nack", {"requeue": True}), ("basic.nack", {})):
        channel.send(name, delivery_tag=0, multiple=True, **arguments)
        channel.send(name, delivery_tag=0, multiple=True, **arguments)  # nothing is outstanding: no error

    def unknown(name, tag, within, setup=0, **arguments):
        queue = own_queue(t, ask.channel)
        for n in range(setup):
            publish(ask.channel, queue, b"%d" % n)
            ask.channel.get(queue)
            ask.channel.send("basic.ack", delivery_tag=n + 1)

        def action():
            ask.channel.send(name, delivery_tag=tag, **arguments)
            ask.channel.call("basic.qos")
        return f"{name} {tag} {arguments}", ask.judge(action), refusal(406, f"unknown delivery tag {tag}", within)
    same([unknown("basic.ack", 77, ACK), unknown("basic.reject", 77, REJECT), unknown("basic.nack", 77, NACK),
          unknown("basic.ack", 77, ACK, multiple=True), unknown("basic.nack", 77, NACK, multiple=True),
          unknown("basic.ack", 2, ACK, 2), unknown("basic.ack", 2, ACK, 2, multiple=True),
          unknown("basic.ack", 0, ACK), unknown("basic.reject", 0, REJECT), unknown("basic.nack", 0, NACK)])
    publish(ask.channel, queue, b"another channel's")
    held = ask.channel.owner.channel(2)
    got_message = get_soon(held, queue, no_ack=False)
    ask.channel.send("basic.ack", delivery_tag=got_message.delivery_tag)
    same([("ack on another channel", ask.judge(lambda: ask.channel.call("basic.qos")),
           refusal(406, "unknown delivery tag 1", ACK))])


def test_get_42(t):
    channel = open_channel(t)
    for queue in (own_queue(t, channel), quorum_queue(t, channel)):
        publish(channel, queue, b"1", b"2", b"3")
        equal([channel.get(queue).message_count for _ in range(3)], [2, 1, 0])
        equal(channel.get(queue).name, "basic.get-empty")
        channel.send("basic.nack", delivery_tag=0, multiple=True, requeue=True)
        wait_for(channel, queue, 3)
        equal(channel.get(queue, no_ack=True).message_count, 2)


def test_get_on_a_single_active_queue_43(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel, **{"x-single-active-consumer": True})
    quorum = quorum_queue(t, ask.channel, **{"x-single-active-consumer": True})
    same([
        ("classic", ask("basic.get", queue=queue), "ok"),  # allowed in 4.3.6
        ("quorum", ask("basic.get", queue=quorum), refusal(
            405, f"cannot obtain access to locked queue '{quorum}' in vhost '/'. basic.get operations are not supported by "
            "<<\"quorum\">> queues with single active consumer", GET))])


def test_qos_44(t):
    ask = asker(t)
    same([("size", ask("basic.qos", prefetch_size=7), refusal(540, "prefetch_size!=0 (7)", QOS)),
          ("global", ask("basic.qos", prefetch_count=1, **{"global": True}), "ok")])
    channel, watcher = ask.channel, ask.channel.owner.channel(2)
    one, two, three = (own_queue(t, channel) for _ in range(3))
    for queue in (one, two, three):
        publish(channel, queue, *[b"%d" % n for n in range(5)])
    channel.consume(one)
    channel.consume(two)
    channel.deliveries(2)  # global=true counts per consumer: one message each
    equal((watcher.count(one), watcher.count(two)), ((4, 1), (4, 1)))
    channel.call("basic.qos", prefetch_count=2)
    channel.consume(three)
    channel.deliveries(2)
    equal((watcher.count(one), watcher.count(two), watcher.count(three)), ((4, 1), (4, 1), (3, 1)),
          "consumers that are there keep their limit")
    quorum = quorum_queue(t, channel)
    channel.call("basic.qos", prefetch_count=3, **{"global": True})
    publish(watcher, quorum, *[b"%d" % n for n in range(5)])
    channel.consume(quorum)
    equal(bodies(channel.deliveries(3)), [b"0", b"1", b"2"], "a quorum queue takes it, too")
    wait_for(watcher, quorum, 2)


def test_recover_45(t):
    ask = asker(t)
    same([("requeue=false", ask("basic.recover"), refusal(540, "requeue=false", RECOVER))])
    channel = ask.channel
    other = channel.owner.channel(2)
    queue = own_queue(t, channel)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    channel.get(queue)
    other.get(queue)
    channel.get(queue)
    channel.call("basic.recover", requeue=True)
    wait_for(channel, queue, 3)
    equal([(each.body, each.redelivered) for each in got(channel, queue)], [(b"1", True), (b"3", True), (b"4", False)],
          "what the other channel holds is not touched")
    publish(channel, queue, b"5")
    channel.consume(queue)
    first = channel.wait("basic.deliver")
    channel.call("basic.recover", requeue=True)
    again = channel.wait("basic.deliver")
    equal((again.body, again.redelivered, again.delivery_tag), (b"5", True, first.delivery_tag + 1))
    channel.send("basic.recover-async", requeue=True)
    equal(channel.wait("basic.deliver", "basic.recover-ok").name, "basic.deliver", "recover-async is not answered")
    silent(channel, "basic.recover-ok", seconds=0.05)


def test_no_ack_46(t):
    channel = open_channel(t)
    watcher = open_channel(t)
    queue = kept_queue(t, watcher)
    publish(watcher, queue, b"1", b"2", b"3")
    channel.call("basic.qos", prefetch_count=1)  # does not count for those who do not acknowledge
    channel.consume(queue, no_ack=True, no_local=True)
    equal([each.delivery_tag for each in channel.deliveries(3)], [1, 2, 3], "they have tags, too")
    channel.publish("", queue, b"mine")
    equal(channel.wait("basic.deliver").body, b"mine", "no_local is ignored")
    channel.send("basic.ack", delivery_tag=2)
    with refused(406, "unknown delivery tag 2", ACK):
        channel.call("basic.qos")
    channel.owner.drop()
    wait_for(watcher, queue, 0, 0)


def counts(message):
    """What a quorum queue says about earlier deliveries: (redelivered, x-delivery-count, x-acquired-count)."""
    headers = message.properties.get("headers", {})
    return message.redelivered, headers.get("x-delivery-count"), headers.get("x-acquired-count")


def test_reject_and_nack_47(t):
    channel = open_channel(t)
    queue = quorum_queue(t, channel)

    def after(give_back):
        publish(channel, queue, b"x")
        give_back(get_soon(channel, queue, no_ack=False))
        return counts(get_soon(channel, queue))

    def by_channel_close(_):
        channel.call("channel.close", reply_code=200)
        channel.open()
        channel.confirms = False
    same([
        ("reject", after(lambda m: channel.send("basic.reject", delivery_tag=m.delivery_tag, requeue=True)),
         (True, long(1), long(1))),
        ("nack", after(lambda m: channel.send("basic.nack", delivery_tag=m.delivery_tag, requeue=True)),
         (True, None, long(1))),
        ("recover", after(lambda m: channel.call("basic.recover", requeue=True)), (True, None, long(1))),
        ("channel close", after(by_channel_close), (True, long(1), long(1))),
    ])


def test_delivery_count_headers_48(t):
    channel = open_channel(t)
    queue = quorum_queue(t, channel)
    publish(channel, queue, b"x", headers={"mine": 1})
    seen = []
    for _ in range(3):
        message = get_soon(channel, queue, no_ack=False)
        seen.append((message.redelivered, message.properties["headers"]))
        channel.send("basic.reject", delivery_tag=message.delivery_tag, requeue=True)
    for _ in range(2):
        message = get_soon(channel, queue, no_ack=False)
        seen.append((message.redelivered, message.properties["headers"]))
        channel.send("basic.nack", delivery_tag=message.delivery_tag, requeue=True)
    mine = {"mine": integer(1)}
    equal(seen, [(False, mine),
                 (True, {**mine, "x-acquired-count": long(1), "x-delivery-count": long(1)}),
                 (True, {**mine, "x-acquired-count": long(2), "x-delivery-count": long(2)}),
                 (True, {**mine, "x-acquired-count": long(3), "x-delivery-count": long(3)}),
                 (True, {**mine, "x-acquired-count": long(4), "x-delivery-count": long(3)})])
    classic = own_queue(t, channel)
    publish(channel, classic, b"x")
    channel.send("basic.reject", delivery_tag=channel.get(classic).delivery_tag, requeue=True)
    message = get_soon(channel, classic)
    equal((message.redelivered, message.properties), (True, {}), "a classic queue counts nothing")


def returned_until_gone(channel, queue, at_most):
    """How often a message can be rejected before it is gone."""
    for n in range(at_most):
        try:
            message = get_soon(channel, queue, no_ack=False, timeout=0.5)
        except AssertionError:
            return n
        channel.send("basic.reject", delivery_tag=message.delivery_tag, requeue=True)
    return at_most


def test_delivery_limit_49(t):
    channel = open_channel(t)
    dead = own_queue(t, channel, "dead")
    dlx = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    for limit, times in ((0, 1), (2, 3), (None, 21)):
        queue = quorum_queue(t, channel, **dlx, **({} if limit is None else {"x-delivery-limit": limit}))
        publish(channel, queue, b"x")
        equal(returned_until_gone(channel, queue, times + 3), times, f"deliveries at limit {limit}")
        message = get_soon(channel, dead)
        headers = message.properties["headers"]
        equal([(each["reason"], each["queue"], each["count"]) for each in headers["x-death"]],
              [("delivery_limit", queue, long(1))])
        equal(headers.get("x-first-death-reason"), "delivery_limit")
    queue = quorum_queue(t, channel, **dlx, **{"x-delivery-limit": -1})
    publish(channel, queue, b"x")
    equal(returned_until_gone(channel, queue, 25), 25, "-1 switches it off")


def test_position_of_what_comes_back_50(t):
    channel = open_channel(t)
    classic, quorum = own_queue(t, channel), quorum_queue(t, channel)
    for queue, expected in ((classic, [b"1", b"3", b"4", b"5"]), (quorum, [b"3", b"1", b"4", b"5"])):
        publish(channel, queue, b"1", b"2", b"3", b"4")
        held = [channel.get(queue) for _ in range(3)]
        channel.send("basic.nack", delivery_tag=held[2].delivery_tag, requeue=True)
        wait_for(channel, queue, 2)
        channel.send("basic.nack", delivery_tag=held[0].delivery_tag, requeue=True)
        wait_for(channel, queue, 3)
        publish(channel, queue, b"5")
        equal(bodies(got(channel, queue)), expected, queue)
    publish(channel, quorum, b"low", priority=0)
    held = channel.get(quorum)
    publish(channel, quorum, b"high", priority=31)
    channel.send("basic.nack", delivery_tag=held.delivery_tag, requeue=True)
    wait_for(channel, quorum, 2)
    equal(bodies(got(channel, quorum)), [b"low", b"high"], "what came back goes first, whatever its priority")


def test_a_lost_connection_51(t):
    watcher = open_channel(t)
    for queue in (kept_queue(t, watcher), quorum_queue(t, watcher)):
        lost = open_channel(t)
        publish(watcher, queue, *[b"%d" % n for n in range(6)])
        lost.call("basic.qos", prefetch_count=3)
        lost.consume(queue)
        lost.deliveries(3)
        lost.owner.drop()
        wait_for(watcher, queue, 6, 0)
        equal([(each.body, each.redelivered) for each in got(watcher, queue)], [(b"%d" % n, n < 3) for n in range(6)])


def single_active(t, declare, shown):
    channel = open_channel(t)
    queue = declare(t, channel, **{"x-single-active-consumer": True})
    one, two, three = (channel.owner.channel(n) for n in (2, 3, 4))
    for each in (one, two, three):
        each.consume(queue, f"c{each.id}")
    publish(channel, queue, b"1", b"2", b"3")
    equal(bodies(one.deliveries(3)), [b"1", b"2", b"3"], "the first has them all")
    silent(two, "basic.deliver", seconds=0.05)
    equal(channel.count(queue), (0, shown), "consumers that are told of")
    one.send("basic.ack", delivery_tag=0, multiple=True)
    one.call("basic.cancel", consumer_tag="c2")
    publish(channel, queue, b"4")
    equal(two.wait("basic.deliver").body, b"4", "then the second")
    two.call("channel.close", reply_code=200)
    message = three.wait("basic.deliver")
    equal((message.body, message.redelivered), (b"4", True), "then the third")


def test_single_active_consumer_of_a_classic_queue_52(t):
    single_active(t, own_queue, 3)  # those who wait are counted


def test_single_active_consumer_of_a_quorum_queue_52(t):
    single_active(t, quorum_queue, 1)  # they are not


def test_single_active_consumer_with_priorities_52(t):
    channel = open_channel(t)
    queue = quorum_queue(t, channel, **{"x-single-active-consumer": True})
    low, high = channel.owner.channel(2), channel.owner.channel(3)
    low.consume(queue, "low")
    publish(channel, queue, b"1")
    held = low.wait("basic.deliver")
    high.consume(queue, "high", arguments={"x-priority": 5})
    publish(channel, queue, b"2")
    silent(high, "basic.deliver")  # not while the other still holds something
    silent(low, "basic.deliver", seconds=0.05)
    low.send("basic.ack", delivery_tag=held.delivery_tag)
    equal(high.wait("basic.deliver").body, b"2", "it takes over once all is settled")
    publish(channel, queue, b"3")
    equal(high.wait("basic.deliver").body, b"3")


def by_priority(t, declare):
    channel = open_channel(t)
    queue = declare(t, channel)
    low, high = channel.owner.channel(2), channel.owner.channel(3)
    for each, arguments in ((low, {"x-priority": -1}), (high, {"x-priority": 10})):
        each.call("basic.qos", prefetch_count=2)
        each.consume(queue, arguments=arguments)
    publish(channel, queue, *[b"%d" % n for n in range(6)])
    equal(bodies(high.deliveries(2)), [b"0", b"1"], "the higher first")
    equal(bodies(low.deliveries(2)), [b"2", b"3"], "while it is full, the lower")
    high.send("basic.ack", delivery_tag=0, multiple=True)
    equal(bodies(high.deliveries(2)), [b"4", b"5"])


def test_consumer_priorities_of_a_classic_queue_53(t):
    by_priority(t, own_queue)


def test_consumer_priorities_of_a_quorum_queue_53(t):
    by_priority(t, quorum_queue)


def test_consumer_priority_of_a_wrong_type_53(t):
    ask = asker(t)
    queue = own_queue(t, ask.channel)
    same([("a string", ask("basic.consume", queue=queue, arguments={"x-priority": "high"}),
           refusal(406, f"invalid arg 'x-priority' for queue '{queue}' in vhost '/': \"expected integer, got longstr\"",
                   CONSUME))])


def test_consumer_timeout_of_other_queues_54(t):
    ask = asker(t)
    ask("basic.qos", prefetch_count=5)
    pairs = []
    for kind in ("classic", "stream"):
        queue = kept_queue(t, ask.channel, **{"x-queue-type": kind})
        for value in (1000, -1, "x"):
            ask("basic.qos", prefetch_count=5)
            pairs.append((f"{kind}, {value}", ask("basic.consume", queue=queue, arguments={"x-consumer-timeout": value}), refusal(
                406, f"invalid arg 'x-consumer-timeout' for queue '{queue}' in vhost '/' of queue type rabbit_{kind}_queue",
                CONSUME)))
    same(pairs)


def test_consumer_timeout_54(t):
    told, watcher = open_channel(t), open_channel(t)
    queue = quorum_queue(t, watcher, **{"x-consumer-timeout": 1000})
    publish(watcher, queue, b"x")
    since = time.monotonic()
    tag = told.consume(queue)
    told.wait("basic.deliver")
    equal(told.wait("basic.cancel", timeout=15).consumer_tag, tag)
    require(elapsed(since) > 0.8, f"after {elapsed(since):.1f} s")
    wait_for(watcher, queue, 1, 1)  # the consumer is not forgotten: it gets nothing until it settles what it held
    silent(told, "basic.deliver", seconds=0.05)
    told.send("basic.ack", delivery_tag=1)  # too late to settle the message, and no error: the consumer is taken back
    message = told.wait("basic.deliver")
    equal((message.consumer_tag, message.delivery_tag, message.body, counts(message)),
          (tag, 2, b"x", (True, None, long(1))))
    told.send("basic.nack", delivery_tag=2, requeue=True)
    told.call("basic.cancel", consumer_tag=tag)
    wait_for(watcher, queue, 1, 0)
    plain, queue = open_channel(t, capabilities={}), quorum_queue(t, watcher, **{"x-consumer-timeout": 60_000})
    publish(watcher, queue, b"x")
    plain.consume(queue, arguments={"x-consumer-timeout": 500})
    plain.wait("basic.deliver")
    since = time.monotonic()
    # RabbitMQ 4.3.6 always shows -1, whoever set the timeout.
    with refused(406, "delivery acknowledgement on channel 1 timed out. Timeout value used: -1 ms. This timeout value can "
                 "be configured, see consumers doc guide to learn more", (0, 0)):
        plain.wait("basic.cancel", timeout=15)
    require(elapsed(since) > 0.4, f"after {elapsed(since):.2f} s: what the consumer asks for counts, not what the queue")
    wait_for(watcher, queue, 1, 0)
    message = watcher.get(queue, no_ack=True)
    equal(counts(message)[1], None, "a timeout does not count towards the delivery limit")


def test_streams_55(t):
    ask = asker(t)
    queue = kept_queue(t, ask.channel, "stream", **{"x-queue-type": "stream"})
    same([
        ("consume without prefetch", ask("basic.consume", queue=queue),
         refusal(406, f"consumer prefetch count is not set for stream queue '{queue}' in vhost '/'", CONSUME)),
        ("get", ask("basic.get", queue=queue),
         refusal(540, f"basic.get not supported by stream queues queue '{queue}' in vhost '/'", GET)),
        ("purge", ask("queue.purge", queue=queue), refusal(
            540, f"queue.purge not supported by stream queues queue '{queue}' in vhost '/'", PURGE)),
    ])
    ask.channel.call("basic.qos", prefetch_count=5)
    same([("auto-ack", ask("basic.consume", queue=queue, no_ack=True), refusal(
        540, f"automatic acknowledgement not supported by stream queue '{queue}' in vhost '/'", CONSUME))])
    ask.channel.call("basic.qos", prefetch_count=5)
    same([("an offset of no kind", ask("basic.consume", queue=queue, arguments={"x-stream-offset": "soon"}),
           refusal(406, f"invalid arg 'x-stream-offset' for queue '{queue}' in vhost '/': "
                   "{invalid_stream_offset_arg,{longstr,<<\"soon\">>}}", CONSUME))])
    channel = ask.channel
    publish(channel, queue, b"0", b"1", b"2")
    for start, first in (("first", 0), (typed("l", 1), 1), (typed("T", 0), 0), ("1h", 0)):
        reader = open_channel(t)
        reader.call("basic.qos", prefetch_count=10)
        reader.consume(queue, arguments={"x-stream-offset": start})
        read = reader.deliveries(3 - first)
        equal([(each.body, each.properties["headers"]["x-stream-offset"], each.redelivered) for each in read],
              [(b"%d" % n, long(n), False) for n in range(first, 3)], f"from {start}")
    late = []
    for start in ("next", None):  # which is what is meant where nothing is said
        late.append(open_channel(t))
        late[-1].call("basic.qos", prefetch_count=10)
        late[-1].consume(queue, arguments={"x-stream-offset": start} if start else {})
    publish(channel, queue, b"3")
    for reader in late:
        equal(reader.wait("basic.deliver").body, b"3")
    reader = open_channel(t)
    reader.call("basic.qos", prefetch_count=10)
    reader.consume(queue, arguments={"x-stream-offset": "last"})  # the chunk that was written last
    equal(reader.wait("basic.deliver").body, b"3")


def test_direct_reply_to_consume_56(t):
    ask = asker(t)
    pseudo = "amq.rabbitmq.reply-to"
    for passive in (True, False):
        answer = ask.channel.queue(pseudo, passive=passive)
        equal((answer.queue, answer.message_count, answer.consumer_count), (pseudo, 0, 1), "it is always there")
    same([("with acknowledgements", ask("basic.consume", queue=pseudo),
           refusal(406, "reply consumer cannot acknowledge", CONSUME))])
    ask.channel.consume(pseudo, "r", no_ack=True)
    same([("twice", ask("basic.consume", queue=pseudo, no_ack=True), refusal(406, "reply consumer already set", CONSUME))])
    channel = ask.channel
    requests = own_queue(t, channel)
    channel.consume(pseudo, "r", no_ack=True)
    channel.publish("", requests, b"ask", reply_to=pseudo)
    address = get_soon(channel, requests).properties["reply_to"]
    other = asker(t)
    for passive in (True, False):
        answer = other.channel.queue(address, passive=passive)
        equal((answer.queue, answer.message_count, answer.consumer_count), (address, 0, 1))
    second = channel.owner.channel(2)
    second.publish("", requests, b"from another channel", reply_to=pseudo)
    with refused(406, "fast reply consumer does not exist", PUBLISH):
        second.call("basic.qos")
    channel.call("basic.cancel", consumer_tag="r")
    same([("passive declare of a dead address", other("queue.declare", queue=address, passive=True),
           refusal(404, f"no queue '{address}' in vhost '/'", DECLARE))])
    same([("the consumer can be set again", ask("basic.consume", queue=pseudo, no_ack=True), "ok")])
