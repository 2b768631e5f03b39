"""What the broker does with messages. Numbers in names are those of the reference list of behaviours."""
from amqp_raw import closed, field, reader, typed
from behaviours_stage import is_gone
from harness import equal, poll, require


def bodies(deliveries):
    return [each.body for each in deliveries]


def drain(channel, queue):
    """Every ready message's body, in order; what is got is settled."""
    out = []
    while (answer := channel.get(queue, no_ack=True)).name == "basic.get-ok":
        out.append(answer.body)
    return out


def routed(channel, publishes, queues):
    """Publishes (exchange, key, body, properties) with confirms; returns each queue's bodies."""
    channel.call("confirm.select")
    for exchange, key, body, properties in publishes:
        channel.publish(exchange, key, body, **properties)
    channel.confirm()
    return [drain(channel, queue) for queue in queues]


def test_start_says_who_it_is(t):
    with t.shared_node().connect() as connection:
        properties = connection.start.server_properties
        equal(set(properties), {"product", "version", "platform", "capabilities", "information", "copyright", "cluster_name"})
        equal(properties["capabilities"], dict.fromkeys((
            "publisher_confirms", "exchange_exchange_bindings", "basic.nack", "consumer_cancel_notify", "connection.blocked",
            "consumer_priorities", "authentication_failure_close", "per_consumer_qos", "direct_reply_to"), True))
        equal((properties["product"], properties["version"]), ("RabbitMQ", "4.3.6"), "whose clients are at home here")
        if not t.suite.peer:
            require(properties["platform"].startswith("Posthorn "), f"platform {properties['platform']}")
            require("Posthorn" in properties["information"], f"information {properties['information']}")
        mechanisms = connection.start.mechanisms.decode().split()
        require({"PLAIN", "AMQPLAIN"} <= set(mechanisms), f"mechanisms {mechanisms}")
        equal((connection.tune.channel_max, connection.tune.frame_max, connection.tune.heartbeat), (2047, 131072, 60))


def test_amqplain_login(t):
    with t.shared_node().connect(mechanism="AMQPLAIN") as connection:
        connection.channel()


def test_header_0_9_is_accepted_68(t):
    connection = t.shared_node().raw()
    connection.send_raw(b"AMQP\x01\x01\x00\x09")
    connection.wait(0, "connection.start")
    connection.drop()


def test_default_exchange(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        equal(routed(channel, [("", queue, "a", {}), ("", queue + "x", "b", {})], [queue]), [[b"a"]])


def test_direct_exchange_and_idempotent_bindings_15(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        exchange, one, two = t.unique("direct"), channel.queue(exclusive=True).queue, channel.queue(exclusive=True).queue
        channel.exchange(exchange, "direct")
        for _ in range(2):
            channel.bind(one, exchange, "k")
        channel.bind(two, exchange, "k")
        channel.bind(two, exchange, "l")
        got = routed(channel, [(exchange, "k", "1", {}), (exchange, "l", "2", {}), (exchange, "m", "3", {})], [one, two])
        equal(got, [[b"1"], [b"1", b"2"]])
        channel.call("queue.unbind", queue=two, exchange=exchange, routing_key="k")
        channel.call("queue.unbind", queue=two, exchange=exchange, routing_key="never bound")
        equal(routed(channel, [(exchange, "k", "4", {})], [one, two]), [[b"4"], []])
        channel.call("exchange.delete", exchange=exchange)


def test_fanout_exchange(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        exchange = t.unique("fanout")
        queues = [channel.queue(exclusive=True).queue for _ in range(5)]
        channel.exchange(exchange, "fanout")
        for queue in queues:
            channel.bind(queue, exchange, "ignored")
        got = routed(channel, [(exchange, "", "1", {}), (exchange, "any", "2", {})], queues)
        equal(got, [[b"1", b"2"]] * 5)
        channel.call("exchange.delete", exchange=exchange)


def test_topic_exchange_34(t):
    patterns = ["#", "*", "a.#", "#.c", "a.*.c", "a.#.c", "*.*", "a.b", "#.#", "a..b", "*.#.*", ""]
    keys = ["", "a", "a.b", "a.b.c", "a.c", "a.x.y.c", "b.c", "a..b", "c"]

    def matches(pattern, key):
        def go(left, right):
            if not left:
                return not right
            if left[0] == "#":
                return any(go(left[1:], right[at:]) for at in range(len(right) + 1))
            return bool(right) and left[0] in ("*", right[0]) and go(left[1:], right[1:])
        return go(pattern.split(".") if pattern else [], key.split(".") if key else [])

    with t.shared_node().connect() as connection:
        channel = connection.channel()
        exchange = t.unique("topic")
        channel.exchange(exchange, "topic")
        queues = []
        for pattern in patterns:
            queues.append(channel.queue(exclusive=True).queue)
            channel.bind(queues[-1], exchange, pattern)
        got = routed(channel, [(exchange, key, key or "(empty)", {}) for key in keys], queues)
        for pattern, found in zip(patterns, got):
            equal(found, [(key or "(empty)").encode() for key in keys if matches(pattern, key)], f"pattern {pattern!r}")
        channel.call("exchange.delete", exchange=exchange)


def test_headers_exchange_34(t):
    bindings = [{"x-match": "all", "a": 1, "b": "x"}, {"x-match": "any", "a": 1, "b": "x"}, {"a": 1}, {"a": None},
                {"x-match": "all"}, {"x-match": "any"}, {"x-match": "all", "a": 1, "x-b": "y"},
                {"x-match": "all-with-x", "a": 1, "x-b": "y"}, {"x-match": "any-with-x", "x-b": "y"}]
    messages = {"1": {"a": 1, "b": "x"}, "2": {"a": 1}, "3": {"b": "x"}, "4": {"a": "1"}, "5": {}, "6": {"x-b": "y"},
                "7": {"a": 1, "x-b": "y"}}
    expected = [["1"], ["1", "2", "3", "7"], ["1", "2", "7"], ["1", "2", "4", "7"], list(messages), [],
                ["1", "2", "7"], ["7"], ["6", "7"]]
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        exchange = t.unique("headers")
        channel.exchange(exchange, "headers")
        queues = []
        for arguments in bindings:
            queues.append(channel.queue(exclusive=True).queue)
            channel.bind(queues[-1], exchange, "", **arguments)
        got = routed(channel, [(exchange, "", body, {"headers": headers}) for body, headers in messages.items()], queues)
        for arguments, found, wanted in zip(bindings, got, expected):
            equal([each.decode() for each in found], wanted, f"binding {arguments}")
        # Two bindings of one queue that differ in their arguments are two, and still bring one copy (15).
        channel.bind(queues[0], exchange, "", a=1)
        equal(routed(channel, [(exchange, "", "one", {"headers": {"a": 1, "b": "x"}})], [queues[0]]), [[b"one"]])
        channel.call("exchange.delete", exchange=exchange)


def test_predeclared_exchanges(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        for name, kind in (("amq.direct", "direct"), ("amq.fanout", "fanout"), ("amq.topic", "topic"),
                           ("amq.headers", "headers"), ("amq.match", "headers")):
            channel.exchange(name, kind, durable=True)
            channel.exchange(name, kind, passive=True)


def test_exchange_to_exchange_bindings(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        one, two, queue = t.unique("source"), t.unique("target"), channel.queue(exclusive=True).queue
        channel.exchange(one, "topic")
        channel.exchange(two, "fanout")
        channel.call("exchange.bind", source=one, destination=two, routing_key="a.#")
        channel.bind(queue, two)
        channel.bind(queue, one, "a.b")
        equal(routed(channel, [(one, "a.b", "once", {}), (one, "b", "no", {})], [queue]), [[b"once"]])
        channel.call("exchange.unbind", source=one, destination=two, routing_key="a.#")
        equal(routed(channel, [(one, "a.c", "no", {})], [queue]), [[]])
        channel.call("exchange.delete", exchange=one)
        channel.call("exchange.delete", exchange=two)


def test_mandatory_return_comes_before_the_ack_24(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        channel.call("confirm.select")
        channel.publish("amq.direct", t.unique("nobody"), b"x" * 300_000, mandatory=True, message_id="m", headers={"h": 1})
        back = channel.wait("basic.return", "basic.ack")
        equal((back.name, back.reply_code, back.reply_text, back.exchange), ("basic.return", 312, "NO_ROUTE", "amq.direct"))
        equal((len(back.body), back.properties["message_id"], back.properties["headers"]),
              (300_000, "m", {"h": typed("I", 1)}))
        equal(channel.wait("basic.ack").delivery_tag, 1)
        channel.publish("amq.direct", t.unique("nobody"), b"dropped")
        answer = channel.wait("basic.return", "basic.ack")
        equal((answer.name, answer.delivery_tag), ("basic.ack", 2), "unroutable without mandatory is acked at once")
        queue = channel.queue(exclusive=True).queue
        channel.publish("", queue, b"routed", mandatory=True)
        equal(channel.wait("basic.return", "basic.ack").name, "basic.ack")


def test_confirms_count_per_channel_25(t):
    with t.shared_node().connect() as connection:
        one, two = connection.channel(1), connection.channel(2)
        queue = one.queue(exclusive=True).queue
        one.publish("", queue, b"before confirm.select, not counted")
        one.call("confirm.select")
        two.call("confirm.select")
        for channel, count in ((one, 10), (two, 3)):
            channel.published = 0
            for n in range(count):
                channel.publish("", queue, b"%d" % n, delivery_mode=2)
            channel.confirm()
        equal(one.count(queue)[0], 14)


def test_empty_body_33(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        channel.publish("", queue, b"", content_type="none")
        channel.publish("", queue, b"next")
        channel.consume(queue)
        first, second = channel.deliveries(2)
        equal((first.body, first.properties, second.body), (b"", {"content_type": "none"}, b"next"))


def test_body_of_10_mb(t):
    body = t.random.randbytes(10_000_000)
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = t.unique("large")
        channel.queue(queue, durable=True)
        channel.call("confirm.select")
        channel.publish("", queue, body, delivery_mode=2)
        channel.confirm(timeout=30)
        answer = channel.get(queue)
        require(answer.body == body, f"the body came back different ({len(answer.body)} octets)")
        channel.call("queue.delete", queue=queue)


def test_small_frames_are_kept(t):
    with t.shared_node().connect(frame_max=4096) as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        body = t.random.randbytes(50_000)
        channel.publish("", queue, body)
        channel.send("basic.get", queue=queue, no_ack=True)
        largest = 0
        while not channel.owner.inbox[1]:
            kind, channel_id, payload = connection.read_frame()
            largest = max(largest, len(payload) + 8)
            if kind == 3:
                body = body[len(payload):] if body.startswith(payload) else b"different"
                if body in (b"", b"different"):
                    break
        equal(body, b"", "the body came whole")
        require(largest <= 4096, f"a frame of {largest} octets after frame_max 4096")


def test_properties_and_header_types_round_trip_78(t):
    headers = {"t": True, "f": typed("t", 0), "b": typed("b", -5), "B": typed("B", 200), "s": typed("s", -300),
               "u": typed("u", 60000), "I": -7, "i": typed("i", 4_000_000_000), "l": typed("l", -2**62),
               "L": typed("L", 5), "d": 1.5, "fl": typed("f", 0.25), "D": typed("D", (2, 12345)), "S": "text",
               "x": typed("x", b"\x00\xff"), "V": None, "T": typed("T", 2**64 - 1), "A": [1, "two", [None], {"k": 3}],
               "F": {"inner": {"deep": [True]}}}
    properties = {"content_type": "a/b", "content_encoding": "c", "headers": headers, "delivery_mode": 2, "priority": 9,
                  "correlation_id": "d", "reply_to": "e", "expiration": "600000", "message_id": "f",
                  "timestamp": 2**63, "type": "g", "user_id": "guest", "app_id": "h", "cluster_id": "i"}
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        channel.publish("", queue, b"x", **properties)
        got = channel.get(queue).properties
        equal(got.pop("headers"), reader(field(headers)[1:]).table())
        properties.pop("headers")
        equal(got, properties)


def test_several_channels_and_orders(t):
    with t.shared_node().connect() as connection:
        channels = [connection.channel(n) for n in (1, 7, 2047, 100)]
        queue = channels[0].queue(exclusive=True).queue
        for n in range(400):
            channels[0].publish("", queue, b"%d" % n)
        tags = [channel.consume(queue, no_ack=True) for channel in channels[1:]]
        equal(len(set(tags)), 3, "consumer tags differ")
        got = {channel.id: [] for channel in channels[1:]}
        while True:
            for channel in channels[1:]:
                while connection.inbox[channel.id]:
                    got[channel.id].append(int(connection.inbox[channel.id].popleft().body))
            if sum(map(len, got.values())) == 400:
                break
            connection.pump()
        require(all(each == sorted(each) for each in got.values()), "each consumer sees the queue's order")
        equal(sorted(sum(got.values(), [])), list(range(400)))
        channels[1].call("channel.close", reply_code=200)
        channels[1].open()


def test_get_counts_and_empty_42(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        for n in range(3):
            channel.publish("", queue, b"%d" % n)
        one = channel.get(queue)
        equal((one.body, one.delivery_tag, one.redelivered, one.exchange, one.routing_key, one.message_count),
              (b"0", 1, False, "", queue, 2))
        equal(channel.get(queue).message_count, 1)
        equal(channel.get(queue).message_count, 0)
        equal(channel.get(queue).name, "basic.get-empty")
        channel.send("basic.ack", delivery_tag=0, multiple=True)
        channel.send("basic.ack", delivery_tag=0, multiple=True)  # none outstanding: no error (41)
        equal(channel.count(queue), (0, 0))


def test_got_messages_do_not_count_in_prefetch_42(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        for n in range(4):
            channel.publish("", queue, b"%d" % n)
        channel.call("basic.qos", prefetch_count=1)
        channel.get(queue)
        channel.get(queue)
        channel.consume(queue)
        equal(bodies(channel.deliveries(1)), [b"2"])
        equal(channel.count(queue)[0], 1)


def test_nack_reject_requeue(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        for n in range(6):
            channel.publish("", queue, b"%d" % n)
        got = [channel.get(queue) for _ in range(6)]
        channel.send("basic.nack", delivery_tag=got[2].delivery_tag, multiple=True, requeue=True)
        channel.send("basic.reject", delivery_tag=got[3].delivery_tag, requeue=True)
        channel.send("basic.reject", delivery_tag=got[4].delivery_tag, requeue=False)
        channel.send("basic.nack", delivery_tag=got[5].delivery_tag)
        again = [channel.get(queue) for _ in range(4)]
        equal(bodies(again), [b"0", b"1", b"2", b"3"])
        require(all(each.redelivered for each in again), "redelivered is set")
        equal(channel.get(queue).name, "basic.get-empty")


def test_recover_45(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        for n in range(3):
            channel.publish("", queue, b"%d" % n)
        for _ in range(3):
            channel.get(queue)
        channel.call("basic.recover", requeue=True)
        equal(channel.count(queue)[0], 3)
        got = [channel.get(queue) for _ in range(3)]
        equal([(each.body, each.redelivered) for each in got], [(b"0", True), (b"1", True), (b"2", True)])
        channel.send("basic.recover-async", requeue=True)
        equal(channel.count(queue)[0], 3)


def test_qos_limits_and_ack_opens_the_window(t):
    with t.shared_node().connect() as connection:
        channel, other = connection.channel(), connection.channel(2)
        queue = channel.queue(exclusive=True).queue
        for n in range(10):
            channel.publish("", queue, b"%d" % n)
        channel.call("basic.qos", prefetch_count=3)
        channel.consume(queue)
        got = channel.deliveries(3)
        equal(other.count(queue)[0], 7, "ready beyond the prefetch of 3")
        require(not connection.inbox[1], "nothing beyond the prefetch")
        channel.send("basic.ack", delivery_tag=got[1].delivery_tag, multiple=True)
        equal(bodies(channel.deliveries(2)), [b"3", b"4"])
        equal(other.count(queue)[0], 5)
        channel.send("basic.nack", delivery_tag=0, multiple=True, requeue=False)
        equal(bodies(channel.deliveries(3)), [b"5", b"6", b"7"])


def test_qos_is_per_new_consumer_44(t):
    with t.shared_node().connect() as connection:
        channel, watcher = connection.channel(), connection.channel(2)
        one, two = channel.queue(exclusive=True).queue, channel.queue(exclusive=True).queue
        for queue in (one, two):
            for n in range(5):
                channel.publish("", queue, b"%d" % n)
        channel.call("basic.qos", prefetch_count=1)
        channel.consume(one)
        channel.call("basic.qos", prefetch_count=2)
        channel.consume(two)
        channel.deliveries(3)
        equal((watcher.count(one)[0], watcher.count(two)[0]), (4, 3))


def test_cancel_keeps_what_is_unacknowledged_39(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        for n in range(3):
            channel.publish("", queue, b"%d" % n)
        channel.call("basic.qos", prefetch_count=2)
        tag = channel.consume(queue, "mine")
        equal(tag, "mine")
        got = channel.deliveries(2)
        channel.call("basic.cancel", consumer_tag="mine")
        equal(channel.count(queue), (1, 0))
        channel.send("basic.ack", delivery_tag=got[1].delivery_tag, multiple=True)
        equal(channel.count(queue), (1, 0))
        channel.call("basic.cancel", consumer_tag="never existed")


def test_server_named_consumers_and_queues_8_37(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(exclusive=True).queue
        require(queue.startswith("amq.gen-"), queue)
        require(channel.consume("").startswith("amq.ctag-"), "a generated consumer tag")
        exchange = t.unique("named")
        channel.exchange(exchange, "direct")
        channel.bind("", exchange)  # both names empty: the last queue, and its name as key
        channel.publish(exchange, queue, b"by name")
        equal(channel.deliveries(1)[0].routing_key, queue)
        channel.call("exchange.delete", exchange=exchange)


def test_consumer_cancel_is_told_when_the_queue_goes_40(t):
    with t.shared_node().connect() as connection:
        channel, other = connection.channel(), connection.channel(2)
        queue = other.queue(t.unique("gone"), durable=True).queue
        tag = channel.consume(queue)
        other.call("queue.delete", queue=queue)
        equal(channel.wait("basic.cancel").consumer_tag, tag)
    with t.shared_node().connect(capabilities={}) as connection:
        channel, other = connection.channel(), connection.channel(2)
        queue = other.queue(t.unique("gone"), durable=True).queue
        channel.consume(queue)
        other.call("queue.delete", queue=queue)
        channel.queue("", exclusive=True)
        require(not any(each.name == "basic.cancel" for each in connection.inbox[1]), "an unasked basic.cancel")


def test_unacknowledged_go_back_in_order_when_a_connection_is_lost_51(t):
    node, queue = t.shared_node(), t.unique("lost")
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue(queue, durable=True)
        for n in range(20):
            channel.publish("", queue, b"%d" % n)
        lost = node.connect()
        other = lost.channel()
        other.call("basic.qos", prefetch_count=10)
        other.consume(queue)
        other.deliveries(10)
        lost.drop()
        poll("the lost consumer's messages are ready again", lambda: channel.count(queue) == (20, 0))
        got = [channel.get(queue, no_ack=True) for _ in range(20)]
        equal([(each.body, each.redelivered) for each in got], [(b"%d" % n, n < 10) for n in range(20)])
        channel.call("queue.delete", queue=queue)


def test_unacknowledged_go_back_when_a_channel_closes_51(t):
    with t.shared_node().connect() as connection:
        channel, watcher = connection.channel(), connection.channel(2)
        queue = channel.queue(exclusive=True).queue
        for n in range(5):
            channel.publish("", queue, b"%d" % n)
        channel.consume(queue)
        channel.deliveries(5)
        channel.call("channel.close", reply_code=200)
        poll("they are ready again", lambda: watcher.count(queue) == (5, 0))
        equal([watcher.get(queue).body for _ in range(5)], [b"%d" % n for n in range(5)])


def test_messages_go_round_the_consumers(t):
    with t.shared_node().connect() as connection:
        channel, publisher = connection.channel(), connection.channel(2)
        queue = channel.queue(exclusive=True).queue
        tags = [channel.consume(queue, f"c{n}") for n in range(3)]
        for n in range(30):
            publisher.publish("", queue, b"%d" % n)
        got = channel.deliveries(30)
        counts = [sum(each.consumer_tag == tag for each in got) for tag in tags]
        equal(counts, [10, 10, 10], "shares of three equal consumers")


def test_purge_and_delete_counts_13(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        queue = channel.queue(t.unique("counts"), durable=True).queue
        for n in range(7):
            channel.publish("", queue, b"%d" % n, delivery_mode=2)
        channel.get(queue)
        equal(channel.call("queue.purge", queue=queue).message_count, 6, "purge leaves what is unacknowledged")
        for n in range(4):
            channel.publish("", queue, b"%d" % n)
        equal(channel.call("queue.delete", queue=queue).message_count, 4)
        equal(channel.call("queue.delete", queue=queue).message_count, 0, "deleting nothing succeeds")
        channel.call("exchange.delete", exchange=t.unique("nothing"))


def test_exclusive_queue_goes_with_its_connection_6(t):
    node, queue = t.shared_node(), t.unique("exclusive")
    owner = node.connect()
    owner.channel().queue(queue, exclusive=True, durable=True)
    with node.connect() as connection:
        owner.close()
        equal(connection.channel().queue(queue, exclusive=True).message_count, 0, "gone before close-ok was sent")
    dropped = node.connect()
    dropped.channel().queue(queue, exclusive=True)
    dropped.drop()

    def can_declare():
        with node.connect() as again:
            try:
                again.channel().queue(queue, exclusive=True)
                return True
            except closed as close:
                equal(close.code, 405)
                return False
    poll("an exclusive queue goes with a dropped connection", can_declare)


def test_auto_delete_queue_16(t):
    with t.shared_node().connect() as connection:
        channel, watcher = connection.channel(), connection.channel(2)
        queue = channel.queue(t.unique("auto"), auto_delete=True, exclusive=True).queue
        require(not is_gone(watcher, queue), "it stays while it never had a consumer")
        channel.consume(queue, "one")
        channel.consume(queue, "two")
        channel.call("basic.cancel", consumer_tag="one")
        require(not is_gone(watcher, queue), "it stays while a consumer is left")
        channel.call("basic.cancel", consumer_tag="two")
        poll("it goes with its last consumer", lambda: is_gone(watcher, queue))


def test_auto_delete_exchange_16(t):
    with t.shared_node().connect() as connection:
        channel, watcher = connection.channel(), connection.channel(2)
        exchange, queue = t.unique("auto"), channel.queue(exclusive=True).queue
        channel.exchange(exchange, "direct", auto_delete=True)
        channel.exchange(exchange, "direct", passive=True)
        channel.bind(queue, exchange, "a")
        channel.bind(queue, exchange, "b")
        channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="a")
        channel.exchange(exchange, "direct", passive=True)
        channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="b")

        def is_gone():
            try:
                watcher.exchange(exchange, "direct", passive=True)
                return False
            except closed as close:
                equal(close.code, 404)
                return True
        poll("it goes with its last binding", is_gone)


def test_access_request_and_flow_23(t):
    with t.shared_node().connect() as connection:
        channel = connection.channel()
        equal(channel.call("access.request", realm="/data", active=True).ticket, 1)
        equal(channel.call("channel.flow", active=True).active, True)


def test_nowait_methods_answer_nothing(t):
    with t.shared_node().connect() as connection:
        channel, queue, exchange = connection.channel(), t.unique("quiet"), t.unique("quiet")
        channel.send("queue.declare", queue=queue, exclusive=True, nowait=True)
        channel.send("exchange.declare", exchange=exchange, type="fanout", nowait=True)
        channel.send("queue.bind", queue=queue, exchange=exchange, nowait=True)
        channel.send("basic.consume", queue=queue, consumer_tag="t", nowait=True)
        channel.send("confirm.select", nowait=True)
        channel.publish(exchange, "", b"x")
        equal(channel.wait("basic.deliver").body, b"x")
        channel.confirm()
        channel.send("basic.cancel", consumer_tag="t", nowait=True)
        channel.send("queue.purge", queue=queue, nowait=True)
        channel.send("queue.delete", queue=queue, nowait=True)
        channel.send("exchange.delete", exchange=exchange, nowait=True)
        channel.queue(exclusive=True)
        require(not connection.inbox[1], f"answers to nowait methods: {list(connection.inbox[1])}")


def test_publishes_to_a_queue_that_goes_are_confirmed_26(t):
    """A target deleted while its publishes are pending counts as positive: no confirm is waited for in vain."""
    node, queue = t.shared_node(), t.unique("going")
    with node.connect() as connection, node.connect() as other:
        publisher, remover = connection.channel(), other.channel()
        publisher.call("confirm.select")
        for _ in range(60):
            remover.queue(queue, durable=True)
            for n in range(150):
                publisher.publish("", queue, b"%d" % n, delivery_mode=2)
                if n == 75:
                    remover.send("queue.delete", queue=queue)
            remover.wait("queue.delete-ok")
            publisher.confirm()


def test_requests_to_a_queue_that_goes_are_answered(t):
    """A declare, get, consume, purge or delete that meets a deletion gets an answer: its own, or 404."""
    node, queue = t.shared_node(), t.unique("going")
    requests = (("queue.declare", {"passive": True}), ("basic.get", {}), ("basic.consume", {}), ("queue.purge", {}),
                ("queue.delete", {}))
    with node.connect() as connection, node.connect() as other:
        asker, remover = connection.channel(), other.channel()
        for turn in range(150):
            name, arguments = requests[turn % len(requests)]
            remover.queue(queue, durable=True)
            remover.send("queue.delete", queue=queue)
            try:
                asker.call(name, queue=queue, timeout=5, **arguments)
            except closed as close:
                equal((close.name, close.code), ("channel.close", 404), close.text)
                asker.open()
            remover.wait("queue.delete-ok")
