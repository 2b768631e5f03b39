"""The exchange types that choose among their bindings, or remember: which queues a message reaches, over a socket.

RabbitMQ has most of them as plugins, so a peer that does not know one skips its test.
"""
import collections

from amqp_raw import closed
from behaviours_stage import asker, bodies, confirming, got, kept_exchange, own_queue, refusal, same
from harness import equal, require, skip

BIND = (50, 20)


def exchange_of(t, channel, kind, **arguments):
    try:
        return kept_exchange(t, channel, kind, arguments=arguments)
    except closed as close:
        channel.open()
        channel.confirms = False
        if t.suite.peer and "exchange type" in close.text:
            raise skip(f"the peer has no exchange type {kind}") from None
        raise


def shares(channel, exchange, queues, publishes):
    """What each queue gets of these publishes, as (routing key, properties) or just a key: by the message's number."""
    confirming(channel)
    for n, each in enumerate(publishes):
        key, properties = each if isinstance(each, tuple) else (each, {})
        channel.publish(exchange, key, b"%d" % n, **properties)
    channel.confirm()
    return [{int(body) for body in bodies(got(channel, queue))} for queue in queues]


def test_consistent_hash(t):
    ask = asker(t)
    channel = ask.channel
    exchange = exchange_of(t, channel, "x-consistent-hash")
    queues = [own_queue(t, channel) for _ in range(3)]
    for queue, weight in zip(queues, "121"):
        channel.bind(queue, exchange, weight)
    keys = [f"key {n}" for n in range(400)]
    before = shares(channel, exchange, queues, keys)
    equal(sum(map(len, before)), 400, "each to one queue")
    equal(set().union(*before), set(range(400)))
    require(150 < len(before[1]) < 250, f"half of them by its weight: {[len(each) for each in before]}")
    equal(shares(channel, exchange, queues, keys), before, "a key stays with its queue")
    channel.call("queue.unbind", queue=queues[2], exchange=exchange, routing_key="1")
    after = shares(channel, exchange, queues, keys)
    equal(after[2], set())
    for n in range(2):
        require(before[n] <= after[n], "only what the one had that left has moved")
    ask.channel.owner.drop()
    ask = asker(t)
    queue = own_queue(t, ask.channel)
    same([(key, ask("queue.bind", queue=queue, exchange=exchange, routing_key=key), refusal(406, text, BIND)) for key, text in (
        ("0", "The binding key must be greater than 0"), ("a", "The binding key must be an integer: <<\"a\">>"))])


def test_consistent_hash_of_headers_and_properties(t):
    ask = asker(t)
    channel = ask.channel
    for arguments, by in (({"hash-header": "h"}, lambda n: {"headers": {"h": f"{n}"}}),
                          ({"hash-property": "message_id"}, lambda n: {"message_id": f"{n}"}),
                          ({"hash-property": "correlation_id"}, lambda n: {"correlation_id": f"{n}"}),
                          ({"hash-property": "timestamp"}, lambda n: {"timestamp": n})):
        exchange = exchange_of(t, channel, "x-consistent-hash", **arguments)
        queues = [own_queue(t, channel) for _ in range(2)]
        for queue in queues:
            channel.bind(queue, exchange, "1")
        found = shares(channel, exchange, queues, [("same key", by(n % 50)) for n in range(200)])
        require(all(found), f"{arguments}: both have some")
        for n in range(50):
            where = [n in each for each in found]
            for again in range(n, 200, 50):
                equal([again in each for each in found], where, f"{arguments}: what is equal stays together")
    same([("both", ask("exchange.declare", exchange=t.unique("x"), type="x-consistent-hash",
                       arguments={"hash-header": "h", "hash-property": "message_id"}),
           refusal(406, "hash-header and hash-property are mutually exclusive", (40, 10))),
          ("unknown property", ask("exchange.declare", exchange=t.unique("x"), type="x-consistent-hash",
                                   arguments={"hash-property": "app_id"}),
           refusal(406, "Unsupported property: app_id", (40, 10)))])


def test_modulus_hash_and_chance(t):
    channel = asker(t).channel
    keys = [f"key {n % 100}" for n in range(400)]
    for kind in ("x-modulus-hash", "x-random", "x-local-random"):
        try:
            exchange = exchange_of(t, channel, kind)
        except skip:
            continue
        queues = [own_queue(t, channel) for _ in range(4)]
        for queue in queues:
            channel.bind(queue, exchange)
        found = shares(channel, exchange, queues, keys)
        equal(sum(map(len, found)), 400, f"{kind}: each to one queue")
        require(all(found), f"{kind}: all have some")
        places = collections.defaultdict(set)
        for n in range(400):
            places[n % 100].add(next(i for i, each in enumerate(found) if n in each))
        if kind == "x-modulus-hash":
            require(all(len(each) == 1 for each in places.values()), "a key has one queue")
        else:
            require(any(len(each) > 1 for each in places.values()), f"{kind}: a key has none of its own")


def test_recent_history(t):
    ask = asker(t)
    channel = ask.channel
    exchange = exchange_of(t, channel, "x-recent-history", **{"x-recent-history-length": 3})
    confirming(channel)
    for n in range(5):
        channel.publish(exchange, "k", b"%d" % n)
    channel.publish(exchange, "k", b"not kept", headers={"x-recent-history-no-store": True})
    channel.confirm()
    queue = own_queue(t, channel)
    channel.bind(queue, exchange)
    equal(bodies(got(channel, queue)), [b"2", b"3", b"4"], "who comes late has the last three, in order")
    channel.publish(exchange, "k", b"5")
    channel.confirm()
    equal(bodies(got(channel, queue)), [b"5"], "and then what comes, as of a fanout exchange")
    same([("no length", ask("exchange.declare", exchange=t.unique("x"), type="x-recent-history",
                            arguments={"x-recent-history-length": 0}),
           refusal(406, "Invalid argument 0, 'x-recent-history-length' must be a positive integer", (40, 10)))])
