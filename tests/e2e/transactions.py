"""Transactions over kill -9: what was committed is there as a whole, whatever was on its way."""
import os
import signal
import threading

from amqp_raw import closed, gone
from behaviours_stage import bodies, got
from harness import equal, poll, require

QUEUES, PARTS, ORDERS = ("a", "b", "c"), 10, 150


class worker(threading.Thread):
    """Takes an order, and publishes its parts to every queue, in one transaction; every third one is rolled back first."""

    def __init__(self, node, first, on_commit):
        super().__init__(daemon=True)
        self.node, self.number, self.on_commit = node, first, on_commit
        self.committed, self.begun, self.problem = set(), set(), None

    def publish_parts(self, channel, number, stem):
        for part in range(PARTS):
            for queue in QUEUES:
                channel.publish("", queue, b"%s %d %d" % (stem, number, part), delivery_mode=2)

    def run(self):
        try:
            connection = self.node.connect()
            channel = connection.channel()
            channel.call("basic.qos", prefetch_count=5)
            channel.call("tx.select")
            channel.consume("orders", "w")
            while True:
                order = channel.wait("basic.deliver", timeout=20)
                number = int(order.body)
                if number % 3 == 0:
                    self.publish_parts(channel, number, b"dropped")
                    channel.send("basic.ack", delivery_tag=order.delivery_tag)
                    channel.call("tx.rollback")
                self.begun.add(number)
                self.publish_parts(channel, number, b"part")
                channel.send("basic.ack", delivery_tag=order.delivery_tag)
                channel.call("tx.commit", timeout=20)
                self.committed.add(number)
                self.on_commit()
        except (gone, OSError):
            pass  # the node is gone
        except (closed, TimeoutError) as error:
            self.problem = repr(error)


def take_all(node, queue):
    with node.connect() as connection:
        channel = connection.channel()
        taken = bodies(got(channel, queue))
        channel.call("queue.purge", queue=queue)  # answered when what was taken is gone from the disk
        return taken


def rounds_of(t, node, rounds, book):
    """Each round: orders, a worker, a kill, and a look at what is there. Returns what is wrong, as sentences."""
    next_order = 0
    for number in range(1, rounds + 1):
        with node.connect() as connection:
            channel = connection.channel()
            for queue in (*QUEUES, "orders"):
                channel.queue(queue, durable=True)
            channel.call("confirm.select")
            for order in range(next_order, next_order + ORDERS):
                channel.publish("", "orders", b"%d" % order, delivery_mode=2)
            channel.confirm()
        first, next_order = next_order, next_order + ORDERS
        due, commits, sharp = threading.Event(), [], t.random.random() < 0.5
        after = t.random.randint(1, 40)

        def on_commit(commits=commits, sharp=sharp, after=after, due=due):
            commits.append(1)
            if sharp and len(commits) == after:
                os.kill(node.process.pid, signal.SIGKILL)  # the sharpest moment: the answer has just been read
                due.set()
        running = worker(node, first, on_commit)
        running.start()
        due.wait(10 if sharp else t.random.uniform(0.05, 0.5))
        node.kill()
        running.join(30)
        require(not running.is_alive() and running.problem is None, f"round {number}: {running.problem}")
        node.start()
        left = {int(each) for each in take_all(node, "orders")}
        there = {queue: take_all(node, queue) for queue in QUEUES}
        for order in sorted(running.committed):
            for queue in QUEUES:
                missing = [part for part in range(PARTS) if b"part %d %d" % (order, part) not in there[queue]]
                if missing:
                    return [f"round {number}: of order {order}, which was committed, {queue} lacks {len(missing)} parts"]
            if order in left:
                return [f"round {number}: order {order} was acknowledged and committed, and came back"]
        for queue, each in there.items():
            if len(set(each)) != len(each):
                return [f"round {number}: {queue} has something twice"]
            strangers = [body for body in each if not body.startswith(b"part ") or int(body.split()[1]) not in running.begun]
            if strangers:
                return [f"round {number}: {queue} has {strangers[0]}, which was rolled back or never published"]
        # An order that is gone was done: its acknowledgement never goes before its parts.
        for order in set(range(first, next_order)) - left:
            parts = sum(b"part %d %d" % (order, part) in there[queue] for queue in QUEUES for part in range(PARTS))
            if parts != len(QUEUES) * PARTS:
                return [f"round {number}: order {order} is gone, and {parts} of its {len(QUEUES) * PARTS} parts are there"]
        book["committed"] += len(running.committed)
        book["begun"] += len(running.begun)
    return []


def test_kill_9_in_the_midst_of_commits_27(t):
    node, book = t.node(), {"committed": 0, "begun": 0}
    rounds = t.rounds(10)
    problems = rounds_of(t, node, rounds, book)
    require(not problems, "\n".join(problems))
    t.note(f"{rounds} kills, {book['committed']} transactions committed, {book['begun'] - book['committed']} cut off")
    require(book["committed"] > 5 * rounds, "too few transactions to prove anything")
    equal(node.terminate()[0], 0)
    verified = t.posthorn("verify", node.data_dir)
    require(verified.returncode == 0, f"verify: {verified.stdout}{verified.stderr}")


def test_the_checker_sees_a_commit_that_is_answered_too_early_27(t):
    node = t.node(faulty=True, environment={"POSTHORN_FAULT": "confirm_before_commit"})
    problems = rounds_of(t, node, t.rounds(20), {"committed": 0, "begun": 0})
    require(problems, "the checker found nothing in a node that answers before it commits")
    t.note("found: " + problems[0])


def test_a_transaction_holds_no_more_than_its_limit_27(t):
    """A client that never commits is refused, and the node keeps its memory."""
    node = t.node()
    body, before = bytes(1 << 20), node.rss_anon()
    for _ in range(3):
        with node.connect() as connection:
            channel = connection.channel()
            channel.queue("q", durable=True)
            channel.call("tx.select")
            try:
                for _ in range(200):
                    channel.publish("", "q", body)
                    channel.call("basic.qos")
                raise AssertionError("200 MiB were taken into one transaction")
            except closed as close:
                equal((close.name, close.code), ("channel.close", 406), close.text)
                require("commit more often" in close.text, close.text)
    poll("the node gives its memory back", lambda: node.rss_anon() - before <= 100 << 20)
    with node.connect() as connection:
        equal(connection.channel().count("q"), (0, 0))
