"""The bank of examples/bank under fire: what its accounts hold is checked against every order that was confirmed."""
import json
import os
import signal
import subprocess
import time

from harness import poll, require, skip

MASK = 2**64 - 1


def mix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


class bank:
    """The program on its books, and a ledger beside it that knows of each order what was promised.

    An order follows from the seed, its client and its number, so the ledger can say by itself what is to be in the books.
    """

    def __init__(self, t, program, accounts, clients, settle_within=60):
        self.t, self.program, self.accounts, self.clients = t, program, accounts, clients
        self.directory = os.path.join(t.directory, "books")
        self.log_path = os.path.join(t.directory, "bank.log")
        self.seed, self.opening_balance, self.settle_within = t.random.randrange(2**32), 100, settle_within
        self.confirmed = [0] * clients   # the number of the last order that was
        self.planned = [0] * clients     # orders that are in `due` or below already
        self.due = {}                    # (account, client) -> [(number, mark)], not yet known to be in the books
        self.mark = [0] * accounts       # of all orders that an account has decided on
        self.last = {}                   # (account, client) -> the last of them
        self.repeats_max = [0] * accounts
        self.decided, self.killed_actors, self.killed_kinds, self.process = 0, 0, {}, None

    def spawn(self, *options):
        os.makedirs(self.directory, exist_ok=True)
        self.out_path = os.path.join(self.t.directory, "bank.out")
        with open(self.out_path, "wb") as out, open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, "--data-dir", self.directory, "--accounts", str(self.accounts), "--opening-balance",
                 str(self.opening_balance), "--seed", str(self.seed), *map(str, options)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=log)

    def give_orders(self, *options):
        self.spawn("--clients", self.clients, "--transfers", 0, "--resume", ",".join(str(n + 1) for n in self.confirmed),
                   *options)

    def output(self):
        with open(self.out_path, encoding="utf-8") as out:
            lines = out.read().split("\n")
        return [line.split(" ") for line in lines[:-1]]  # the last one may be cut off

    def wait_until_ready(self):
        poll("the bank opens", lambda: self.process.poll() is not None or ["ready"] in self.output()[:2], 60, 0.005)
        require(self.process.poll() is None, f"the bank ended with {self.process.returncode}: {self.log_tail()}")

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self):
        self.process.terminate()
        require(self.process.wait(60) == 0, f"the bank ended with {self.process.returncode}: {self.output()[-1:]}")

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def read_promises(self):
        """What the program said before it ended. Orders behind the last confirmed one will be given again."""
        for words in self.output():
            if words[0] == "confirmed":
                client, number = int(words[1]), int(words[2])
                require(number == self.confirmed[client] + 1, f"orders are confirmed in their order: {words}")
                self.confirmed[client] = number
            elif words[0] == "killed":
                self.killed_actors += 1
                kind = "/".join(words[1].split("/")[:3])
                self.killed_kinds[kind] = self.killed_kinds.get(kind, 0) + 1
            elif words[0] == "failed":
                raise AssertionError("the bank says: " + " ".join(words))

    def plan_until(self, client, number):
        for n in range(self.planned[client] + 1, number + 1):
            chance = mix((mix((self.seed + client) & MASK) + n) & MASK)
            source, target = chance % self.accounts, (chance >> 24) % self.accounts
            value = mix((mix(((client << 32 | target) + 1) & MASK) + n) & MASK)
            self.due.setdefault((source, client), []).append((n, value))
        self.planned[client] = max(self.planned[client], number)

    def problems(self):
        """Starts the program to print its books when all has settled, and compares. Gives sentences about what is wrong."""
        self.spawn("--clients", 0, "--check", "--settle-within", self.settle_within)
        code = self.process.wait(self.settle_within + 120)
        lines = self.output()
        found = []
        for words in lines:
            if words[0] == "failed":
                return [" ".join(words)]
        books = {int(words[1]): [int(word) for word in words[2:]] for words in lines if words[0] == "account"}
        require(len(books) == self.accounts, f"the check ended with {code} and {len(books)} accounts: {self.log_tail()}")
        if code == 3:
            found.append("it does not settle: " + " ".join(lines[-1]))
        elif code != 0:
            found.append(f"the check ended with {code}")
        for client in range(self.clients):
            lasts = [book[8 + client] for book in books.values() if len(book) > 8 + client]
            self.plan_until(client, max([self.confirmed[client], *lasts]))
        sums = [0] * 8
        for account, book in sorted(books.items()):
            sums = [a + b for a, b in zip(sums, book)]
            repeated, sent_mark, refused_mark, lasts = book[3], book[4], book[6], book[8:]
            for client in range(self.clients):
                last = lasts[client] if client < len(lasts) else 0
                before = self.last.get((account, client), 0)
                if last < before:
                    found.append(f"account {account}: order {before} of client {client} was there, and is not any more")
                due = self.due.get((account, client), [])
                while due and due[0][0] <= last:
                    number, value = due.pop(0)
                    self.mark[account] = (self.mark[account] + value) & MASK
                    self.decided += 1
                # What stays is not in the books: nothing of it was promised.
                lost = [number for number, _ in due if number <= self.confirmed[client]]
                if lost:
                    found.append(f"account {account}: the confirmed orders {lost[:5]} of client {client} are lost")
                self.last[account, client] = max(last, before)
            if (sent_mark + refused_mark) & MASK != self.mark[account]:
                found.append(f"account {account}: an order was left out or done twice")
            if repeated > self.repeats_max[account]:
                found.append(f"account {account}: {repeated} orders came again, {self.repeats_max[account]} were given again")
        if sums[7] != self.accounts * self.opening_balance:
            found.append(f"the sum is {sums[7]}, and was {self.accounts * self.opening_balance}")
        if sums[0] != sums[1] or sums[4] & MASK != sums[5] & MASK:
            found.append(f"{sums[0]} transfers have left and {sums[1]} have come in, or not the same ones")
        # What stands in the books without having been confirmed will be ordered once more.
        for client in range(self.clients):
            for n in range(self.confirmed[client] + 1, self.planned[client] + 1):
                source = mix((mix((self.seed + client) & MASK) + n) & MASK) % self.accounts
                if n <= self.last.get((source, client), 0):
                    self.repeats_max[source] += 1
        return found

    def check(self, what):
        found = self.problems()
        require(not found, f"{what}: " + "\n".join(found[:20]))

    def log_tail(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-10:])


def program(t, name):
    """The example as it was built."""
    if not t.suite.options.examples:
        raise skip("no --examples given")
    path = os.path.join(os.path.abspath(t.suite.options.examples), "bank", name)
    require(os.path.exists(path), f"there is no {path}")
    return path


def open_bank(t, name="bank", accounts=1000, clients=4, **options):
    made = bank(t, program(t, name), accounts, clients, **options)
    t.on_exit(made.stop)
    return made


def one_round(t, made, *options):
    made.give_orders(*options)
    if t.random.random() < 0.9:
        made.wait_until_ready()
    until = time.monotonic() + t.random.uniform(0, 0.6)
    poll("the moment has come", lambda: time.monotonic() >= until, interval=0.001)
    made.kill()
    made.read_promises()


def test_kill_9_under_transfers(t):
    made = open_bank(t)
    for number in range(1, t.rounds(10) + 1):
        # Half of the rounds with actors that die as well, a third with accounts that fall asleep at once.
        options = ["--kill-every", t.random.choice([2, 5, 20])] if t.random.random() < 0.5 else []
        options += ["--idle-after", 5] if t.random.random() < 0.34 else []
        one_round(t, made, *options)
        made.check(f"after kill -9 number {number}, {options}")
    t.note(f"{number} kills, {sum(made.confirmed)} transfers confirmed, {made.decided} found, "
           f"{made.killed_actors} actors killed on the way")
    require(sum(made.confirmed) > 50 * number, "too few transfers to prove anything")


def test_any_actor_is_killed_under_transfers(t):
    made, wanted = open_bank(t), 10 * t.rounds(20)
    while made.killed_actors < wanted:
        made.give_orders("--kill-every", 5, *(["--idle-after", 20] if t.random.random() < 0.5 else []))
        made.wait_until_ready()
        until = time.monotonic() + 2
        poll("actors have died for two seconds", lambda: time.monotonic() >= until, 10, 0.05)
        made.end()
        before = made.killed_actors
        made.read_promises()
        require(made.killed_actors > before, "nobody was killed")
        made.check("after the death of actors")
        require(not any(made.repeats_max), "nothing was to be ordered again")
    t.note(f"{made.killed_actors} kills, {sum(made.confirmed)} transfers confirmed; "
           + ", ".join(f"{kind} {count}" for kind, count in sorted(made.killed_kinds.items())))
    require("/journal" in made.killed_kinds, "the committer was never killed")


def test_the_command_line_kills_any_actor_under_transfers(t):
    """As an operator would: the paths are read with `posthorn actors tree`, and any of them may be killed."""
    made, wanted = open_bank(t), 5 * t.rounds(20)
    made.give_orders("--http-port", 0)
    made.wait_until_ready()
    url = {"POSTHORN_URL": "http://127.0.0.1:" + made.output()[0][1]}
    gone, first = 0, ["/journal"]  # the committer
    while made.killed_actors < wanted:
        tree = t.posthorn("--json", "actors", "tree", environment=url)
        require(tree.returncode == 0, f"posthorn actors tree: {tree.stderr}")
        by_kind = {}
        for each in json.loads(tree.stdout):
            by_kind.setdefault(each["kind"], []).append(each["path"])
        # In every other case first a kind and then one of it, or only accounts would ever die.
        all_paths = [path for paths in by_kind.values() for path in paths]
        few = first + [t.random.choice(by_kind[t.random.choice(sorted(by_kind))]) if t.random.random() < 0.5
               else t.random.choice(all_paths) for _ in range(10)]
        first = []
        for path in few:
            killed = t.posthorn("actors", "kill", path, environment=url)
            if killed.returncode != 0:
                gone += 1  # its supervisor died a moment ago, and is not yet back
                require(made.process.poll() is None, f"the bank ended with {made.process.returncode}: {made.log_tail()}")
                continue
            made.killed_actors += 1
            kind = "/".join(path.split("/")[:3])
            made.killed_kinds[kind] = made.killed_kinds.get(kind, 0) + 1
    made.end()
    made.read_promises()
    made.check("after the death of actors")
    require(not any(made.repeats_max), "nothing was to be ordered again")
    require("/journal" in made.killed_kinds, "the committer was never killed")
    t.note(f"{made.killed_actors} kills, {gone} refused, {sum(made.confirmed)} transfers confirmed; "
           + ", ".join(f"{kind} {count}" for kind, count in sorted(made.killed_kinds.items())))


def finds(t, *fault):
    made = open_bank(t, "bank_with_faults", accounts=50, settle_within=3)
    for number in range(1, max(40, t.rounds(40)) + 1):
        one_round(t, made, *fault)
        found = made.problems()
        if found:
            t.note(f"found in round {number}: " + "; ".join(found[:3]))
            return
    raise AssertionError("the checker found nothing wrong")


def test_the_checker_sees_a_turn_in_two_parts(t):
    """A program that debits in one turn and deposits in another must be found out; else a green check proves nothing."""
    finds(t, "--split-turn")


def test_the_checker_sees_a_commit_in_two_parts(t):
    """The same for a library that writes what a turn has sent in a second transaction."""
    finds(t, "--split-commit")


def test_the_checker_passes_two_parts_that_nobody_kills(t):
    """What turns the checker red is the death between the two parts."""
    made = open_bank(t, "bank_with_faults", accounts=50, settle_within=10)
    for fault in ("--split-turn", "--split-commit"):
        made.give_orders(fault)
        made.wait_until_ready()
        until = time.monotonic() + 1
        poll("a second has passed", lambda: time.monotonic() >= until, interval=0.05)
        made.end()
        made.read_promises()
        made.check(f"without a kill, {fault}")
