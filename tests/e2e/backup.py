"""Copies of a store that is in use: what was confirmed before is there, and the node goes on."""
import os
import signal
import subprocess
import threading

from harness import equal, poll, require


def numbers_in(node, queue):
    with node.connect() as connection:
        channel = connection.channel()
        count = channel.count(queue)[0]
        channel.consume(queue, no_ack=True)
        return [int(each.body[:10]) for each in channel.deliveries(count)]


class publisher:
    """Publishes numbered messages, one after the other, each confirmed, until told to stop."""

    def __init__(self, node, queue):
        self.node, self.queue, self.confirmed, self.failed = node, queue, 0, None
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            with self.node.connect() as connection:
                channel = connection.channel()
                channel.call("confirm.select")
                while not self.enough.is_set():
                    channel.publish("", self.queue, b"%010d" % (self.confirmed + 1) + b"x" * 2000, delivery_mode=2)
                    channel.confirm()
                    self.confirmed += 1
        except Exception as problem:  # noqa: BLE001: told by the test
            self.failed = problem

    def stop(self):
        self.enough.set()
        self.thread.join()
        require(self.failed is None, f"the publisher failed: {self.failed!r}")


def test_a_running_node_is_copied_and_the_copy_starts(t):
    node = t.node()
    with node.connect() as connection:
        connection.channel().queue("q", durable=True)
    busy = publisher(node, "q")
    t.on_exit(busy.enough.set)
    poll("the first messages", lambda: busy.confirmed >= 200 or busy.failed)
    before = busy.confirmed
    target = os.path.join(t.directory, "copy")
    done = t.posthorn("backup", node.data_dir, target)
    after = busy.confirmed
    require(done.returncode == 0, f"backup: {done.stdout}{done.stderr}")
    require(target in done.stdout, f"what backup says: {done.stdout!r}")
    poll("the node goes on", lambda: busy.confirmed > after or busy.failed)
    busy.stop()

    verified = t.posthorn("verify", target)
    require(verified.returncode == 0, f"verify: {verified.stdout}{verified.stderr}")
    again = t.posthorn("backup", node.data_dir, target)
    equal(again.returncode, 1, "a copy onto a copy")
    copy = t.node(label="copy", start=False)
    copy.data_dir = target
    copy.start()
    found = numbers_in(copy, "q")
    equal(found, list(range(1, len(found) + 1)), "a prefix of what was published")
    require(len(found) >= before, f"{len(found)} messages in the copy, where {before} had been confirmed before it began")
    equal(len(numbers_in(node, "q")), busy.confirmed, "messages of the node itself")


def test_a_copy_that_is_killed_leaves_no_store_and_pins_nothing(t):
    node = t.node()
    subprocess.run([t.suite.loader(), "fill", str(node.port), "q", "60000", "1000", "5000"], check=True, timeout=120,
                   stdout=subprocess.DEVNULL)
    target = os.path.join(t.directory, "copy")
    slow = subprocess.Popen([t.suite.posthorn, "backup", node.data_dir, target, "--rate", "1"], stdout=subprocess.DEVNULL)
    part = os.path.join(target, "data.mdb.copying")
    poll("the copy has begun", lambda: os.path.exists(part) and os.path.getsize(part) > 0)
    slow.send_signal(signal.SIGKILL)
    slow.wait()
    require(not os.path.exists(os.path.join(target, "data.mdb")), "half a copy looks like a store")

    # Pages that are freed from now on are used again, as they would not be if the dead reader counted.
    def grows_when_refilled():
        before = os.path.getsize(os.path.join(node.data_dir, "data.mdb"))
        with node.connect() as connection:
            equal(connection.channel().call("queue.purge", queue="q").message_count, 60000, "purged")
        subprocess.run([t.suite.loader(), "fill", str(node.port), "q", "60000", "1000", "5000"], check=True, timeout=120,
                       stdout=subprocess.DEVNULL)
        return os.path.getsize(os.path.join(node.data_dir, "data.mdb")) > before

    require(not all(grows_when_refilled() for _ in range(20)), "the store grows with each filling, as if the copy still read")

    done = t.posthorn("backup", node.data_dir, target, "--rate", "0", "--json")
    require(done.returncode == 0 and '"bytes"' in done.stdout, f"backup: {done.stdout}{done.stderr}")


def test_there_must_be_something_to_copy(t):
    nothing = t.posthorn("backup", os.path.join(t.directory, "nowhere"), os.path.join(t.directory, "copy"))
    equal(nothing.returncode, 1)
    require("there is no store in" in nothing.stderr and "name the data directory" in nothing.stderr, nothing.stderr)
    equal(t.posthorn("backup", "only-one").returncode, 2)
    equal(t.posthorn("backup", "a", "b", "--rate", "-3").returncode, 2)
