"""Behaviours 57 to 67: expiry, length limits, priorities, dead letters. One test for each number of the reference list."""
import time

from amqp_raw import typed
from behaviours_administration import quick_dead_letter_retries
from behaviours_stage import (bodies, confirming, elapsed, empty_for, get_soon, got, kept_exchange, kept_queue, later, long,
                              open_channel, outcome, own_queue, publish, quorum_queue, same, silent, wait_for)
from harness import equal, poll, require


def dead_letters_to(queue):
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}


def test_expiry_57(t):
    channel = open_channel(t)
    dead = own_queue(t, channel, "dead")
    # The lower of the two counts.
    for ttl, expiration in ((200, "60000"), (60000, "200")):
        queue = own_queue(t, channel, **{"x-message-ttl": ttl}, **dead_letters_to(dead))
        publish(channel, queue, b"x", expiration=expiration)
        since = time.monotonic()
        get_soon(channel, dead)
        require(elapsed(since) >= 0.15, f"expired after {elapsed(since):.3f} s, 0.2 s were set")
    # A classic queue looks at its head only, and counts what stands behind.
    queue = own_queue(t, channel, **dead_letters_to(dead))
    publish(channel, queue, b"long")
    publish(channel, queue, b"short", expiration="50")
    publish(channel, queue, b"also long")
    time.sleep(0.2)  # four times as long as it has to live
    equal(channel.count(queue), (3, 0), "expired, and still counted")
    equal(channel.get(queue, no_ack=True).body, b"long")
    equal(get_soon(channel, dead).body, b"short")
    equal(bodies(got(channel, queue)), [b"also long"])
    # What is given back keeps its time.
    publish(channel, queue, b"given back", expiration="2000")
    since = time.monotonic()
    held = channel.get(queue)
    time.sleep(1.8)  # its time passes while it is held
    channel.send("basic.nack", delivery_tag=held.delivery_tag, requeue=True)
    equal(get_soon(channel, dead).body, b"given back")
    require(1.95 <= elapsed(since) < 3.75, f"expired {elapsed(since):.3f} s after it came, 2 s were set")
    # What is held does not expire.
    publish(channel, queue, b"held", expiration="50")
    held = channel.get(queue)
    time.sleep(0.15)  # three times as long as it would have to live
    equal(channel.count(dead), (0, 0))
    channel.send("basic.ack", delivery_tag=held.delivery_tag)
    # A TTL of 0: delivered where somebody waits, else gone.
    none = own_queue(t, channel, **{"x-message-ttl": 0}, **dead_letters_to(dead))
    publish(channel, none, b"nobody")
    equal(get_soon(channel, dead).body, b"nobody")
    channel.consume(none, no_ack=True)
    channel.publish("", none, b"somebody")
    equal(channel.wait("basic.deliver").body, b"somebody")


def test_maximum_length_58(t):
    channel = open_channel(t)
    dead = own_queue(t, channel, "dead")
    length = own_queue(t, channel, **{"x-max-length": 3}, **dead_letters_to(dead))
    publish(channel, length, *[b"%d" % n for n in range(5)])
    equal(channel.count(length), (3, 0))
    wait_for(channel, dead, 2)
    lost = got(channel, dead)
    equal([(each.body, each.properties["headers"]["x-first-death-reason"]) for each in lost],
          [(b"0", "maxlen"), (b"1", "maxlen")])
    # What is held does not count.
    for _ in range(2):
        channel.get(length)
    publish(channel, length, b"5", b"6")
    equal(channel.count(length), (3, 0))
    equal(channel.count(dead), (0, 0))
    # Nor does what comes back drive anything out that a consumer could take: the oldest goes first, as always.
    channel.send("basic.nack", delivery_tag=0, multiple=True, requeue=True)
    wait_for(channel, dead, 2)
    equal((bodies(got(channel, dead)), bodies(got(channel, length))), ([b"2", b"3"], [b"4", b"5", b"6"]))
    octets = own_queue(t, channel, **{"x-max-length-bytes": 100}, **dead_letters_to(dead))
    publish(channel, octets, b"a" * 60, b"b" * 40, headers={"not counted": "x" * 100})
    equal(channel.count(octets), (2, 0), "bodies only")
    publish(channel, octets, b"c")
    wait_for(channel, dead, 1)
    equal(bodies(got(channel, octets)), [b"b" * 40, b"c"])
    got(channel, dead)
    both = own_queue(t, channel, **{"x-max-length": 2, "x-max-length-bytes": 10})
    publish(channel, both, b"1", b"2", b"3")
    equal(bodies(got(channel, both)), [b"2", b"3"])
    publish(channel, both, b"123456", b"123456")
    equal(bodies(got(channel, both)), [b"123456"])
    zero = own_queue(t, channel, **{"x-max-length": 0}, **dead_letters_to(dead))
    publish(channel, zero, b"dropped at once")
    equal(channel.count(zero), (0, 0))
    equal(get_soon(channel, dead).body, b"dropped at once")
    channel.consume(zero, no_ack=True)
    channel.publish("", zero, b"taken at once")
    equal(channel.wait("basic.deliver").body, b"taken at once")
    quorum = quorum_queue(t, channel, **{"x-max-length": 3}, **dead_letters_to(dead))
    publish(channel, quorum, *[b"%d" % n for n in range(5)])
    wait_for(channel, quorum, 3)
    wait_for(channel, dead, 2)
    equal(bodies(got(channel, quorum)), [b"2", b"3", b"4"])


def test_refused_publishes_59(t):
    channel = confirming(open_channel(t))
    dead = own_queue(t, channel, "dead")
    for overflow, letters in (("reject-publish", []), ("reject-publish-dlx", [b"2", b"3", b"unconfirmed"])):
        queue = own_queue(t, channel, **{"x-max-length": 2, "x-overflow": overflow}, **dead_letters_to(dead))
        for n in range(4):
            channel.publish("", queue, b"%d" % n)
        equal(outcome(channel, 4), ["ack", "ack", "nack", "nack"], overflow)
        plain = channel.owner.channel(2)
        plain.publish("", queue, b"unconfirmed")
        plain.call("basic.qos")
        wait_for(plain, dead, len(letters))
        lost = got(plain, dead)
        equal(bodies(lost), letters, overflow)
        equal({each.properties["headers"]["x-first-death-reason"] for each in lost}, {"maxlen"} if letters else set())
        equal(bodies(got(plain, queue)), [b"0", b"1"], overflow)
        channel.publish("", queue, b"room again")
        equal(outcome(channel), ["ack"])
        plain.call("channel.close", reply_code=200)


def test_reject_publish_dlx_of_a_quorum_queue_59(t):
    """Only classic queues know it: the oldest goes, and nobody is refused."""
    channel = confirming(open_channel(t))
    dead = own_queue(t, channel, "dead")
    queue = quorum_queue(t, channel, **{"x-max-length": 2, "x-overflow": "reject-publish-dlx"}, **dead_letters_to(dead))
    for n in range(4):
        channel.publish("", queue, b"%d" % n)
    equal(outcome(channel, 4), ["ack"] * 4)
    wait_for(channel, dead, 2)
    equal((bodies(got(channel, dead)), bodies(got(channel, queue))), ([b"0", b"1"], [b"2", b"3"]))


def test_priorities_of_a_classic_queue_60(t):
    channel = open_channel(t)
    queue = own_queue(t, channel, **{"x-max-priority": 5})
    confirming(channel)
    for body, priority in ((b"none", None), (b"0", 0), (b"3a", 3), (b"5", 5), (b"255", 255), (b"3b", 3), (b"1", 1)):
        channel.publish("", queue, body, priority=priority)
    channel.confirm()
    messages = got(channel, queue)
    equal(bodies(messages), [b"5", b"255", b"3a", b"3b", b"1", b"none", b"0"])
    equal(messages[1].properties, {"priority": 255}, "the property is kept as it was")


def test_priorities_of_a_quorum_queue_60(t):
    channel = confirming(open_channel(t))
    quorum = quorum_queue(t, channel)
    for body, priority in ((b"none", None), (b"0", 0), (b"4", 4), (b"5", 5), (b"3", 3), (b"31", 31), (b"255", 255)):
        channel.publish("", quorum, body, priority=priority)
    channel.confirm()
    equal(bodies(got(channel, quorum)), [b"31", b"255", b"5", b"none", b"4", b"3", b"0"])


def test_priorities_and_length_60(t):
    channel = open_channel(t)
    queue = own_queue(t, channel, **{"x-max-priority": 5, "x-max-length": 2})
    confirming(channel)
    for body, priority in ((b"low", 0), (b"high", 5), (b"middle", 3)):
        channel.publish("", queue, body, priority=priority)
    channel.confirm()
    equal(bodies(got(channel, queue)), [b"middle", b"low"], "the head is dropped, which is the highest")


def death(t, sent):
    """A message with these headers dies by a reject. Returns its headers, and those that are added to what was sent."""
    channel = open_channel(t)
    dead = own_queue(t, channel, "dead")
    exchange, dlx = kept_exchange(t, channel), kept_exchange(t, channel, "fanout")
    first = own_queue(t, channel, "dying", **{"x-dead-letter-exchange": dlx})
    channel.bind(dead, dlx)
    for key in ("key", "copy", "blind"):
        channel.bind(first, exchange, key)
    confirming(channel)
    before = int(time.time())
    channel.publish(exchange, "key", b"x", expiration="10000", delivery_mode=2, headers=sent)
    channel.confirm()
    channel.send("basic.reject", delivery_tag=channel.get(first).delivery_tag)
    message = get_soon(channel, dead)
    equal((message.exchange, message.routing_key), (dlx, "key"))
    equal({k: v for k, v in message.properties.items() if k != "headers"}, {"delivery_mode": 2}, "expiration is taken away")
    headers = message.properties["headers"]
    at = headers["x-death"][0]["time"]
    require(at.letter == "T" and before - 1 <= at.value <= time.time() + 1, f"time {at}")
    return headers, {
        "x-death": [{"count": long(1), "exchange": exchange, "queue": first, "reason": "rejected", "routing-keys": ["key"],
                     "time": at, "original-expiration": "10000"}],
        "x-first-death-exchange": exchange, "x-first-death-queue": first, "x-first-death-reason": "rejected",
        "x-last-death-exchange": exchange, "x-last-death-queue": first, "x-last-death-reason": "rejected"}


def test_death_61(t):
    headers, expected = death(t, {"mine": typed("s", 5)})
    equal(headers, {"mine": typed("s", 5), **expected})


def test_death_with_copies_61(t):
    headers, expected = death(t, {"CC": ["copy"], "BCC": ["blind"]})
    expected["x-death"][0]["routing-keys"] = ["key", "copy"]
    equal(headers, {"CC": ["copy"], **expected})


def test_deaths_are_counted_by_queue_and_reason_61(t):
    channel = open_channel(t)
    back = t.unique("back")
    queue = kept_queue(t, channel, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": back})
    channel.queue(back, exclusive=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue,
                                                   "x-message-ttl": 50})
    publish(channel, queue, b"x")
    for _ in range(3):
        message = get_soon(channel, queue, no_ack=False)
        channel.send("basic.reject", delivery_tag=message.delivery_tag)
    headers = get_soon(channel, queue).properties["headers"]
    for each in headers["x-death"]:
        each.pop("time")
    equal(headers["x-death"], [
        {"count": long(3), "exchange": "", "queue": back, "reason": "expired", "routing-keys": [back]},
        {"count": long(3), "exchange": "", "queue": queue, "reason": "rejected", "routing-keys": [queue]}])


def test_first_and_last_death_62(t):
    channel = open_channel(t)
    third = own_queue(t, channel, "third")
    second = own_queue(t, channel, "second", **{"x-message-ttl": 50}, **dead_letters_to(third))
    first = own_queue(t, channel, "first", **dead_letters_to(second))
    forged = {"x-death": [{"count": typed("l", 99), "queue": "forged", "reason": "rejected", "exchange": "forged",
                           "routing-keys": ["forged"]}], "x-first-death-queue": "forged"}
    publish(channel, first, b"x")
    publish(channel, first, b"forged", headers=forged)
    for _ in range(2):
        channel.send("basic.reject", delivery_tag=channel.get(first).delivery_tag)
    wait_for(channel, third, 2)
    plain, with_forged = got(channel, third)
    for message, expected in ((plain, {}), (with_forged, {"x-first-death-queue": first})):
        headers = message.properties["headers"]
        equal({key: value for key, value in headers.items() if key != "x-death"}, {
            "x-first-death-exchange": "", "x-first-death-queue": first, "x-first-death-reason": "rejected",
            "x-last-death-exchange": "", "x-last-death-queue": second, "x-last-death-reason": "expired", **expected})
        equal([(each["queue"], each["reason"], each["count"]) for each in headers["x-death"]],
              [(second, "expired", long(1)), (first, "rejected", long(1))], "what the client said of deaths is ignored")


def test_reasons_63(t):
    channel = open_channel(t)
    dead = own_queue(t, channel, "dead")

    def reason_of(queue, *rejects, expiration=None):
        publish(channel, queue, b"x", expiration=expiration)
        for name, arguments in rejects:
            channel.send(name, delivery_tag=get_soon(channel, queue, no_ack=False).delivery_tag, **arguments)
        headers = get_soon(channel, dead).properties
        require("expiration" not in headers, "expiration is removed")
        return headers["headers"]["x-death"][0]["reason"]
    plain = own_queue(t, channel, **dead_letters_to(dead))
    limited = quorum_queue(t, channel, **{"x-delivery-limit": 0}, **dead_letters_to(dead))
    same([
        ("reject", reason_of(plain, ("basic.reject", {})), "rejected"),
        ("nack", reason_of(plain, ("basic.nack", {})), "rejected"),
        ("expiration", reason_of(plain, expiration="20"), "expired"),
        ("maxlen", reason_of(own_queue(t, channel, **{"x-max-length": 0}, **dead_letters_to(dead))), "maxlen"),
        ("delivery limit", reason_of(limited, ("basic.reject", {"requeue": True})), "delivery_limit"),
        ("reject by a quorum queue", reason_of(limited, ("basic.reject", {})), "rejected"),
    ])
    publish(channel, plain, b"purged")
    channel.call("queue.purge", queue=plain)
    publish(channel, plain, b"deleted")
    channel.call("queue.delete", queue=plain)
    equal(channel.count(dead), (0, 0), "purge and deletion do not dead-letter")


def test_dead_letter_key_64(t):
    channel = open_channel(t)
    dlx = kept_exchange(t, channel)
    by_key, by_own = own_queue(t, channel), own_queue(t, channel)
    exchange = kept_exchange(t, channel)
    channel.bind(by_key, dlx, "key")
    channel.bind(by_own, dlx, "own")
    confirming(channel)
    for arguments, expected, key in (({"x-dead-letter-exchange": dlx}, by_key, "key"),
                                     ({"x-dead-letter-exchange": dlx, "x-dead-letter-routing-key": "own"}, by_own, "own"),
                                     ({"x-dead-letter-exchange": t.unique("none")}, None, None)):
        queue = own_queue(t, channel, **arguments)
        channel.bind(queue, exchange, "key")
        channel.publish(exchange, "key", b"x")
        channel.confirm()
        channel.send("basic.reject", delivery_tag=channel.get(queue).delivery_tag)
        if expected:
            message = get_soon(channel, expected)
            equal((message.exchange, message.routing_key), (dlx, key))
            equal(message.properties["headers"]["x-death"][0]["routing-keys"], ["key"])
        else:
            publish(channel, queue, b"the channel lives on")
            equal(channel.get(queue).body, b"the channel lives on")
        channel.call("queue.delete", queue=queue)
    equal((channel.count(by_key), channel.count(by_own)), ((0, 0), (0, 0)), "no exchange, no letter")


def test_dead_letter_keys_and_copies_64(t):
    channel = open_channel(t)
    dlx = kept_exchange(t, channel)
    by_key, by_copy, by_blind, by_own = (own_queue(t, channel) for _ in range(4))
    exchange = kept_exchange(t, channel)
    for queue, key in ((by_key, "key"), (by_copy, "copy"), (by_blind, "blind"), (by_own, "own")):
        channel.bind(queue, dlx, key)
    keeps = own_queue(t, channel, "keeps", **{"x-dead-letter-exchange": dlx})
    renames = own_queue(t, channel, "renames", **{"x-dead-letter-exchange": dlx, "x-dead-letter-routing-key": "own"})

    def die(queue):
        channel.bind(queue, exchange, "key")
        confirming(channel).publish(exchange, "key", b"x", headers={"CC": ["copy"], "BCC": ["blind"]})
        channel.confirm()
        channel.send("basic.reject", delivery_tag=channel.get(queue).delivery_tag)
        channel.call("queue.unbind", queue=queue, exchange=exchange, routing_key="key")
    die(keeps)
    for queue, shown in ((by_key, "key"), (by_copy, "key"), (by_blind, "key")):
        message = get_soon(channel, queue, timeout=2)
        equal((message.routing_key, message.properties["headers"].get("CC")), (shown, ["copy"]))
    die(renames)
    message = get_soon(channel, by_own)
    equal((message.routing_key, message.properties["headers"].get("CC")), ("own", ["copy"]),
          "an own key: CC stays to be read, and routes no more")
    equal(message.properties["headers"]["x-death"][0]["routing-keys"], ["key", "copy"])
    for queue in (by_key, by_copy, by_blind):
        equal(channel.count(queue), (0, 0))


def test_dead_letters_are_kept_until_there_is_a_way_64(t):
    with quick_dead_letter_retries(t):
        channel = open_channel(t)
        dlx, dead = t.unique("later"), own_queue(t, channel, "dead")
        queue = quorum_queue(t, channel, **{"x-dead-letter-exchange": dlx, "x-dead-letter-strategy": "at-least-once",
                                            "x-overflow": "reject-publish"})
        publish(channel, queue, b"kept")
        channel.send("basic.reject", delivery_tag=get_soon(channel, queue, no_ack=False).delivery_tag)
        wait_for(channel, queue, 0)
        silent(channel, "nothing", seconds=0.3)
        later(t, "exchange.delete", exchange=dlx)
        channel.exchange(dlx, "fanout")
        channel.bind(dead, dlx)
        equal(get_soon(channel, dead, timeout=10).body, b"kept", "it is sent once there is a way")


def test_cycles_65(t):
    channel = open_channel(t)
    # Expiry in a ring of two: dropped when it is back where it has been.
    name = t.unique("ring")
    one = kept_queue(t, channel, **{"x-message-ttl": 50, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": name})
    channel.queue(name, exclusive=True, arguments={"x-message-ttl": 50, "x-dead-letter-exchange": "",
                                                   "x-dead-letter-routing-key": one})
    confirming(channel).publish("", one, b"x")
    channel.confirm()
    poll("an automatic cycle ends", lambda: empty_for(channel, 0.2, one, name))
    # A queue that leads to itself.
    alone = kept_queue(t, channel, "alone", **{"x-message-ttl": 50, "x-dead-letter-exchange": ""})
    publish(channel, alone, b"x")
    poll("an automatic cycle of one ends", lambda: empty_for(channel, 0.2, alone))
    # With a reject within, it goes on for ever.
    publish(channel, alone, b"rejected")
    for n in range(5):
        message = get_soon(channel, alone, no_ack=False)
        deaths = message.properties.get("headers", {}).get("x-death", [])
        equal([(each["reason"], each["count"]) for each in deaths], [("rejected", long(n))] if n else [])
        channel.send("basic.reject", delivery_tag=message.delivery_tag)


def test_dead_letters_and_confirms_66(t):
    channel = open_channel(t)
    full = own_queue(t, channel, "full", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    publish(channel, full, b"fills it")
    # The dead letter is refused by one of two queues; who published the message is told of its first queue only.
    dlx, seen = kept_exchange(t, channel, "fanout"), own_queue(t, channel, "seen")
    for queue in (full, seen):
        channel.bind(queue, dlx)
    dying = own_queue(t, channel, "dying", **{"x-max-length": 0, "x-dead-letter-exchange": dlx})
    channel.judged = 1
    channel.publish("", dying, b"x")
    equal(outcome(channel), ["ack"])
    equal(get_soon(channel, seen).body, b"x")
    equal(bodies(got(channel, full)), [b"fills it"])
    silent(channel, "basic.ack", "basic.nack", seconds=0.05)


def test_at_least_once_needs_reject_publish_66(t):
    """Else it falls back to at-most-once: what cannot be routed is dropped."""
    channel = confirming(open_channel(t))
    dlx, dead = t.unique("later"), own_queue(t, channel, "dead")
    queue = quorum_queue(t, channel, **{"x-dead-letter-exchange": dlx, "x-dead-letter-strategy": "at-least-once"})
    channel.publish("", queue, b"dropped")
    equal(outcome(channel), ["ack"])
    channel.send("basic.reject", delivery_tag=get_soon(channel, queue, no_ack=False).delivery_tag)
    wait_for(channel, queue, 0)
    silent(channel, "nothing")
    channel.exchange(dlx, "fanout", auto_delete=True)
    channel.bind(dead, dlx)
    silent(channel, "nothing", seconds=0.5)
    equal(channel.count(dead), (0, 0))


def test_delayed_retry_67(t):
    channel = open_channel(t)

    def delay(kind, give_back, times=1):
        """Seconds until the message is there again after it was given back so many times."""
        queue = quorum_queue(t, channel, **{"x-delayed-retry-type": kind, "x-delayed-retry-min": 300,
                                            "x-delayed-retry-max": 500})
        publish(channel, queue, b"x")
        for _ in range(times):
            message = get_soon(channel, queue, no_ack=False)
            since = time.monotonic()
            channel.send(give_back, delivery_tag=message.delivery_tag, requeue=True)
        get_soon(channel, queue)
        return elapsed(since)

    def between(low, high, what, seconds):
        require(low <= seconds <= high, f"{what}: {seconds:.3f} s, expected {low} to {high}")
    between(0, 0.2, "disabled", delay("disabled", "basic.reject"))
    between(0.25, 0.5, "all, rejected", delay("all", "basic.reject"))
    between(0.25, 0.5, "all, nacked", delay("all", "basic.nack"))
    between(0.25, 0.5, "failed, rejected", delay("failed", "basic.reject"))
    between(0, 0.2, "failed, nacked", delay("failed", "basic.nack"))
    between(0, 0.2, "returned, rejected", delay("returned", "basic.reject"))
    between(0.25, 0.5, "returned, nacked", delay("returned", "basic.nack"))
    between(0.45, 0.7, "twice: the maximum", delay("all", "basic.reject", 2))
