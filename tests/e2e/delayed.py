"""Exchanges that delay messages, and exchanges and queues that take no message twice: over real sockets, and through kill -9."""
import json
import time

from amqp_raw import typed
from behaviours_stage import bodies, got, open_channel, refused
from harness import equal, poll, require

HUGE = 2**62


def admin(t, node, *arguments):
    return t.posthorn("--url", f"http://127.0.0.1:{node.http_port}", *arguments)


def waiting(t, node, exchange, *arguments):
    done = admin(t, node, "--json", "delayed", "list", exchange, *arguments)
    equal(done.returncode, 0, done.stderr)
    return json.loads(done.stdout)


def later(t, channel, kind="direct", **arguments):
    """An exchange that delays, and a queue behind it."""
    exchange, queue = t.unique("later"), t.unique("q")
    channel.exchange(exchange, "x-delayed-message", durable=True, arguments={"x-delayed-type": kind, **arguments})
    channel.queue(queue, durable=True)
    channel.bind(queue, exchange, "k")
    return exchange, queue


def test_delays_of_all_kinds(t):
    channel = open_channel(t)
    exchange, queue = later(t, channel)
    channel.call("confirm.select")
    at_once = [("none", None), ("zero", 0), ("negative", -5), ("negative text", "-7"), ("no number", "soon"), ("empty", ""),
               ("a list", [1, 2]), ("a table", {"ms": 1}), ("void", typed("V", b"")), ("true", True)]
    for name, delay in at_once:
        headers = {} if name == "none" else {"x-delay": delay}
        channel.publish(exchange, "k", name, delivery_mode=2, headers=headers)
    channel.confirm()
    equal([each.decode() for each in bodies(got(channel, queue))], [name for name, _ in at_once], "those go at once")
    sent = time.time()
    for name, delay in (("text", "600"), ("octet", typed("b", 100)), ("double", 300.9), ("long", typed("l", 400)),
                        ("huge", HUGE), ("huge text", str(10**30))):
        channel.publish(exchange, "k", name, delivery_mode=2, headers={"x-delay": delay}, mandatory=True)
    channel.confirm()
    channel.consume(queue, no_ack=True)
    for name, delay in (("octet", 0.1), ("double", 0.3), ("long", 0.4), ("text", 0.6)):
        arrived = channel.deliveries(1)[0]
        equal(arrived.body.decode(), name, "in the order of their times")
        require(time.time() - sent >= delay, f"{name} came {time.time() - sent:.3f} s after it was sent, too early")
        require(arrived.properties["headers"]["x-delay"].value < 0, "the delay is negative when it is over")


def test_declaring_what_cannot_be(t):
    declare = (40, 10)
    for arguments, text in (({}, "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
                            ({"x-delayed-type": 7}, "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
                            ({"x-delayed-type": "x-delayed-message"},
                             "Invalid argument, 'x-delayed-type' must be an existing exchange type"),
                            ({"x-delayed-type": "nonsense"}, "invalid exchange type 'nonsense'"),
                            ({"x-delayed-type": "direct", "x-message-deduplication": "yes"},
                             "Invalid argument, 'x-message-deduplication' must be a boolean")):
        with refused(406, text, declare):
            open_channel(t).exchange(t.unique("x"), "x-delayed-message", arguments=arguments)
    size = "Missing or invalid argument, 'x-cache-size' must be an integer greater than 0"
    for arguments, text in (({}, size), ({"x-cache-size": 0}, size), ({"x-cache-size": "many"}, size),
                            ({"x-cache-size": 5, "x-cache-ttl": -1},
                             "Invalid argument, 'x-cache-ttl' must be an integer greater than 0"),
                            ({"x-cache-size": 5, "x-cache-persistence": "tape"},
                             "Invalid argument, 'x-cache-persistence' must be either 'disk' or 'memory'")):
        with refused(406, text, declare):
            open_channel(t).exchange(t.unique("x"), "x-message-deduplication", arguments=arguments)
    queue = t.unique("q")
    with refused(406, f"invalid arg 'x-message-deduplication' for queue '{queue}' in vhost '/': "
                      "{unacceptable_type,longstr}", (50, 10)):
        open_channel(t).queue(queue, arguments={"x-message-deduplication": "yes"})


def test_all_types_behind_a_delay(t):
    channel = open_channel(t)
    for kind, key, binding in (("direct", "k", "k"), ("fanout", "any", ""), ("topic", "a.b", "a.*"), ("headers", "", "")):
        exchange, queue = t.unique("later"), t.unique("q")
        channel.exchange(exchange, "x-delayed-message", arguments={"x-delayed-type": kind})
        channel.queue(queue)
        channel.bind(queue, exchange, binding, **({"colour": "red"} if kind == "headers" else {}))
        channel.publish(exchange, key, kind, headers={"x-delay": 50, "colour": "red"})
        channel.publish(exchange, key, kind, headers={"colour": "red"})
        poll(f"both came by {kind}", lambda q=queue: channel.count(q)[0] == 2)
        channel.call("exchange.delete", exchange=exchange)
        channel.call("queue.delete", queue=queue)
    exchange, queue = later(t, channel)
    copied = t.unique("q")
    channel.queue(copied)
    channel.bind(copied, exchange, "copy")
    channel.publish(exchange, "k", "1", headers={"x-delay": 50, "CC": ["copy"]})
    poll("the copy came, too", lambda: channel.count(queue)[0] == 1 and channel.count(copied)[0] == 1)


def test_list_and_cancel(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        exchange, queue = later(t, channel)
        channel.call("confirm.select")
        for n in range(5):
            channel.publish(exchange, "k", b"%d" % n, delivery_mode=2, message_id=f"m{n}",
                            headers={"x-delay": HUGE if n == 4 else 3_600_000 + n})
        channel.confirm()
        found = waiting(t, node, exchange)
        equal([each["message_id"] for each in found], ["m0", "m1", "m2", "m3", "m4"])
        require(found[4]["due"] > HUGE, "the last one waits long")
        equal(len(waiting(t, node, exchange, "--limit", "2")), 2)
        equal([each["message_id"] for each in waiting(t, node, exchange, "--from", found[3]["id"])], ["m3", "m4"])
        shown = admin(t, node, "delayed", "list", exchange)
        require("m4" in shown.stdout and "after the year 9999" in shown.stdout, shown.stdout)
        metrics = node.http_get("/metrics")[1]
        require("posthorn_exchange_messages_delayed 5" in metrics, "they are counted")
        done = admin(t, node, "delayed", "cancel", exchange, found[0]["id"], found[2]["id"])
        equal((done.returncode, done.stdout), (0, "2 messages were cancelled\n"), done.stderr)
        for arguments, text in (((exchange, found[0]["id"]), "waits there"), ((exchange, "soon"), "is no id of a delayed message"),
                                (("nothing", found[1]["id"]), "there is no exchange 'nothing'"),
                                (("amq.direct", found[1]["id"]), "delays no messages"), ((exchange,), "or say --all"),
                                ((exchange, "--all", found[1]["id"]), "leave out"),
                                ((exchange, "--all", "--vhost", "none"), "there is no virtual host 'none'")):
            wrong = admin(t, node, "delayed", "cancel", *arguments)
            require(wrong.returncode != 0 and text in wrong.stderr, f"{arguments}: {wrong.returncode} {wrong.stderr}")
        wrong = t.posthorn("--url", f"http://127.0.0.1:{node.http_port}", "--user", "guest", "--password", "no", "delayed",
                           "list", exchange)
        require(wrong.returncode != 0, "a user is needed")
        node.kill()
    node.start()
    equal([each["message_id"] for each in waiting(t, node, exchange)], ["m1", "m3", "m4"], "what was cancelled stays so")
    done = admin(t, node, "delayed", "cancel", exchange, "--all")
    equal((done.returncode, done.stdout), (0, "3 messages were cancelled\n"), done.stderr)
    node.kill()
    node.start()
    equal(waiting(t, node, exchange), [])
    with node.connect() as connection:
        channel = connection.channel()
        equal(channel.count(queue)[0], 0)
        channel.publish(exchange, "k", "gone", delivery_mode=2, headers={"x-delay": 3_600_000})
        poll("it waits", lambda: waiting(t, node, exchange))
        channel.call("exchange.delete", exchange=exchange)
    node.terminate()
    verified = t.posthorn("verify", node.data_dir)
    equal(verified.returncode, 0, verified.stdout + verified.stderr)


def test_kill_9_delayed_messages_come_once_and_not_early(t):
    node, confirmed, due = t.node(), [], {}
    with node.connect() as connection:
        channel = connection.channel()
        channel.exchange("later", "x-delayed-message", durable=True, arguments={"x-delayed-type": "direct"})
        channel.queue("q", durable=True)
        channel.bind("q", "later", "k")
    number = 0
    for _ in range(t.rounds(5)):
        with node.connect() as connection:
            channel = connection.channel()
            channel.call("confirm.select")
            for _batch in range(t.random.randint(2, 6)):
                first = number
                for _ in range(200):
                    delay = t.random.choice((0, 1, 50, 300, 1500, 3000))
                    due[number] = time.time() + delay / 1000
                    # A delivery mode of 1 is as safe in a durable exchange, until it goes on.
                    channel.publish("later", "k", b"%d" % number, delivery_mode=2, headers={"x-delay": delay})
                    number += 1
                channel.confirm()
                confirmed.extend(range(first, number))
            node.kill()
        node.start()
    seen = {}
    with node.connect() as connection:
        channel = connection.channel()
        channel.consume("q", no_ack=True)

        def all_came():
            try:
                for got in channel.deliveries(1, timeout=0.5):
                    seen.setdefault(int(got.body), []).append(time.time())
            except TimeoutError:
                pass
            return len(seen) >= len(set(confirmed)) and not waiting(t, node, "later", "--limit", "1")

        poll("all that was confirmed has come", all_came, timeout=60, interval=0)
    equal(sorted(set(confirmed) - set(seen)), [], "confirmed, and lost")
    equal([n for n, times in seen.items() if len(times) > 1], [], "came twice")
    equal([n for n, times in seen.items() if times[0] < due[n] - 0.002], [], "came early")
    t.note(f"{len(confirmed)} confirmed, {len(seen)} came")


def test_nothing_passes_twice(t):
    channel = open_channel(t)
    exchange, queue = t.unique("once"), t.unique("q")
    channel.exchange(exchange, "x-message-deduplication", arguments={"x-cache-size": 3})
    channel.queue(queue)
    channel.bind(queue, exchange)
    channel.call("confirm.select")
    for key in ("a", "b", "a", 7, typed("l", 7), "7", "a"):
        channel.publish(exchange, "", str(key), headers={"x-deduplication-header": key})
    channel.publish(exchange, "", "plain")
    channel.publish(exchange, "", "plain")
    channel.confirm()
    equal(bodies(got(channel, queue)), [b"a", b"b", b"7", b"7", b"plain", b"plain"])
    # The three that were used last are remembered: 7, "7", "a".
    for key in ("a", "b"):
        channel.publish(exchange, "", key, headers={"x-deduplication-header": key})
    channel.confirm()
    equal(bodies(got(channel, queue)), [b"b"])
    channel.publish(exchange, "", "short", headers={"x-deduplication-header": "s", "x-cache-ttl": 100})
    channel.confirm()

    def passes_again():
        channel.publish(exchange, "", "short again", headers={"x-deduplication-header": "s", "x-cache-ttl": 100})
        channel.confirm()
        return b"short again" in bodies(got(channel, queue))

    poll("what expired passes again", passes_again)
    # Any exchange can, and what leads nowhere is returned.
    any_type = t.unique("x")
    channel.exchange(any_type, "direct", arguments={"x-message-deduplication": True})
    channel.bind(queue, any_type, "k")
    bodies(got(channel, queue))
    for _ in range(2):
        channel.publish(any_type, "k", "1", headers={"x-deduplication-header": "x"})
    channel.confirm()
    equal(bodies(got(channel, queue)), [b"1"])
    channel.publish(any_type, "nowhere", "2", headers={"x-deduplication-header": "y"}, mandatory=True)
    equal(channel.wait("basic.return").reply_text, "NO_ROUTE")


def test_kill_9_what_is_published_again_is_there_once(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        channel.exchange("once", "x-message-deduplication", durable=True,
                         arguments={"x-cache-size": 100_000, "x-cache-persistence": "disk"})
        for name in ("a", "b"):
            channel.queue(name, durable=True)
            channel.bind(name, "once")
        channel.queue("itself", durable=True, arguments={"x-message-deduplication": True})
    count = 0

    def publish_all(channel, exchange, key, upto):
        for n in range(upto):
            channel.publish(exchange, key, b"%d" % n, delivery_mode=2, headers={"x-deduplication-header": n})

    for _ in range(t.rounds(4)):
        count += 500
        with node.connect() as connection:
            channel = connection.channel()
            channel.call("confirm.select")
            publish_all(channel, "once", "", count)
            publish_all(channel, "", "itself", count)
            # Somewhere on the way: some are confirmed, some are being written.
            channel.confirm(up_to=t.random.randint(1, 2 * count))
            node.kill()
        node.start()
    with node.connect() as connection:
        channel = connection.channel()
        channel.call("confirm.select")
        publish_all(channel, "once", "", count)
        publish_all(channel, "", "itself", count)
        channel.confirm(timeout=30)
        for name in ("a", "b", "itself"):
            found = [int(body) for body in bodies(got(channel, name))]
            equal(sorted(found), list(range(count)), f"each is once in {name}")
    node.terminate()
    verified = t.posthorn("--json", "verify", node.data_dir)
    equal(verified.returncode, 0, verified.stdout + verified.stderr)
    equal(json.loads(verified.stdout)["seen"], count, "what is remembered")


def test_a_queue_takes_no_message_twice(t):
    channel = open_channel(t)
    queue = t.unique("q")
    channel.queue(queue, durable=True, arguments={"x-message-deduplication": True})
    channel.call("confirm.select")
    for n in range(3):
        channel.publish("", queue, b"%d" % n, delivery_mode=2, headers={"x-deduplication-header": "x"})
    channel.publish("", queue, "other", delivery_mode=2, headers={"x-deduplication-header": "y"})
    channel.confirm()
    held = channel.get(queue)
    equal(held.body, b"0")
    channel.publish("", queue, "while it is held", delivery_mode=2, headers={"x-deduplication-header": "x"})
    channel.confirm()
    equal(channel.count(queue)[0], 1)
    channel.send("basic.ack", delivery_tag=held.delivery_tag)
    poll("it is gone, and the next one comes in", lambda: (
        channel.publish("", queue, "again", headers={"x-deduplication-header": "x"}), channel.count(queue)[0] == 2)[1])
    equal(channel.call("queue.purge", queue=queue).message_count, 2)
    channel.publish("", queue, "after the purge", headers={"x-deduplication-header": "y"})
    channel.confirm()
    equal(bodies(got(channel, queue)), [b"after the purge"])
