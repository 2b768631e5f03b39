"""What a quorum queue keeps for later: dead letters until there is a way, through kill -9; retries; and consumers that take too long."""
from behaviours_stage import bodies, got
from harness import equal, poll, require
from policies import api


def shown(node, queue):
    return api(node).queue(queue) or {}


def metric(node, name):
    for line in node.http_get("/metrics")[1].splitlines():
        if line.startswith(name + " ") or line.startswith(name + "{"):
            return float(line.split()[1])
    return 0.0


def quorum(channel, name, **arguments):
    return channel.queue(name, durable=True, arguments={"x-queue-type": "quorum", **arguments}).queue


def test_dead_letters_without_a_way_outlive_kill_9(t):
    count = 200
    node = t.node(options=["--amqp-dead-letter-retry", "150 ms"])
    keeping = {"x-dead-letter-exchange": "later", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    wanted = {b"%d" % n for n in range(count)}
    with node.connect() as connection:
        channel = connection.channel()
        quorum(channel, "dying", **keeping)
        channel.call("confirm.select")
        for n in range(count):
            channel.publish("", "dying", b"%d" % n, delivery_mode=2, expiration="1")
        channel.confirm()
        poll("all wait for a way", lambda: shown(node, "dying").get("messages_dead_waiting") == count)
        equal(channel.count("dying")[0], 0, "none of them is ready")
        require(metric(node, "posthorn_dead_letters_waiting") == count, "they are in the metrics")
        poll("they are tried again", lambda: metric(node, "posthorn_dead_letter_retries_total") > 2 * count)
        equal(channel.call("queue.purge", queue="dying").message_count, 0, "a purge does not take them")
    for target, most in (("small", 50), ("large", None)):
        node.kill()
        node.start()
        with node.connect() as connection:
            channel = connection.channel()
            if target == "small":
                poll("all wait again", lambda: shown(node, "dying").get("messages_dead_waiting") == count)
            channel.exchange("later", "fanout", durable=True)
            limits = {"x-max-length": most, "x-overflow": "reject-publish"} if most else {}
            channel.queue(target, durable=True, arguments=limits)
            channel.bind(target, "later")
            if most:
                poll("the target is full", lambda: channel.count("small")[0] >= most)
            else:
                # As soon as no queue on the way is full, the rest goes.
                channel.call("queue.unbind", queue="small", exchange="later", routing_key="")
                poll("none waits any more", lambda: shown(node, "dying").get("messages_dead_waiting") == 0, 20)
                node.kill()
                node.start()
    with node.connect() as connection:
        channel = connection.channel()
        found = bodies(got(channel, "large")) + bodies(got(channel, "small"))
        equal(sorted(found), sorted(wanted), "each came once")
        equal(channel.count("dying")[0], 0)


def test_retries_are_counted(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        queue = quorum(channel, "q", **{"x-delayed-retry-type": "all", "x-delayed-retry-min": 3_600_000})
        channel.call("confirm.select")
        for n in range(3):
            channel.publish("", queue, b"%d" % n, delivery_mode=2)
        channel.confirm()
        for _ in range(2):
            channel.send("basic.reject", delivery_tag=channel.get(queue).delivery_tag, requeue=True)
        poll("two wait for their retry", lambda: shown(node, queue).get("messages_delayed") == 2)
        equal(shown(node, queue)["messages"], 3)
        equal(channel.count(queue)[0], 1)
        require(metric(node, "posthorn_messages_delayed") == 2, "they are in the metrics")
        equal(channel.call("queue.purge", queue=queue).message_count, 3, "a purge takes them, too")
        equal(shown(node, queue)["messages"], 0)
        channel.publish("", queue, b"kept", delivery_mode=2)
        channel.confirm()
        channel.send("basic.reject", delivery_tag=channel.get(queue).delivery_tag, requeue=True)
        poll("it waits", lambda: shown(node, queue).get("messages_delayed") == 1)
    node.kill()
    node.start()
    with node.connect() as connection:
        channel = connection.channel()
        equal(bodies(got(channel, "q")), [b"kept"], "after a restart it is ready")


def test_the_nodes_own_consumer_timeout(t):
    node = t.node(options=["--amqp-consumer-timeout", "300 ms"])
    with node.connect() as connection:
        channel = connection.channel()
        queue, patient = quorum(channel, "q"), quorum(channel, "patient", **{"x-consumer-timeout": 0})
        channel.queue("classic")
        for each in (queue, patient, "classic"):
            channel.publish("", each, b"x", delivery_mode=2)
        tag = channel.consume(queue)
        channel.consume(patient)
        channel.consume("classic")
        channel.deliveries(3)
        equal(channel.wait("basic.cancel", timeout=10).consumer_tag, tag)
        poll("it is counted", lambda: metric(node, "posthorn_consumer_timeouts_total") == 1)
        equal(channel.count(queue), (1, 1))
        equal((shown(node, patient)["messages_unacknowledged"], shown(node, "classic")["messages_unacknowledged"]), (1, 1))
