"""kill -9 under load, many times over, with a ledger outside of the broker; and proof that the ledger can find a loss."""
import os
import random
import signal
import subprocess
import threading
import time

import load
from harness import equal, poll, require


def one_round(t, node, book, number, consume=True, empty=None, at_confirm=None, lasts=(0.1, 1.2), **options):
    """Load, kill after a time within `lasts` (seconds) or at a confirm, restart, check. Returns the seconds that the restart took."""
    chance = random.Random(t.random.random())
    due = threading.Event()
    confirms, killed_at = 0, None
    at_confirm = chance.random() < 0.5 if at_confirm is None else at_confirm
    after = chance.randint(1, 60)

    def on_confirm():
        # The sharpest moment: a confirm has just been read.
        nonlocal confirms, killed_at
        confirms += 1
        if at_confirm and confirms == after:
            # The time of the kill itself: the main thread may wake much later, and acknowledgements would look older.
            killed_at = time.monotonic()
            os.kill(node.process.pid, signal.SIGKILL)
            due.set()

    probe = load.disk_probe(node.directory)
    running = load.run_of_load(book, node, chance, number, consume=consume, on_confirm=on_confirm, **options)
    if at_confirm:
        due.wait(10)
    else:
        due.wait(chance.uniform(*lasts))
    if killed_at is None:
        killed_at = time.monotonic()
    node.kill()
    slowest_sync = probe.finish(killed_at)
    running.finish()
    took = node.start()
    load.check_all(book, node, killed_at, running.order_seen(), chance.random() < 0.6 if empty is None else empty, slowest_sync)
    return took


def test_kill_9_under_load(t):
    node, book, restarts = t.node(), load.ledger(), []
    with node.connect() as connection:
        load.declare(connection)
    for number in load.judged_rounds(book, t.rounds(20)):
        restarts.append(one_round(t, node, book, number))
        require(not book.problems, f"round {number}: " + "\n".join(book.problems[:20]))
    load.check_all(book, node, time.monotonic(), empty=True)
    require(not book.problems, "\n".join(book.problems[:20]))
    t.note(f"{len(restarts)} kills, {book.confirmed_count()} confirmed, {book.settled_count()} acknowledged, "
           f"{book.undecided} with an acknowledgement cut off by the kill, slowest restart {max(restarts):.2f} s, "
           f"{book.repeated} rounds repeated since the disk stood still")
    require(book.confirmed_count() > 200 * len(restarts), "too little load to prove anything")
    node.terminate()
    verified = t.posthorn("verify", node.data_dir)
    require(verified.returncode == 0, f"verify: {verified.stdout}{verified.stderr}")


def test_the_checker_sees_a_confirm_before_the_commit(t):
    """A node that confirms too early must be found out; a checker that stays green proves nothing."""
    node = t.node(faulty=True, environment={"POSTHORN_FAULT": "confirm_before_commit"})
    book = load.ledger()
    with node.connect() as connection:
        load.declare(connection)
    for number in range(1, t.rounds(20) + 1):
        one_round(t, node, book, number, consume=False, empty=True, at_confirm=True, transient=0, window=2000, batch=400)
        lost = [each for each in book.problems if "lost" in each]
        if lost:
            t.note(f"found in round {number}: {lost[0]}")
            return
    raise AssertionError("the checker found no loss in a node that confirms before it commits")


def test_the_checker_sees_acknowledgements_that_are_late(t):
    """A node that lets acknowledgements wait must be found out, though nothing is lost by it."""
    node, book = t.node(faulty=True), load.ledger()
    with node.connect() as connection:
        load.declare(connection)
    # What is on disk is there to be acknowledged at once.
    one_round(t, node, book, 1, consume=False, empty=False, at_confirm=False, lasts=(0.5, 0.5))
    require(not book.problems, "\n".join(book.problems[:20]))
    node.terminate()
    node.environment["POSTHORN_FAULT"] = "slow_commits"
    node.start()
    for number in load.judged_rounds(book, 3):
        one_round(t, node, book, number + 1, empty=False, at_confirm=False, lasts=(0.8, 1.2))
        if book.problems:
            break
    late = [each for each in book.problems if "came back, acknowledged" in each]
    require(late, "the checker found no late acknowledgement in a node that waits two seconds before each commit")
    t.note(f"found in round {number}: {book.problems[0]} {late[0]}")
    equal(len(book.problems), len(late) + 1, "problems of another kind")


def test_a_disk_that_stands_still_is_no_excuse_for_long(t):
    """Late acknowledgements beside a slow sync repeat the round, so many times; beside a fast one they are problems."""
    book = load.ledger()
    rounds = load.judged_rounds(book, 8)
    for number in range(1, 5):
        equal(next(rounds), number)
        book.late.append("late")
        load.judge_late(book, 0.0, load.DISK_STOOD_STILL)
        equal((book.problems, book.repeated), ([], number))
    equal(len(list(rounds)), 8, "rounds that count")
    rounds = load.judged_rounds(book, 8)
    next(rounds)
    book.repeated += 1
    try:
        next(rounds)
        raise ValueError("a fifth repetition was allowed")
    except AssertionError as refusal:
        require("cannot be judged" in str(refusal), str(refusal))
    book.late.append("late")
    load.judge_late(book, 0.0, 0.9 * load.DISK_STOOD_STILL)
    equal(book.problems[1:], ["late"])


def test_the_faulty_node_without_its_fault_is_sound(t):
    """What turns the checker red is the fault, and not the load or the build."""
    node, book = t.node(faulty=True), load.ledger()
    with node.connect() as connection:
        load.declare(connection)
    for number in range(1, min(t.rounds(5), 5) + 1):
        one_round(t, node, book, number, consume=False, empty=True, at_confirm=True, transient=0, window=2000, batch=400)
        require(not book.problems, f"round {number}: " + "\n".join(book.problems[:20]))


def test_restart_with_100000_messages(t):
    node, count, size = t.node(), 100_000, 1024
    subprocess.run([t.suite.loader(), "fill", str(node.port), "many", str(count), str(size), "10000"], check=True,
                   timeout=120)
    for how in ("kill", "terminate"):
        getattr(node, how)()
        took = node.start()
        with node.connect() as connection:
            ready = connection.channel().count("many")[0]
        t.note(f"after {how}: {took:.2f} s from exec to ready")
        require(ready == count, f"{ready} of {count} messages are there when the node says that it is ready")
        require(took < 2.0, f"the restart took {took:.2f} s")
    subprocess.run([t.suite.loader(), "drain", str(node.port), "many", str(count), str(size)], check=True, timeout=120)


def test_kill_while_starting(t):
    """A node killed again and again while it starts loses nothing."""
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("q", durable=True)
        channel.call("confirm.select")
        for n in range(5000):
            channel.publish("", "q", b"%d" % n, delivery_mode=2)
        channel.confirm()
    for _ in range(t.rounds(10)):
        node.kill()
        node.spawn()
        until = time.monotonic() + t.random.uniform(0, 0.3)
        poll("the moment has come", lambda: time.monotonic() >= until, interval=0.001)
    node.kill()
    node.start()
    with node.connect() as connection:
        channel = connection.channel()
        channel.consume("q", no_ack=True)
        require([each.body for each in channel.deliveries(5000)] == [b"%d" % n for n in range(5000)], "all, and in order")


def refill_after(t, empty):
    """Fills a queue, empties it, kills, and fills it anew: what was erased must not take what came later with it.

    The backlog is so large that the store is still clearing it away when the new messages come.
    """
    node, early = t.node(label=empty), 300_000
    later = [b"later %d" % n for n in range(200)]
    for cycle in range(3):
        subprocess.run([t.suite.loader(), "fill", str(node.port), "q", str(early), "100", "10000"], check=True, timeout=120,
                       stdout=subprocess.DEVNULL)
        with node.connect() as connection:
            channel = connection.channel()
            if empty == "purge":
                require(channel.call("queue.purge", queue="q").message_count == early, "the purge counts")
            else:
                channel.consume("q", "c")
                last = channel.deliveries(early, timeout=60)[-1]
                channel.call("basic.cancel", consumer_tag="c")
                channel.send("basic.ack", delivery_tag=last.delivery_tag, multiple=True)
                # A purge is answered when all that was gone before is gone from the disk.
                require(channel.call("queue.purge", queue="q").message_count == 0, "nothing is left to be purged")
        node.kill() if cycle % 2 == 0 else node.terminate()
        node.start()
        with node.connect() as connection:
            channel = connection.channel()
            came_back = channel.count("q")[0]
            require(came_back == 0, f"{came_back} messages came back after {empty}")
            channel.call("confirm.select")
            for body in later:
                channel.publish("", "q", body, delivery_mode=2)
            channel.confirm(timeout=30)
        for _ in range(2):
            # A later life finishes what the earlier one left to clear away.
            node.kill()
            node.start()
        with node.connect() as connection:
            channel = connection.channel()
            ready = channel.count("q")[0]
            require(ready == len(later), f"{ready} of {len(later)} confirmed messages are there after {empty} and restarts")
            require([channel.get("q", no_ack=True).body for _ in later] == later, "all of them, in order")


def test_what_was_purged_takes_nothing_with_it(t):
    refill_after(t, "purge")


def test_what_was_acknowledged_at_once_takes_nothing_with_it(t):
    refill_after(t, "acknowledge")
