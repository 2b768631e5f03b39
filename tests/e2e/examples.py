"""The examples, as their READMEs say that they are used."""
import os
import re
import signal
import subprocess
import sys
import time

from harness import equal, poll, require, skip

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def program(t, example, name=None):
    """The example as it was built."""
    if not t.suite.options.examples:
        raise skip("no --examples given")
    path = os.path.join(os.path.abspath(t.suite.options.examples), example, name or example)
    require(os.path.exists(path), f"there is no {path}")
    return path


class running:
    """An example in the background, and what it has printed so far."""

    def __init__(self, t, *command):
        t.on_exit(self.kill)
        self.out_path = os.path.join(t.directory, "out")
        with open(self.out_path, "wb") as out:
            self.process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL)

    def output(self):
        with open(self.out_path, encoding="utf-8") as out:
            return out.read()

    def wait_for(self, text, timeout=30):
        poll(f"it prints {text!r}", lambda: self.process.poll() is not None or text in self.output(), timeout, 0.001)
        require(text in self.output(), f"it ended with {self.process.poll()} before it printed {text!r}: {self.output()}")

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self, timeout=60):
        """Its exit code and its lines, when it has ended by itself."""
        return self.process.wait(timeout), self.output().splitlines()


def readme(example):
    """The output that the example's README shows: the block that follows "It prints"."""
    with open(os.path.join(ROOT, "examples", example, "README.md"), encoding="utf-8") as text:
        return re.search(r"It prints[^`]*```\n(.*?)```", text.read(), re.DOTALL).group(1).splitlines()


class telemetry:
    """The program of examples/telemetry on a directory of the test's."""

    def __init__(self, t, program):
        self.out_path = os.path.join(t.directory, "telemetry.out")
        with open(self.out_path, "wb") as out:
            self.process = subprocess.Popen([program, os.path.join(t.directory, "devices"), "0"], stdout=out,
                                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        poll("telemetry listens", lambda: self.process.poll() is not None or "amqp://" in self.output(), 30, 0.01)
        self.port = self.output().strip().rpartition(":")[2]

    def output(self):
        with open(self.out_path, encoding="utf-8") as out:
            return out.read()

    def send_readings(self):
        script = os.path.join(ROOT, "examples", "telemetry", "send_readings.py")
        done = subprocess.run([sys.executable, script, self.port], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()

    def end(self, kill):
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        return self.process.wait(30)


def test_telemetry_a_python_script_talks_to_durable_actors(t):
    path = program(t, "telemetry")
    for round_, killed in enumerate((True, False, False), 1):
        devices = telemetry(t, path)
        try:
            lines = devices.send_readings()
            equal([line.split(",")[0] for line in lines], [f"serial-{n}: {10 * round_} readings" for n in range(3)])
            equal(lines[0].split(", ", 1)[1], "mean 33.5, highest 47.0")
        finally:
            code = devices.end(killed)
        equal(code, -9 if killed else 0)


def test_prices_questions_between_actors_and_their_deadlines(t):
    path, directory = program(t, "prices"), os.path.join(t.directory, "prices")
    for _ in range(2):  # the second time over what the first has left
        equal(running(t, path, "--data", directory).end(), (0, readme("prices")))


def test_prices_an_answer_to_a_process_before_is_not_taken_for_one_to_this(t):
    path, directory = program(t, "prices"), os.path.join(t.directory, "prices")
    for _ in range(4):
        first = running(t, path, "--data", directory)
        # Questions about truffles are open now, and are answered to nobody when the next process starts.
        first.wait_for("A truffle, within")
        first.kill()
        until = time.monotonic() + t.random.uniform(0.03, 0.12)
        poll("the moment has come", lambda: time.monotonic() >= until, interval=0.001)
        equal(running(t, path, "--data", directory).end(), (0, readme("prices")))


def test_chat_the_play_goes_as_it_should_and_a_visitor_listens_along(t):
    path, directory = program(t, "chat"), os.path.join(t.directory, "chat")
    equal(running(t, path, "--data", directory).end(), (0, readme("chat")))
    house = running(t, path, "--data", directory, "--port", 0)
    house.wait_for("amqp://")
    equal(house.output().splitlines()[:-1], readme("chat"))
    port = house.output().strip().rpartition(":")[2]
    script = os.path.join(ROOT, "examples", "chat", "visit.py")
    for text in ("Hello from Python", "And again"):
        done = subprocess.run([sys.executable, script, port, "garden", "eve", text], capture_output=True, text=True,
                              timeout=60, check=True)
        equal(done.stdout.splitlines(), [f"heard in the garden: eve: {text}",
                                         f"the last that anna sees: [garden] eve: {text}",
                                         f"the last that eve sees: [garden] eve: {text}"])
    house.process.terminate()
    equal(house.end()[0], 0)


def check_orders(count, lines, letters=None):
    """What must have become of the orders. Which payments are declined is known; which orders found nothing left in the
    stock is not, but how many is."""
    declined = {n for n in range(1, count + 1) if n % 10 == 7}
    supply, books, sold_out = count * 29 // 100, [], 0
    for article, name in enumerate(("lamp", "chair", "table")):
        wanted = len([n for n in range(1, count + 1) if n % 3 == article and n not in declined])
        taken = min(wanted, supply)
        sold_out += wanted - taken
        books.append(f"{name}s: {taken} of {supply} taken, {taken} shipped")
    shipped, failed = count - len(declined) - sold_out, len(declined) + sold_out
    equal(lines[-5:], [*books,
                       f"board: {count} placed, {count - len(declined)} paid, {shipped} reserved, {shipped} shipped, "
                       f"{failed} failed",
                       f"{count} orders: {shipped} shipped, {len(declined)} delivery_limit, {sold_out} rejected; "
                       "all accounted for"])
    if letters is None:
        return
    by_reason = {"delivery_limit": [], "rejected": []}
    for line in letters:
        number, reason = re.fullmatch(r"dead letter of order/(\d+): (\w+)", line).groups()
        by_reason[reason].append(int(number))
    equal(sorted(by_reason["delivery_limit"]), sorted(declined), "dead letters of payments")
    equal(len(set(by_reason["rejected"])), sold_out, "dead letters of orders that found nothing left")
    equal(len(letters), failed, "no letter comes twice")
    require(not declined & set(by_reason["rejected"]), "an order dies once")


def letters_of(lines):
    return [line for line in lines if line.startswith("dead letter")]


def test_orders_walk_are_retried_and_die_as_the_readme_says(t):
    path, directory = program(t, "orders"), os.path.join(t.directory, "orders")
    code, lines = running(t, path, "--data", directory).end()
    equal(code, 0, "\n".join(lines))
    check_orders(20, lines, letters_of(lines))
    equal(lines[-5:], readme("orders")[-5:], "the end of the README's output")
    for number, attempts in ((4, 2), (8, 2), (7, 5), (17, 5)):
        failures = [line for line in lines if line.startswith(f"order/{number}:")]
        equal(failures, [f"order/{number}: payment failed, attempt {n}" for n in range(1, attempts + 1)])
    require(not any(line.startswith("order/5:") for line in lines), "a payment that worked at once is not retried")
    # Once more: nothing happens to orders that are done.
    code, again = running(t, path, "--data", directory).end()
    equal((code, again[0], again[1:]), (0, "goes on: 20 orders were placed, of which 15 are shipped and 5 have failed",
                                        ["placed 20 orders", *lines[-5:]]))


class killed_pipeline:
    """The orders with a kill -9 while they are placed, one while payments are tried again, and one at any time."""

    def __init__(self, t, directory, name="orders", count=400, options=()):
        self.t, self.count, self.kills = t, count, 0
        self.command = (program(t, "orders", name), "--data", directory, "--orders", count, *options)
        for moment in (f"placed {t.random.randrange(50, count, 50)} orders", "attempt 4", None):
            started = running(t, *self.command)
            started.wait_for("placed" if moment is None else moment)
            until = time.monotonic() + t.random.uniform(0, 0.1 if moment is None else 0.01)
            poll("the moment has come", lambda: time.monotonic() >= until, interval=0.001)
            self.kills += started.process.poll() is None
            started.kill()
            # Letters leave their queue as they are listed, so a kill then may take one of them.
            self.listed = bool(letters_of(started.output().splitlines()))
            if self.listed:
                break

    def finish(self):
        code, lines = running(self.t, *self.command).end()
        require(any(line.startswith("goes on: ") for line in lines), "it does not go on")
        equal(code, 0, "\n".join(lines[-20:]))
        check_orders(self.count, lines, None if self.listed else letters_of(lines))


def test_orders_kill_9_in_the_middle_and_the_books_are_exact(t):
    rounds, kills = min(t.rounds(2), 10), 0
    for number in range(rounds):
        killed = killed_pipeline(t, os.path.join(t.directory, f"orders{number}"))
        killed.finish()
        kills += killed.kills
    t.note(f"{kills} kills")
    require(kills >= 2 * rounds, "too few kills to prove anything")


def test_orders_a_commit_in_two_parts_is_found_out(t):
    """A library that writes what a turn has sent in a second transaction; else the test above would prove nothing."""
    for number in range(40):
        killed = killed_pipeline(t, os.path.join(t.directory, f"orders{number}"), "orders_with_faults", 100,
                                 ("--split-commit", "--within", 3))
        try:
            killed.finish()
        except AssertionError as found:
            t.note(f"found in round {number + 1}: " + str(found).splitlines()[-1])
            return
    raise AssertionError("nothing wrong was found")


def test_orders_the_books_can_be_wrong(t):
    """A program that ships orders twice says so; one that has no time to finish says that."""
    directory = os.path.join(t.directory, "twice")
    code, lines = running(t, program(t, "orders", "orders_with_faults"), "--data", directory, "--ship-twice").end()
    equal((code, lines[-1]), (1, "20 orders: 30 shipped, 2 delivery_limit, 3 rejected; the books are WRONG"))
    require("order/1: shipped 2 times, failed 0 times" in lines, "\n".join(lines))
    code, lines = running(t, program(t, "orders"), "--data", os.path.join(t.directory, "hasty"), "--within", 0).end()
    equal(code, 1)
    require(re.fullmatch(r"orders: order/\d+ is still not done", lines[-1]), lines[-1])
