"""Programs with kombu (and py-amqp under it), as applications use it."""
import socket
import sys
import threading
import time

import kombu
import kombu.pidbox
import kombu.pools
import kombu.simple
from kombu.mixins import ConsumerMixin, ConsumerProducerMixin

from harness import equal, poll, require
from processes import relay


def run(bench):
    bench.functions(sys.modules[__name__])


def connection(bench, port=None, **arguments):
    made = kombu.Connection(f"amqp://guest:guest@127.0.0.1:{port or bench.port}//", **arguments)
    bench.on_exit(made.release)
    return made


def drain(where, enough, timeout=10.0):
    """Lets the connection handle what comes until there is enough."""
    deadline = time.monotonic() + timeout
    while not enough():
        require(time.monotonic() < deadline, f"not within {timeout:g} s")
        try:
            where.drain_events(timeout=0.2)
        except socket.timeout:
            pass


def test_simple_queue(bench):
    used = bench.unique("simple")
    with connection(bench).SimpleQueue(used) as queue:
        values = [{"number": 1, "text": "ü"}, ["a", None, 2.5], "plain", 7]
        for value in values:
            queue.put(value, serializer="json", compression="zlib" if value == "plain" else None)
        poll("all are there", lambda: queue.qsize() == len(values))
        for value in values:
            message = queue.get(block=True, timeout=5)
            equal(message.payload, value)
            message.ack()
        try:
            queue.get_nowait()
        except kombu.simple.Empty:
            pass
        else:
            raise AssertionError("an empty queue gave something")
        try:
            queue.get(timeout=0.1)
        except kombu.simple.Empty:
            pass
        else:
            raise AssertionError("an empty queue gave something")
    with connection(bench).SimpleQueue(used) as queue:
        queue.put("to be cleared")
        poll("it is there", lambda: queue.qsize() == 1)
        equal(queue.clear(), 1)
    with connection(bench) as last:
        last.default_channel.queue_delete(used)


def test_simple_buffer(bench):
    with connection(bench).SimpleBuffer(bench.unique("buffer")) as buffer:
        buffer.put(b"raw")
        equal(buffer.get(timeout=5).payload, b"raw")


def test_declare_bind_route(bench):
    with connection(bench) as conn, conn.channel() as channel:
        name = bench.unique("routes")
        exchange = kombu.Exchange(name, type="topic", durable=True)
        queues = [kombu.Queue(f"{name}-{n}", exchange, routing_key=key, queue_arguments=arguments)(channel)
                  for n, (key, arguments) in enumerate(
                      [("a.#", {}), ("*.b", {"x-max-length": 1}), ("#", {"x-message-ttl": 600000})])]
        for queue in queues:
            queue.declare()
            queue.queue_declare(passive=True)
        producer = conn.Producer(channel)
        for key in ("a.b", "x.b", "z"):
            producer.publish({"key": key}, exchange=exchange, routing_key=key, delivery_mode=2)
        poll("three messages in the last", lambda: queues[2].queue_declare(passive=True).message_count == 3)
        equal(queues[0].get().payload, {"key": "a.b"})
        equal(queues[0].get(), None)
        equal([queues[1].get(no_ack=True).payload, queues[1].get()], [{"key": "x.b"}, None], "a queue of one message")
        equal(queues[2].purge(), 3)
        queues[2].unbind_from(exchange, routing_key="#")
        for queue in queues:
            queue.delete()
        exchange(channel).delete()


def test_exchange_to_exchange(bench):
    with connection(bench) as conn, conn.channel() as channel:
        name = bench.unique("e2e")
        source = kombu.Exchange(f"{name}-source", type="direct", durable=False)(channel)
        target = kombu.Exchange(f"{name}-target", type="fanout", durable=False)(channel)
        queue = kombu.Queue(f"{name}-queue", target, exclusive=True)(channel)
        source.declare()
        queue.declare()
        target.bind_to(source, routing_key="through")
        producer = conn.Producer(channel)
        producer.publish("first", exchange=source, routing_key="through")
        producer.publish("not", exchange=source, routing_key="elsewhere")
        poll("it is there", lambda: queue.queue_declare(passive=True).message_count == 1)
        equal(queue.get(no_ack=True).payload, "first")
        target.unbind_from(source, routing_key="through")
        for each in (source, target):
            each.delete()


def test_many_bindings_of_one_queue(bench):
    with connection(bench) as conn, conn.channel() as channel:
        name = bench.unique("bindings")
        exchange = kombu.Exchange(name, type="headers", durable=False)
        queue = kombu.Queue(name, bindings=[
            kombu.binding(exchange, arguments={"x-match": "all", "kind": "a", "size": 1}),
            kombu.binding(exchange, arguments={"x-match": "any", "kind": "b", "size": 2})], durable=False)(channel)
        queue.declare()
        producer = conn.Producer(channel)
        sent = [{"kind": "a", "size": 1}, {"kind": "a", "size": 3}, {"kind": "b"}, {"size": 2}, {}]
        for number, headers in enumerate(sent):
            producer.publish(number, exchange=exchange, headers=headers)
        poll("three came", lambda: queue.queue_declare(passive=True).message_count == 3)
        equal([queue.get(no_ack=True).payload for _ in range(3)], [0, 2, 3])
        queue.delete()
        exchange(channel).delete()


def test_requeue_and_reject(bench):
    with connection(bench) as conn, conn.channel() as channel:
        name = bench.unique("requeue")
        dead = kombu.Queue(f"{name}-dead", kombu.Exchange(f"{name}-dlx", type="fanout"))(channel)
        dead.declare()
        queue = kombu.Queue(name, kombu.Exchange(name), routing_key=name,
                            queue_arguments={"x-dead-letter-exchange": f"{name}-dlx"})(channel)
        queue.declare()
        conn.Producer(channel).publish({"n": 1}, exchange=kombu.Exchange(name), routing_key=name)
        seen = []

        def take(body, message):
            seen.append((body, message.delivery_info["redelivered"]))
            (message.requeue if len(seen) < 3 else message.reject)()

        with conn.Consumer([queue], callbacks=[take], channel=channel, prefetch_count=1):
            drain(conn, lambda: len(seen) == 3)
        equal(seen, [({"n": 1}, False), ({"n": 1}, True), ({"n": 1}, True)])
        poll("it was dead-lettered", lambda: dead.queue_declare(passive=True).message_count == 1)
        death = dead.get(no_ack=True).headers["x-death"][0]
        equal((death["queue"], death["reason"], death["count"]), (name, "rejected", 1))
        for each in (queue, dead, kombu.Exchange(name)(channel), kombu.Exchange(f"{name}-dlx")(channel)):
            each.delete()


def test_publisher_confirms_and_returns(bench):
    with connection(bench, transport_options={"confirm_publish": True}) as conn, conn.channel() as channel:
        name = bench.unique("confirms")
        queue = kombu.Queue(name, durable=True)(channel)
        queue.declare()
        returned = []
        producer = conn.Producer(channel, on_return=lambda error, exchange, key, message: returned.append(key))
        for n in range(100):
            producer.publish(n, routing_key=name, mandatory=True, delivery_mode=2)
        equal(queue.queue_declare(passive=True).message_count, 100, "confirmed is in the queue")
        producer.publish("lost", routing_key=f"{name}-nobody", mandatory=True)
        drain(conn, lambda: returned, 5)
        equal(returned, [f"{name}-nobody"])
        queue.delete()


def test_priorities(bench):
    with connection(bench) as conn, conn.channel() as channel:
        queue = kombu.Queue(bench.unique("priority"), max_priority=10)(channel)
        queue.declare()
        for priority in (0, 5, 10, 5, 1):
            conn.Producer(channel).publish(priority, routing_key=queue.name, priority=priority)
        poll("all are there", lambda: queue.queue_declare(passive=True).message_count == 5)
        equal([queue.get(no_ack=True).payload for _ in range(5)], [10, 5, 5, 1, 0])
        queue.delete()


def test_consumer_priorities_and_cancel(bench):
    """The consumer with the higher priority gets all; and a consumer hears when its queue is deleted."""
    with connection(bench) as conn, connection(bench) as other:
        name = bench.unique("first")
        got = []
        low = kombu.Queue(name, consumer_arguments={"x-priority": 1})
        high = kombu.Queue(name, consumer_arguments={"x-priority": 10})
        gone = []
        with conn.Consumer([low], callbacks=[lambda body, message: (got.append(("low", body)), message.ack())]):
            with conn.Consumer([high], callbacks=[lambda body, message: (got.append(("high", body)), message.ack())]):
                for n in range(10):
                    other.Producer().publish(n, routing_key=name)
                drain(conn, lambda: len(got) == 10)
                equal(got, [("high", n) for n in range(10)])
        with conn.channel() as channel:
            channel.basic_consume(name, callback=lambda message: None, on_cancel=gone.append, consumer_tag="listener")
            other.default_channel.queue_delete(name)
            drain(conn, lambda: gone, 10)
        equal(gone, ["listener"])


class echo(ConsumerProducerMixin):
    """A service that answers."""

    def __init__(self, conn, name):
        self.connection, self.name = conn, name

    def get_consumers(self, Consumer, channel):  # noqa: N803  kombu's name
        return [Consumer([kombu.Queue(self.name, durable=False)], on_message=self.answer, prefetch_count=3)]

    def answer(self, message):
        self.producer.publish({"echo": message.payload}, exchange="", retry=True,
                              routing_key=message.properties["reply_to"],
                              correlation_id=message.properties["correlation_id"])
        message.ack()


def running(bench, worker):
    thread = threading.Thread(target=worker.run, daemon=True)

    def stop():
        worker.should_stop = True
        thread.join(15)

    bench.on_exit(stop)
    thread.start()


def test_consumer_producer_mixin(bench):
    name = bench.unique("echo")
    service = echo(connection(bench), name)
    running(bench, service)
    with connection(bench) as conn, conn.channel() as channel:
        answers = {}
        replies = kombu.Queue(bench.unique("replies"), exclusive=True, auto_delete=True)(channel)
        replies.declare()
        poll("the service listens", lambda: connected(conn, name))
        with conn.Consumer([replies], channel=channel, no_ack=True, callbacks=[
                lambda body, message: answers.__setitem__(message.properties["correlation_id"], body)]):
            for n in range(20):
                conn.Producer(channel).publish(n, routing_key=name, reply_to=replies.name, correlation_id=str(n))
            drain(conn, lambda: len(answers) == 20)
        equal(answers, {str(n): {"echo": n} for n in range(20)})
        conn.default_channel.queue_delete(name)


def connected(conn, queue):
    """Whether the queue exists and has a consumer."""
    with conn.clone() as probe:
        try:
            return probe.default_channel.queue_declare(queue, passive=True).consumer_count > 0
        except probe.channel_errors:
            return False


class collector(ConsumerMixin):
    """Takes what comes, and goes on after a connection was lost."""

    def __init__(self, conn, name):
        self.connection, self.name, self.got, self.revived = conn, name, [], 0

    def get_consumers(self, Consumer, channel):  # noqa: N803  kombu's name
        return [Consumer([kombu.Queue(self.name)], callbacks=[self.take], prefetch_count=5)]

    def on_connection_revived(self):
        self.revived += 1

    def take(self, body, message):
        self.got.append(body)
        message.ack()


def test_consumer_mixin_survives_cuts(bench):
    """The consumer's and the producer's connections break again and again; every message comes."""
    between, name = relay(bench, bench.port), bench.unique("cut")
    worker = collector(connection(bench, between.port), name)
    running(bench, worker)
    with connection(bench) as probe:
        poll("it listens", lambda: connected(probe, name))
    conn = connection(bench, between.port, transport_options={"confirm_publish": True})
    policy = {"max_retries": 50, "interval_start": 0, "interval_step": 0.05, "interval_max": 0.2}
    with kombu.pools.ProducerPool(conn.Pool(2), limit=2).acquire(block=True) as producer:
        for n in range(120):
            if n in (30, 60, 90):
                between.cut()
            producer.publish(n, routing_key=name, retry=True, retry_policy=policy, delivery_mode=2,
                             declare=[kombu.Queue(name)])
    poll("all have come", lambda: set(worker.got) == set(range(120)), 30)
    require(worker.revived >= 2, f"its connection was set up {worker.revived} times: nothing was cut")
    with connection(bench) as last:
        worker.should_stop = True
        last.default_channel.queue_delete(name)


def test_ensure_connection_waits_for_the_node(bench):
    """A node that is killed and started again: the same connection object goes on, and what was durable is there."""
    node = bench.node("killed")
    conn = connection(bench, node.port, transport_options={"confirm_publish": True})
    name = bench.unique("durable")
    queue = kombu.Queue(name, durable=True)
    producer = conn.Producer(auto_declare=True)
    producer.publish("before", routing_key=name, declare=[queue], delivery_mode=2)
    node.kill()
    node.start()
    conn.ensure_connection(max_retries=50, interval_start=0.05, interval_step=0.05)
    producer.publish("after", routing_key=name, declare=[queue], delivery_mode=2, retry=True,
                     retry_policy={"max_retries": 50, "interval_start": 0.05})
    with connection(bench, node.port) as after:
        bound = queue(after.default_channel)
        equal([bound.get(no_ack=True).payload for _ in range(2)], ["before", "after"])


def test_heartbeats_keep_an_idle_connection(bench):
    """With a heartbeat of one second the connection lives on as long as both sides send theirs."""
    with connection(bench, heartbeat=1) as conn:
        conn.connect()
        equal(conn.get_heartbeat_interval(), 1)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            conn.heartbeat_check(rate=2)
            try:
                conn.drain_events(timeout=0.4)
            except socket.timeout:
                pass
        conn.default_channel.queue_declare(exclusive=True)


def test_mailbox_broadcast(bench):
    """kombu's own remote control, which Celery uses: a fanout exchange, and answers to a queue of the asker."""
    name = bench.unique("box")
    mailbox = kombu.pidbox.Mailbox(name, type="fanout")
    asked = []
    nodes = []
    for number in range(2):
        conn = connection(bench)
        channel = conn.channel()
        node = mailbox(conn).Node(hostname=f"node{number}", state=number, channel=channel)

        @node.handler
        def double(state, value):
            asked.append(state)
            return value * 2 + state

        consumer = node.listen(channel=channel)
        nodes.append((conn, consumer))
    stop = threading.Event()

    def serve(conn):
        while not stop.is_set():
            try:
                conn.drain_events(timeout=0.1)
            except socket.timeout:
                pass

    threads = [threading.Thread(target=serve, args=(conn,), daemon=True) for conn, _ in nodes]
    for thread in threads:
        thread.start()
    try:
        with connection(bench) as conn:
            answers = mailbox(conn).multi_call("double", {"value": 5}, timeout=10, limit=2)
            equal(sorted(next(iter(each.values())) for each in answers), [10, 11])
            answer = mailbox(conn).call(["node1"], "double", {"value": 1}, timeout=10)
            equal(answer, [{"node1": 3}], "one that was asked by its name")
    finally:
        stop.set()
        for thread in threads:
            thread.join(5)
    require(sorted(set(asked)) == [0, 1], f"asked: {asked}")


def test_serializers_and_compression(bench):
    with connection(bench) as conn, conn.channel() as channel:
        queue = kombu.Queue(bench.unique("formats"), exclusive=True)(channel)
        queue.declare()
        body = {"text": "ä" * 1000, "numbers": list(range(100))}
        wanted = [("json", None), ("json", "gzip"), ("json", "bzip2"), ("pickle", "zlib"), ("yaml", None)]
        sent = []
        for serializer, compression in wanted:
            try:
                conn.Producer(channel).publish(body, routing_key=queue.name, serializer=serializer,
                                               compression=compression)
                sent.append((serializer, compression))
            except kombu.exceptions.SerializerNotInstalled:
                pass
        poll("all are there", lambda: queue.queue_declare(passive=True).message_count == len(sent))
        for serializer, _ in sent:
            message = queue.get(accept=["json", "pickle", "yaml"], no_ack=True)
            equal(message.content_type.split("/")[-1].replace("x-python-serialize", "pickle").replace("x-yaml", "yaml"),
                  serializer)
            equal(message.decode(), body)


def test_large_messages(bench):
    with connection(bench) as conn, conn.channel() as channel:
        queue = kombu.Queue(bench.unique("large"), exclusive=True)(channel)
        queue.declare()
        for size in (0, 1, 131064, 131065, 1 << 20, 10 << 20):
            conn.Producer(channel).publish(b"x" * size, routing_key=queue.name)
            message = poll("it came", lambda: queue.get(no_ack=True))
            equal(len(message.body or b""), size)


def test_errors_close_the_channel_only(bench):
    with connection(bench) as conn:
        conn.connect()
        for action in (lambda channel: channel.queue_declare(bench.unique("none"), passive=True),
                       lambda channel: channel.exchange_declare(bench.unique("none"), "direct", passive=True),
                       lambda channel: channel.exchange_declare("amq.mine", "direct"),
                       lambda channel: channel.basic_consume(bench.unique("none"))):
            channel = conn.channel()
            try:
                action(channel)
            except conn.channel_errors as error:
                require(error.reply_code in (403, 404), repr(error))
            else:
                raise AssertionError("no error")
        conn.default_channel.queue_declare(exclusive=True)
