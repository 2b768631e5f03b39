"""Power cuts: a layer under the store throws away what was not synced. See ../powercut/powercut.cpp."""
import os
import random
import subprocess
import time

import load
from harness import equal, poll, require


class cutter:
    """One life of a node above the layer, up to the cut."""

    def __init__(self, t, node, seed, after_writes=0):
        self.node, self.pid = node, None
        self.trigger = os.path.join(t.directory, "trigger")
        self.report = os.path.join(t.directory, "report")
        for path in (self.trigger, self.report):
            if os.path.exists(path):
                os.unlink(path)
        os.mkfifo(self.trigger)
        os.makedirs(node.data_dir, exist_ok=True)
        node.environment.update({"LD_PRELOAD": t.suite.powercut(), "POSTHORN_POWERCUT_DIR": node.data_dir,
                                 "POSTHORN_POWERCUT_TRIGGER": self.trigger, "POSTHORN_POWERCUT_REPORT": self.report,
                                 "POSTHORN_POWERCUT_SEED": str(seed), "POSTHORN_POWERCUT_AFTER": str(after_writes)})

    def cut(self):
        """Cuts now, unless the count of writes did already; returns what was done."""
        try:
            fifo = os.open(self.trigger, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(fifo, b"x")
            finally:
                os.close(fifo)
        except OSError:
            pass  # nobody waits for it any more: the count of writes came first
        return self.wait()

    def wait(self):
        self.node.process.wait(20)
        poll("the layer has put the files back", lambda: os.path.exists(self.report), 20)
        for name in [each for each in self.node.environment if each.startswith("POSTHORN_POWERCUT")] + ["LD_PRELOAD"]:
            self.node.environment.pop(name)
        with open(self.report, encoding="ascii") as report:
            return report.read().strip()


def test_the_layer_itself(t):
    """Synced writes stay; unsynced ones go, whole or in part, but never within a sector."""
    ways = set()
    for seed in range(12):
        directory = os.path.join(t.directory, f"self{seed}")
        os.makedirs(directory)
        trigger, report = os.path.join(t.directory, f"fifo{seed}"), os.path.join(t.directory, f"report{seed}")
        os.mkfifo(trigger)
        process = subprocess.Popen([t.suite.powercut_selftest(), directory, trigger], env={
            **os.environ, "LD_PRELOAD": t.suite.powercut(), "POSTHORN_POWERCUT_DIR": directory,
            "POSTHORN_POWERCUT_TRIGGER": trigger, "POSTHORN_POWERCUT_REPORT": report, "POSTHORN_POWERCUT_SEED": str(seed)})
        equal(process.wait(20), -9, "the process dies at the cut")
        poll("the layer has put the files back", lambda: os.path.exists(report), 20)
        with open(report, encoding="ascii") as told:
            way = told.read().split()[1]
        ways.add(way)

        def content(name):
            with open(os.path.join(directory, name), "rb") as file:
                return file.read()
        equal(content("synced"), b"s" * 10_000)
        equal(content("through"), b"t" * 10_000)
        equal(content("vectored"), b"v" * 10_000)
        equal(content("grown")[:4096], b"g" * 4096)
        lost, rewritten = content("lost"), content("rewritten")
        equal(len(rewritten), 40_960)
        for at in range(0, 40_960, 512):
            require(rewritten[at:at + 512] in (b"o" * 512, b"n" * 512), f"a sector is torn at {at} (seed {seed}, {way})")
        if way == "all":
            equal((lost, rewritten, content("shrunk"), len(content("grown"))), (b"", b"o" * 40_960, b"k" * 8192, 4096))
        else:
            require(set(lost) <= set(b"l\x00"), "a lost file holds what was written, or holes")
            require(len(lost) < 100_000 or b"\x00" in lost or b"o" in rewritten or way == "some", "something was lost")
    equal(ways, {"all", "some", "prefix"}, "all ways of losing were tried")


def cut_round(t, node, book, number, **options):
    """Load above the layer, cut, restart, check. Returns what the layer did."""
    chance = random.Random(t.random.random())
    # By a count of writes, in the midst of a commit; or by the clock.
    by_count = chance.random() < 0.5
    power = cutter(t, node, chance.randrange(10**6), chance.randint(5, 600) if by_count else 0)
    node.spawn()
    poll("the node is ready, or cut", lambda: node.exited() or node.healthy(), 20)
    running, probe = None, load.disk_probe(node.directory)
    if not node.exited():
        try:
            running = load.run_of_load(book, node, chance, number, **options)
        except OSError:
            poll("only a cut ends the node", node.exited)
    until = time.monotonic() + chance.uniform(0.1, 0.8 if not by_count else 3)
    poll("the moment has come", lambda: node.exited() or time.monotonic() > until, interval=0.005)
    ended_at = time.monotonic()
    told = power.cut()
    poll("the cut has ended the node, which lets go of its directory", node.exited)
    slowest_sync = probe.finish(ended_at)
    order = None
    if running is not None:
        running.finish()
        order = running.order_seen()
    before = t.posthorn("verify", node.data_dir)
    if before.returncode != 0:
        book.problem(f"verify after the cut: {before.stdout}{before.stderr}")
    node.start()
    load.check_all(book, node, ended_at, order, chance.random() < 0.6, slowest_sync)
    node.terminate()
    return told


def prepared(t, **arguments):
    node = t.node(**arguments)
    with node.connect() as connection:
        load.declare(connection)
    node.terminate()
    return node


def test_power_cuts_under_load(t):
    node, book = prepared(t), load.ledger()
    reports = []
    for number in load.judged_rounds(book, t.rounds(20)):
        reports.append(cut_round(t, node, book, number))
        require(not book.problems, f"round {number}, {reports[-1]}: " + "\n".join(book.problems[:20]))
    t.note(f"{len(reports)} cuts, {book.confirmed_count()} confirmed, {book.repeated} rounds repeated since the disk stood "
           f"still; the last: {reports[-1]}")
    require(any(each.split()[3] != "0" for each in reports), "no cut lost a page: the layer did not see the store's writes")
    require(book.confirmed_count() > 50 * len(reports), "too little load to prove anything")


def test_a_store_cut_while_it_is_made(t):
    """The first start is cut after each of its first writes; the next start must always come up."""
    for after in range(1, min(t.rounds(12), 30) + 1):
        node = t.node(label=f"young{after}", start=False)
        power = cutter(t, node, t.random.randrange(10**6), after)
        node.spawn()
        poll("the node is ready, or cut", lambda: node.exited() or node.healthy(), 20)
        power.cut()
        node.start()
        with node.connect() as connection:
            load.declare(connection)
        node.terminate()


def test_the_checker_sees_a_skipped_fsync(t):
    """With the store's syncs switched off the same checker must turn red."""
    node, book = t.node(faulty=True), load.ledger()
    with node.connect() as connection:
        load.declare(connection)
    node.terminate()
    for number in range(1, t.rounds(20) + 1):
        node.environment["POSTHORN_FAULT"] = "skip_fsync"
        chance = random.Random(t.random.random())
        power = cutter(t, node, chance.randrange(10**6))
        node.start()
        running = load.run_of_load(book, node, chance, number, consume=False, transient=0)
        until = time.monotonic() + 0.5
        poll("some time of load", lambda: time.monotonic() > until)
        ended_at, told = time.monotonic(), power.cut()
        running.finish()
        node.environment.pop("POSTHORN_FAULT")
        verified = t.posthorn("verify", node.data_dir)
        if verified.returncode != 0:
            t.note(f"found in round {number} by verify ({told}): {(verified.stdout + verified.stderr).strip()[:200]}")
            return
        node.start()
        load.check_all(book, node, ended_at, empty=True)
        lost = [each for each in book.problems if "lost" in each]
        if lost:
            t.note(f"found in round {number} ({told}): {lost[0]}")
            return
        node.terminate()
    raise AssertionError("the checker found no loss in a node that does not sync")
