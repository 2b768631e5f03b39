"""Kill any actor, lose nothing: actors of the node's tree die under load, and no client may notice, but for those whose
own connection was killed. The ledger here judges each delivery when it comes; see README.md for its rules."""
import base64
import collections
import http.client
import json
import random
import struct
import threading
import time
import urllib.parse

import amqp_raw
import crash
import load
from harness import closes, equal, poll, require

EVERY = 0.05  # seconds from one kill to the next
TRANSIENT = 0.15  # of the messages
BACKLOG = 3000  # deliveries that are due; more, and the producers wait

# --- the ledger -----------------------------------------------------------------------------------------------------

DUE, OUT, RETURNED, LOOSE, SETTLED = 1, 2, 4, 8, 16


class ledger:
    """Judges what happens, one event after the other; events may come from any thread.

    A publish is fed before it is sent, an acknowledgement too; what arrives is fed when it was read. With `record`, the
    events are kept, so that they can be changed and judged again.
    """

    def __init__(self, record=False):
        self.lock = threading.Lock()
        self.events = [] if record else None
        self.problems, self.problem_count = [], 0
        self.state = collections.defaultdict(dict)  # queue -> producer -> a state for each number
        self.confirms = {}  # producer -> for each number: how often confirmed, 2 and more for what needs no confirm
        self.low = {}  # (queue, producer) -> number: all below are settled
        self.last = collections.defaultdict(dict)  # (queue, reader) -> producer -> number
        self.outstanding = self.published = self.confirmed = self.delivered = self.again = 0
        self.context = lambda: ""

    def feed(self, kind, *rest):
        with self.lock:
            if self.events is not None:
                self.events.append((kind, *rest))
            getattr(self, "on_" + kind)(*rest)

    def problem(self, text):
        with self.lock:
            self.note(text)

    def note(self, text):
        self.problem_count += 1
        if len(self.problems) < 50:
            self.problems.append(text + self.context())

    def on_publish(self, producer, number, queues, confirms):
        marks = self.confirms.setdefault(producer, bytearray())
        require(number == len(marks), "a producer counts")
        marks.append(0 if confirms else 2)
        self.published += 1
        for queue in queues:
            states = self.state[queue].setdefault(producer, bytearray())
            states.extend(bytes(number + 1 - len(states)))
            states[number] = DUE
            self.outstanding += 1

    def on_confirm(self, producer, number):
        marks = self.confirms.get(producer, b"")
        if number >= len(marks) or marks[number]:
            self.note(f"{(producer, number)} was confirmed " + ("twice" if number < len(marks) else "but never published"))
            return
        marks[number] = 1
        self.confirmed += 1

    def on_deliver(self, queue, reader, producer, number, redelivered):
        name = (producer, number)
        states = self.state[queue].get(producer, b"")
        state = states[number] if number < len(states) else 0
        if not state & DUE:
            self.note(f"{queue}: {name} was delivered, but never published there")
            return
        self.delivered += 1
        if state & SETTLED:
            self.note(f"{queue}: {name} was delivered again after it had been acknowledged (redelivered={redelivered})")
            return
        if state & OUT:
            self.note(f"{queue}: {name} was delivered twice, and never given back (redelivered={redelivered})")
            return
        if redelivered and not state & (RETURNED | LOOSE):
            self.note(f"{queue}: {name} came redelivered at its first delivery")
        if not redelivered and state & RETURNED:
            self.note(f"{queue}: {name} was given back, and its next delivery is not marked as redelivered")
        if redelivered:
            self.again += 1
        elif not state & LOOSE:
            last = self.last[(queue, reader)]
            if number < last.get(producer, -1):
                self.note(f"{queue}: {name} came to {reader} out of order, after {(producer, last[producer])}")
            last[producer] = number
        states[number] = state | OUT

    def change(self, queue, producer, number, state):
        states = self.state[queue].get(producer, b"")
        if number >= len(states) or not states[number] & OUT:
            self.note(f"{queue}: {(producer, number)} was settled or given back, but nobody held it")
            return
        if state & SETTLED:
            self.outstanding -= 1
        states[number] = (states[number] & ~OUT) | state

    def on_settle(self, queue, producer, number):
        self.change(queue, producer, number, SETTLED)

    def on_give_back(self, queue, producer, number):
        self.change(queue, producer, number, RETURNED)

    def on_reader_gone(self, queue, held):
        """The queue's only reader is gone. What was on its way to it comes again, and says so."""
        for producer, number in held:
            self.change(queue, producer, number, RETURNED)
        for producer, states in self.state[queue].items():
            low = self.low.get((queue, producer), 0)
            while low < len(states) and (not states[low] or states[low] & SETTLED):
                low += 1
            self.low[(queue, producer)] = low
            for number in range(low, len(states)):
                if states[number] & DUE and not states[number] & (SETTLED | OUT):
                    states[number] |= LOOSE

    def finish(self):
        """Nothing is under way any more: what is missing now is lost."""
        with self.lock:
            for producer, marks in self.confirms.items():
                missing = [number for number, mark in enumerate(marks) if mark == 0]
                if missing:
                    self.note(f"{len(missing)} publishes of producer {producer} were never confirmed, first {missing[:5]}")
            for queue, producers in self.state.items():
                for producer, states in producers.items():
                    lost = [n for n, state in enumerate(states) if state & DUE and not state & (SETTLED | OUT)]
                    if lost:
                        confirmed = sum(self.confirms[producer][n] == 1 for n in lost)
                        back = sum(bool(states[n] & RETURNED) for n in lost)
                        self.note(f"{queue}: {len(lost)} messages of producer {producer} were never delivered, "
                                  f"{confirmed} of them confirmed, {back} given back before, "
                                  f"numbers {lost[:5]} of {len(states)}")
                    held = [n for n, state in enumerate(states) if state & OUT]
                    if held:
                        self.note(f"{queue}: {len(held)} messages of producer {producer} were delivered, and never settled")

    def judge(self):
        require(not self.problem_count, f"{self.problem_count} problems, the first:\n" + "\n".join(self.problems[:20]))


def judged(events):
    """The problems of a run that was recorded."""
    book = ledger()
    for event in events:
        book.feed(*event)
    book.finish()
    return book.problems


# --- the operator ---------------------------------------------------------------------------------------------------


class operator:
    """One kept-alive connection to the node's HTTP interface. Not for several threads."""

    def __init__(self, node, timeout=10.0, attempts=2):
        self.attempts = attempts
        self.http = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=timeout)
        self.headers = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}

    def ask(self, method, path):
        for attempt in range(1, self.attempts + 1):
            try:
                self.http.request(method, path, headers=self.headers)
                answer = self.http.getresponse()
                return answer.status, answer.read().decode()
            except (ConnectionError, http.client.RemoteDisconnected):
                # A connection that rested for long may have been closed; a new one must not be.
                self.http.close()
                if attempt == self.attempts:
                    raise
        raise AssertionError("not reached")

    def tree(self):
        """path -> what is known of the actor."""
        status, text = self.ask("GET", "/api/actors")
        require(status == 200, f"GET /api/actors: {status} {text}")
        return {each["path"]: each for each in json.loads(text)}

    def kill(self, path):
        """True if it was killed, false if there is none just now."""
        status, text = self.ask("POST", "/api/actors/kill?path=" + urllib.parse.quote(path, safe=""))
        require(status in (204, 404, 409), f"kill {path}: {status} {text}")
        return status == 204

    def restarts(self, path):
        status, text = self.ask("GET", "/api/actors/show?path=" + urllib.parse.quote(path, safe=""))
        if status == 404:
            return -1
        require(status == 200, f"show {path}: {status} {text}")
        known = json.loads(text)
        return known["restarts"] if known["state"] == "running" else -1

    def kill_and_wait(self, path):
        """Kills, and waits until its successor runs."""
        before = poll(f"{path} runs", lambda: self.restarts(path) + 1) - 1
        require(self.kill(path), f"{path} could not be killed")
        poll(f"{path} was restarted", lambda: self.restarts(path) > before)

    def events(self):
        """What the node counted, by kind of event."""
        prefix, found = 'posthorn_actor_events_total{kind="', {}
        for line in self.ask("GET", "/metrics")[1].splitlines():
            if line.startswith(prefix):
                kind, rest = line[len(prefix):].split('"', 1)
                found[kind] = int(float(rest.split()[1]))
        require("restarted" in found, "the metrics do not count restarts")
        return found

    def queues(self):
        return {each["name"]: each for each in json.loads(self.ask("GET", "/api/queues")[1])}


def queue_path(name):
    return "/vhosts/%2F/queues/" + name.replace("%", "%25").replace("/", "%2F").replace(" ", "%20")


class arsonist(threading.Thread):
    """Kills one actor after the other: a random kind first, then a random actor of this kind."""

    def __init__(self, node, chance, report, every=EVERY, tolerant=False, spare=("connection",), only=None):
        super().__init__(daemon=True)
        self.node, self.chance, self.report = node, chance, report
        self.every, self.tolerant, self.spare, self.only = every, tolerant, spare, only
        self.kills, self.missed = collections.Counter(), 0
        self.recent = collections.deque(maxlen=40)
        self.stop = threading.Event()

    def run(self):
        try:
            self.burn()
        except (OSError, http.client.HTTPException) as error:
            if not self.tolerant:
                self.report(f"the HTTP interface failed while actors were killed: {error!r}")
        except Exception as error:  # whatever it is, the test has to hear of it
            if not (self.tolerant and isinstance(error, AssertionError)):  # a node that ends may refuse
                self.report(f"the killer failed: {error!r}")

    def burn(self):
        # Who expects the node to die must not go on with its successor.
        boss = operator(self.node, attempts=1 if self.tolerant else 2)
        due, kinds, age = time.monotonic(), {}, 0
        while not self.stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self.every, time.monotonic() - 1)
            if age % 10 == 0:
                kinds = collections.defaultdict(list)
                for path, each in boss.tree().items():
                    if each["kind"] not in self.spare and (self.only is None or self.only(path)):
                        kinds[each["kind"]].append(path)
            age += 1
            kind = self.chance.choice(sorted(kinds))
            path = self.chance.choice(kinds[kind])
            if boss.kill(path):
                self.recent.append((time.monotonic(), path))
                self.kills[kind] += 1
            else:
                self.missed += 1
                age = 0

    def finish(self):
        self.stop.set()
        self.join(30)
        require(not self.is_alive(), "the killer hangs")
        return sum(self.kills.values())

    def said(self):
        since = time.monotonic()
        killed = [f"{path} {1000 * (since - at):.0f} ms before" for at, path in list(self.recent) if since - at < 0.5]
        return f"  [killed: {', '.join(killed) or 'nothing within 0.5 s'}]"


# --- the clients ----------------------------------------------------------------------------------------------------


class wire:
    """A connection that takes whatever has arrived, and tells of every close."""

    def __init__(self, node):
        self.connection = node.connect()

    def receive(self, timeout):
        connection = self.connection
        try:
            connection.read_some(timeout)
        except TimeoutError:
            return
        buffer = connection.buffer
        while len(buffer) >= 7 and len(buffer) >= struct.unpack_from(">I", buffer, 3)[0] + 8:
            connection.pump(0)

    def take(self, channel_id):
        """What arrived on the channel; a close, or a cancel by the node, is raised."""
        for method in self.connection.inbox[0]:
            raise amqp_raw.closed(method) if method.name == "connection.close" else AssertionError(f"unexpected {method}")
        inbox = self.connection.inbox[channel_id]
        while inbox:
            method = inbox.popleft()
            if method.name == "channel.close":
                raise amqp_raw.closed(method)
            yield method


class client(threading.Thread):
    """One thread with its own connections, which must never see an error."""

    def __init__(self, blaze, label):
        super().__init__(daemon=True, name=label)
        self.blaze, self.book, self.node, self.label = blaze, blaze.book, blaze.node, label
        self.chance = random.Random(blaze.chance.random())
        self.stop = threading.Event()
        self.rounds = 0
        blaze.clients.append(self)

    def run(self):
        try:
            self.work()
        except Exception as error:  # whatever a client sees is a finding
            self.book.problem(f"{self.label}, round {self.rounds}: {type(error).__name__}: {error}")

    def work(self):
        while not self.stop.is_set():
            self.one_round()
            self.rounds += 1

    def wait_for(self, what, condition, timeout=30.0):
        poll(what, condition, timeout, 0.002)


class producer(client):
    def __init__(self, blaze, number, routes, confirms=True):
        super().__init__(blaze, f"producer {number}")
        self.number, self.routes, self.confirms = number, routes, confirms
        self.count, self.waiting, self.returns, self.slowest = 0, {}, set(), 0.0

    def work(self):
        self.wire = wire(self.node)
        self.channel = self.wire.connection.channel()
        if self.confirms:
            self.channel.call("confirm.select")
        while not self.stop.is_set():
            if self.book.outstanding < BACKLOG and len(self.waiting) < 400:
                batch = b"".join(self.next() for _ in range(self.chance.randint(1, 20)))
                self.wire.connection.send_raw(batch)
                self.read(0)
            else:
                self.read(0.02)
        deadline = time.monotonic() + 30
        while (self.waiting or self.returns) and time.monotonic() < deadline:
            self.read(0.1)
        if self.returns:
            self.book.problem(f"{self.label}: {len(self.returns)} unroutable mandatory messages never came back")
        # A request and its answer: all that was published before has been taken.
        self.channel.call("basic.qos", prefetch_count=0)
        self.wire.connection.close()

    def next(self):
        number, chance = self.count, self.chance
        exchange, key, headers, queues = self.routes[chance.randrange(len(self.routes))]
        mandatory = chance.random() < 0.1
        if chance.random() < 0.01:
            exchange, key, headers, queues, mandatory = "fire.direct", "nobody", None, (), True
        if mandatory and not queues:
            self.returns.add(number)
        self.book.feed("publish", self.number, number, queues, self.confirms)
        self.count += 1
        if self.confirms:
            self.waiting[number] = time.monotonic()
        mode = 1 if chance.random() < TRANSIENT else 2
        return amqp_raw.publish_frames(exchange, key, load.make_body(self.number, number, chance),
                                       {"delivery_mode": mode, "headers": headers}, mandatory=mandatory)

    def read(self, timeout):
        self.wire.receive(timeout)
        for method in self.wire.take(1):
            if method.name == "basic.return":
                name = load.read_body(method.body)
                if name is None or name[0] != self.number or name[1] not in self.returns:
                    raise AssertionError(f"{name} was returned: {method.reply_code} {method.reply_text}")
                self.returns.discard(name[1])
                continue
            if method.name != "basic.ack":
                raise AssertionError(f"instead of a confirm, {method}")
            tag = method.delivery_tag - 1
            for number in [n for n in self.waiting if n <= tag] if method.multiple else [tag]:
                if number in self.returns:
                    raise AssertionError(f"{number} is unroutable and mandatory, and was confirmed before it was returned")
                self.book.feed("confirm", self.number, number)
                since = self.waiting.pop(number, None)
                if since is not None:
                    self.slowest = max(self.slowest, time.monotonic() - since)


class held:
    """What one channel holds of one queue."""

    def __init__(self, book, channel, queue, reader, chance, prefetch=25):
        self.book, self.channel, self.queue, self.reader, self.chance = book, channel, queue, reader, chance
        self.pending = []  # (tag, producer, number)
        self.most = min(prefetch or 25, 25)
        self.limit = chance.randint(1, self.most)

    def deliver(self, method, settled=False):
        name = load.read_body(method.body)
        if name is None:
            raise AssertionError(f"{self.queue}: a corrupt body of {len(method.body)} octets was delivered")
        self.book.feed("deliver", self.queue, self.reader, *name, method.redelivered)
        if settled:
            self.book.feed("settle", self.queue, *name)
        else:
            self.pending.append((method.delivery_tag, *name))

    def settle(self):
        """All that it holds, in one of the ways that there are."""
        pending, kind = self.pending, self.chance.random()
        self.pending, self.limit = [], self.chance.randint(1, self.most)
        if kind < 0.03:
            self.finish("give_back", pending)
            self.channel.send("basic.nack", delivery_tag=pending[-1][0], multiple=True, requeue=True)
        elif kind < 0.8:
            self.finish("settle", pending)
            self.channel.send("basic.ack" if kind < 0.75 else "basic.nack", delivery_tag=pending[-1][0], multiple=True)
        else:
            self.chance.shuffle(pending)
            for each in pending:
                back = self.chance.random() < 0.03
                self.finish("give_back" if back else "settle", [each])
                if back or kind < 0.85:
                    self.channel.send("basic.reject", delivery_tag=each[0], requeue=back)
                else:
                    self.channel.send("basic.ack", delivery_tag=each[0])

    def finish(self, event, some):
        for _, producer, number in some:
            self.book.feed(event, self.queue, producer, number)


class consumer(client):
    """One connection with a channel and a consumer for each of its queues."""

    def __init__(self, blaze, number, queues):
        super().__init__(blaze, f"consumer {number} of {', '.join(queues)}")
        self.queues = queues

    def work(self):
        wired = wire(self.node)
        holders = {}
        for at, queue in enumerate(self.queues, 1):
            channel = wired.connection.channel(at)
            prefetch = self.chance.choice((1, 10, 60))
            channel.call("basic.qos", prefetch_count=prefetch)
            channel.consume(queue)
            holders[at] = held(self.book, channel, queue, f"{self.label}/{at}", self.chance, prefetch)
        self.blaze.ready(self)
        while not self.stop.is_set():
            wired.receive(0.02)
            for at, holder in holders.items():
                any_came = False
                for method in wired.take(at):
                    require(method.name == "basic.deliver", f"unexpected {method}")
                    holder.deliver(method)
                    any_came = True
                if holder.pending and (not any_came or len(holder.pending) >= holder.limit):
                    holder.settle()
        wired.connection.close()


class exclusive_consumer(client):
    """A queue that the node names, gone with its connection, and a consumer that acknowledges nothing."""

    def __init__(self, blaze):
        super().__init__(blaze, "exclusive consumer")
        self.wire = wire(self.node)
        self.channel = self.wire.connection.channel()
        self.queue = self.channel.queue(exclusive=True).queue
        self.channel.bind(self.queue, "fire.topic", "x.*")

    def work(self):
        self.channel.consume(self.queue, no_ack=True)
        holder = held(self.book, self.channel, self.queue, self.label, self.chance)
        self.blaze.ready(self)
        while not self.stop.is_set():
            self.wire.receive(0.05)
            for method in self.wire.take(1):
                require(method.name == "basic.deliver", f"unexpected {method}")
                holder.deliver(method, settled=True)
        self.wire.connection.close()


class poller(client):
    """Asks again and again, several times at once."""

    def __init__(self, blaze, number, queue):
        super().__init__(blaze, f"poller {number} of {queue}")
        self.queue = queue

    def work(self):
        wired = wire(self.node)
        channel = wired.connection.channel()
        holder = held(self.book, channel, self.queue, self.label, self.chance)
        self.blaze.ready(self)
        while not self.stop.is_set():
            count = self.chance.randint(1, 8)
            for _ in range(count):
                channel.send("basic.get", queue=self.queue)
            empty = 0
            for _ in range(count):
                answer = channel.wait("basic.get-ok", "basic.get-empty", timeout=30)
                if answer.name == "basic.get-ok":
                    holder.deliver(answer)
                else:
                    empty += 1
            if holder.pending:
                holder.settle()
            if empty:
                self.stop.wait(0.01)  # nothing to do: leaves the processor to the others
        wired.connection.close()


class comes_and_goes(client):
    """The only consumer of its queue leaves in all the ways there are, with messages in its hands."""

    def __init__(self, blaze, queue):
        super().__init__(blaze, f"the one who comes and goes of {queue}")
        self.queue = queue

    def work(self):
        self.watch = self.node.connect()
        self.watcher = self.watch.channel()
        self.blaze.ready(self)
        super().work()
        self.watch.close()

    def one_round(self):
        wired = wire(self.node)
        channel = wired.connection.channel()
        prefetch = self.chance.choice((0, 5, 50))
        channel.call("basic.qos", prefetch_count=prefetch)
        tag = channel.consume(self.queue)
        holder = held(self.book, channel, self.queue, f"{self.label}/{self.rounds}", self.chance, prefetch)
        wanted, got, until = self.chance.randint(1, 400), 0, time.monotonic() + 0.3
        while got < wanted and not self.stop.is_set() and time.monotonic() < until:
            wired.receive(0.02)
            before = got
            for method in wired.take(1):
                require(method.name == "basic.deliver", f"unexpected {method}")
                holder.deliver(method)
                got += 1
            if len(holder.pending) >= holder.limit or (holder.pending and got == before and self.chance.random() < 0.5):
                holder.settle()
        how = self.chance.choice(("cancel", "channel", "connection", "socket"))
        if how == "cancel":
            channel.call("basic.cancel", consumer_tag=tag, timeout=30)
        elif how == "channel":
            channel.call("channel.close", reply_code=200, timeout=30)
        else:
            channel.call("basic.qos", prefetch_count=1, timeout=30)  # answered after what was acknowledged before
            if how == "socket":
                wired.connection.drop()
        wired.connection.close()
        self.wait_for(f"{self.queue} has lost its consumer", lambda: self.watcher.count(self.queue)[1] == 0)
        self.book.feed("reader_gone", self.queue, [name for _, *name in holder.pending])


class purger(client):
    """Purges and deletes a queue that is all its own; the counts must be exact."""

    def work(self):
        self.connection = self.node.connect()
        self.channel = self.connection.channel()
        self.channel.call("confirm.select")
        self.channel.queue("fire.purged", durable=True)
        super().work()
        equal(self.channel.count("fire.purged"), (0, 0), "the queue of the purger")
        self.connection.close()

    def one_round(self):
        channel, count = self.channel, self.chance.randint(0, 60)
        for n in range(count):
            channel.publish("", "fire.purged", b"%d" % n, delivery_mode=self.chance.choice((1, 2)))
        channel.confirm(timeout=30)
        if self.chance.random() < 0.3:
            equal(channel.call("queue.delete", queue="fire.purged", timeout=30).message_count, count, "deleted")
            equal(channel.queue("fire.purged", durable=True).message_count, 0, "a new queue")
            return
        if self.chance.random() < 0.5:
            equal(channel.count("fire.purged")[0], count, "before the purge")
        equal(channel.call("queue.purge", queue="fire.purged", timeout=30).message_count, count, "purged")


class declarer(client):
    """Declares, binds, unbinds and deletes, also between what the others use."""

    def work(self):
        self.connection = self.node.connect()
        self.channel = self.connection.channel()
        self.channel.call("confirm.select")
        super().work()
        self.connection.close()

    def one_round(self):
        channel, chance, count = self.channel, self.chance, self.chance.randint(1, 30)
        kind = chance.choice(("direct", "topic", "fanout"))
        exchange, queue, durable = f"temporary.{self.rounds}", f"temporary {self.rounds}", chance.random() < 0.7
        channel.exchange(exchange, kind, durable=durable)
        channel.queue(queue, durable=True)
        channel.bind(queue, exchange, "k")
        for n in range(count):
            channel.publish(exchange, "k", b"%d" % n, mandatory=True, delivery_mode=2)
        channel.confirm(timeout=30)
        require(not any(each.name == "basic.return" for each in self.connection.inbox[1]), "a bound queue is a route")
        equal(channel.count(queue)[0], count, queue)
        got = [channel.get(queue, no_ack=True) for _ in range(count)]
        equal([each.name == "basic.get-ok" and each.body for each in got], [b"%d" % n for n in range(count)], queue)
        # Nothing new for the others.
        channel.queue(chance.choice(QUEUES), durable=True)
        channel.bind("q0", "fire.direct", "a")
        if chance.random() < 0.5:
            # Copies of what the others publish, and gone with them.
            channel.bind(queue, "fire.fanout")
            channel.bind(queue, "fire.topic", "#")
            if chance.random() < 0.5:
                channel.call("queue.unbind", queue=queue, exchange="fire.fanout")
        if chance.random() < 0.5:
            channel.call("exchange.delete", exchange=exchange)
            channel.call("queue.delete", queue=queue, timeout=30)
        else:
            channel.call("queue.delete", queue=queue, timeout=30)
            channel.call("exchange.delete", exchange=exchange)
        with_passive = self.connection.channel(2)
        with closes(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
            with_passive.queue(queue, passive=True)


class reconnector(client):
    """A new connection each time, with a message there and back, and an exclusive queue."""

    def one_round(self):
        since = time.monotonic()
        with self.node.connect() as connection:
            channel = connection.channel()
            channel.call("confirm.select")
            body = b"%d" % self.rounds
            channel.publish("", "fire.reconnects", body, delivery_mode=2)
            channel.confirm(timeout=30)
            got = channel.get("fire.reconnects")
            require(got.name == "basic.get-ok" and got.body == body and not got.redelivered, f"expected {body}, got {got}")
            channel.send("basic.ack", delivery_tag=got.delivery_tag)
            queue = channel.queue(exclusive=True).queue
            channel.consume(queue, "mine")
            for n in range(5):
                channel.publish("", queue, b"%d" % n)
            equal([(each.body, each.redelivered) for each in channel.deliveries(5, timeout=30)],
                  [(b"%d" % n, False) for n in range(5)], "an exclusive queue")
            channel.confirm(timeout=30)
        with self.node.connect() as connection:
            with closes(404, f"NOT_FOUND - no queue '{queue}' in vhost '/'"):
                connection.channel().queue(queue, passive=True)
        self.blaze.slowest_visit = max(self.blaze.slowest_visit, time.monotonic() - since)


# --- all of them together -------------------------------------------------------------------------------------------

QUEUES = [f"q{n}" for n in range(12)]
LOOSE_QUEUE, POLLED_QUEUE = "q10", "q11"


def declare(node):
    with node.connect() as connection:
        channel = connection.channel()
        for queue in [*QUEUES, "fire.reconnects"]:
            channel.queue(queue, durable=True)
        for kind in ("direct", "fanout", "topic", "headers"):
            channel.exchange("fire." + kind, kind, durable=True)
        for queue, key in (("q0", "a"), ("q1", "a"), ("q2", "b"), (LOOSE_QUEUE, "b")):
            channel.bind(queue, "fire.direct", key)
        for queue in ("q3", "q4", "q5", POLLED_QUEUE):
            channel.bind(queue, "fire.fanout")
        for queue, key in (("q6", "x.*"), ("q7", "x.#"), ("q8", "#.end")):
            channel.bind(queue, "fire.topic", key)
        channel.bind("q9", "fire.headers", "", **{"x-match": "any", "kind": "y"})


def routes_to(exclusive):
    return [*(("", queue, None, (queue,)) for queue in QUEUES),
            ("fire.direct", "a", None, ("q0", "q1")),
            ("fire.direct", "b", None, ("q2", LOOSE_QUEUE)),
            ("fire.fanout", "", None, ("q3", "q4", "q5", POLLED_QUEUE)),
            ("fire.topic", "x.y", None, ("q6", "q7", exclusive)),
            ("fire.topic", "x.end", None, ("q6", "q7", "q8", exclusive)),
            ("fire.topic", "x.far.end", None, ("q7", "q8")),
            ("fire.headers", "", {"kind": "y"}, ("q9",))]


class blaze:
    """The clients of one run, and its end."""

    def __init__(self, node, chance, record=False):
        self.node, self.chance, self.book = node, chance, ledger(record)
        self.clients, self.slowest_visit = [], 0.0
        self.lock, self.ready_count = threading.Lock(), 0
        declare(node)
        exclusive = exclusive_consumer(self)
        self.readers = [exclusive, comes_and_goes(self, LOOSE_QUEUE)]
        self.readers += [consumer(self, n, queues) for n, queues in enumerate(
            (("q0", "q1", "q2"), ("q0", "q3", "q4"), ("q5", "q6", "q0"), ("q7", "q8"), ("q9",)))]
        self.readers += [poller(self, n, queue) for n, queue in enumerate((POLLED_QUEUE, POLLED_QUEUE, "q8"))]
        routes = routes_to(exclusive.queue)
        self.producers = [producer(self, n, routes, confirms=n != 3) for n in range(4)]
        self.others = [purger(self, "purger"), declarer(self, "declarer"), reconnector(self, "reconnector")]

    def ready(self, _):
        with self.lock:
            self.ready_count += 1

    def start(self):
        for each in self.readers:
            each.start()
        poll("all readers consume", lambda: self.ready_count == len(self.readers) or self.book.problem_count, 30)
        for each in self.producers + self.others:
            each.start()

    def end(self, group):
        for each in group:
            each.stop.set()
        for each in group:
            each.join(60)
            if each.is_alive():
                self.book.problem(f"{each.label} hangs in round {each.rounds}")

    def finish(self):
        """Ends producers first; waits until all is read while there is progress; then ends the readers."""
        self.end(self.producers + self.others)
        book, least, since = self.book, None, time.monotonic()

        def drained():
            nonlocal least, since
            if book.outstanding != least:
                least, since = book.outstanding, time.monotonic()
            return not book.outstanding or time.monotonic() - since > 20

        poll("everything is delivered, or nothing more comes", drained, 300)
        if book.outstanding:
            left = {name: f"{each['messages_ready']} ready, {each['messages_unacknowledged']} unacknowledged, "
                          f"{each['consumers']} consumers" for name, each in operator(self.node).queues().items()
                    if each["messages"]}
            book.problem(f"{book.outstanding} deliveries are missing, and none came within 20 s; the node says {left}")
        self.end(self.readers)
        book.finish()

    def summary(self):
        book = self.book
        return (f"{book.published} published, {book.confirmed} confirmed, {book.delivered} delivered, "
                f"{book.again} of them again; slowest confirm {max(each.slowest for each in self.producers):.2f} s, "
                f"slowest visit {self.slowest_visit:.2f} s; "
                + ", ".join(f"{each.label}: {each.rounds}" for each in self.clients if each.rounds))


def left_at_the_end(t, node):
    """What the command line lists once all clients have gone: empty queues without consumers."""
    def listed():
        done = t.posthorn("list", "queues", "--json", environment={"POSTHORN_URL": f"http://127.0.0.1:{node.http_port}"})
        require(done.returncode == 0, f"list queues: {done.stderr}")
        return [{key: each[key] for key in ("name", "messages_ready", "messages_unacknowledged", "consumers")}
                for each in json.loads(done.stdout)]

    queues = sorted([*QUEUES, "fire.reconnects", "fire.purged"])
    expected = [{"name": name, "messages_ready": 0, "messages_unacknowledged": 0, "consumers": 0} for name in queues]
    try:
        poll("empty queues, and no others", lambda: sorted(listed(), key=lambda each: each["name"]) == expected)
    except AssertionError:
        equal(sorted(listed(), key=lambda each: each["name"]), expected, "list queues")


def warnings_of(node):
    """Lines of the log that tell of something worse than a kill that was asked for."""
    with open(node.log_path, errors="replace") as log:
        lines = [line.rstrip() for line in log if " warning " in line.lower() or " error " in line.lower()]
    return "\n".join(lines[-15:])


def burn(t, node, seconds, record=False):
    """The whole fire once: returns its blaze, after judging it."""
    chance = random.Random(t.random.random())
    fire, boss = blaze(node, chance, record), operator(node)
    killer = arsonist(node, random.Random(chance.random()), fire.book.problem)
    fire.book.context = killer.said
    before, since = boss.events(), time.monotonic()
    fire.start()
    killer.start()
    # Ends early once something is wrong: what was killed just before is then in the report, and the last in the log.
    poll("the fire has burnt", lambda: time.monotonic() - since > seconds or fire.book.problem_count, seconds + 30, 0.1)
    kills = killer.finish()
    fire.finish()
    after = boss.events()
    happened = {kind: after[kind] - before.get(kind, 0) for kind in after}
    t.note(f"{kills} kills in {seconds:g} s: {dict(killer.kills)}, {killer.missed} came too late; events {happened}")
    t.note(fire.summary())
    if fire.book.problem_count:
        raise AssertionError(f"replay with --seed {t.suite.seed} --filter {t.name} --fire-seconds {seconds:g}; "
                             f"{fire.book.problem_count} problems, the first:\n" + "\n".join(fire.book.problems[:20])
                             + f"\n--- warnings of the log\n{warnings_of(node)}\n---")
    require(happened["restarted"] >= kills / 2, f"{kills} kills, and only {happened['restarted']} restarts: {happened}")
    for kind in ("escalated", "gave up", "gave_up", "start failed", "start_failed"):
        require(not happened.get(kind), f"{happened[kind] if kind in happened else 0} actors {kind}: {happened}")
    return fire, kills


def test_random_actors_die_under_load(t):
    seconds = t.suite.options.fire_seconds
    node = t.node()
    fire, kills = burn(t, node, seconds)
    require(kills > seconds / EVERY / 2, f"only {kills} kills in {seconds} s")
    require(fire.book.delivered > 100 * seconds, "too little load to prove anything")
    left_at_the_end(t, node)
    for path, each in operator(node).tree().items():
        require(each["state"] == "running", f"{path} is {each['state']}")
    code, _ = node.terminate()
    equal(code, 0, "the exit code")
    verified = t.posthorn("verify", node.data_dir)
    require(verified.returncode == 0, f"verify: {verified.stdout}{verified.stderr}")


def test_the_checker_can_fail(t):
    """The ledger must find each wrong in a recorded run, by its name; a checker that stays green proves nothing."""
    fire = blaze(t.node(), random.Random(t.random.random()), record=True)
    fire.start()
    poll("enough has happened", lambda: fire.book.problem_count or (fire.book.delivered > 3000 and fire.book.again > 30), 60)
    fire.finish()
    fire.book.judge()
    events = fire.book.events
    equal(judged(events), [], "the run as it was")
    found = collections.defaultdict(list)
    for at, event in enumerate(events):
        found[event[0]].append(at)

    def quiet(at):
        return events[at][1] != LOOSE_QUEUE

    first = [at for at in found["deliver"] if not events[at][5] and quiet(at)]
    again = [at for at in found["deliver"] if events[at][5] and quiet(at)]
    returned = {events[at][1:] for at in found["give_back"]}
    once = [at for at in first if (events[at][1], *events[at][3:5]) not in returned]
    t.note(f"{len(events)} events, {len(first)} first and {len(again)} later deliveries")

    def expect(what, changed):
        problems = judged(changed)
        require(any(what in each for each in problems), f"the checker does not see '{what}' but {problems[:3]}")

    def settled_at(at):
        _, queue, _, producer, number, _ = events[at]
        return next((n for n in found["settle"] if n > at and events[n][1:] == (queue, producer, number)), None)

    def without(*gone):
        return [event for at, event in enumerate(events) if at not in gone]

    def replaced(at, *others):
        return events[:at] + list(others) + events[at + 1:]

    for _ in range(10):
        settle = t.random.choice(found["settle"])
        _, queue, producer, number = events[settle]
        every = [at for at, event in enumerate(events) if event[0] in ("deliver", "settle", "give_back") and event[1] == queue
                 and (event[3:5] if event[0] == "deliver" else event[2:4]) == (producer, number)]
        if quiet(settle):
            expect("never delivered", without(*every))
        at = t.random.choice(once)
        expect("delivered twice", replaced(at, events[at], events[at]))
        # Its acknowledgement was lost: it comes once more, marked as redelivered.
        twin = (*events[at][:5], True)
        expect("after it had been acknowledged", replaced(settled_at(at), events[settled_at(at)], twin))
        expect("redelivered at its first delivery", replaced(at, twin))
        back = t.random.choice(again)
        expect("not marked as redelivered", replaced(back, (*events[back][:5], False)))
        confirm = t.random.choice(found["confirm"])
        expect("never confirmed", without(confirm))
        expect("confirmed twice", replaced(confirm, events[confirm], events[confirm]))
        elsewhere = next(queue for queue in QUEUES if number_in(events, found, queue, *events[at][3:5]) is None)
        expect("never published there", replaced(at, events[at], ("deliver", elsewhere, *events[at][2:])))
        later = next((n for n in once if n > at and events[n][1:4] == events[at][1:4]), None)
        if later is not None:
            expect("out of order", events[:at] + events[at + 1:later + 1] + [events[at]] + events[later + 1:])


def number_in(events, found, queue, producer, number):
    """The place of the publish of this message, if it is routed to the queue."""
    return next((at for at in found["publish"] if events[at][1:3] == (producer, number) and queue in events[at][3]), None)


# --- one connection -------------------------------------------------------------------------------------------------


def test_a_killed_connection_takes_nothing_with_it(t):
    """By the command line, as an operator does it."""
    node = t.node()
    url = {"POSTHORN_URL": f"http://127.0.0.1:{node.http_port}"}
    other = node.connect()
    channel = other.channel()
    channel.queue("work", durable=True)
    channel.call("confirm.select")
    for n in range(30):
        channel.publish("", "work", b"%d" % n, delivery_mode=2)
    channel.confirm()
    victim = node.connect()
    taking = victim.channel()
    exclusive = taking.queue(exclusive=True).queue
    taking.call("basic.qos", prefetch_count=10)
    taking.consume("work")
    equal([each.body for each in taking.deliveries(10)], [b"%d" % n for n in range(10)], "what the victim holds")
    taking.send("basic.ack", delivery_tag=3, multiple=True)
    equal([each.body for each in taking.deliveries(3)], [b"10", b"11", b"12"], "after its acknowledgement")

    def listed():
        done = t.posthorn("actors", "tree", "--json", environment=url)
        require(done.returncode == 0, f"actors tree: {done.stderr}")
        return [each["path"] for each in json.loads(done.stdout) if each["kind"] == "connection"]

    port = victim.sock.getsockname()[1]
    path, = [each for each in listed() if each.endswith(f":{port}")]
    killed = t.posthorn("actors", "kill", path, environment=url)
    require(killed.returncode == 0, f"actors kill {path}: {killed.stderr}")
    try:
        close = victim.wait(0, "connection.close")
        equal(close.reply_code, 320, "the close")
        victim.send(0, "connection.close-ok")
    except amqp_raw.gone:
        pass
    victim.drop()
    # All it held comes to another, in order and marked; what it had acknowledged does not.
    channel.consume("work")
    equal([(each.body, each.redelivered) for each in channel.deliveries(27)],
          [(b"%d" % n, n < 13) for n in range(3, 30)], "what the other gets")
    channel.send("basic.ack", delivery_tag=0, multiple=True)
    channel.publish("", "work", b"more", delivery_mode=2)
    channel.confirm()
    equal(channel.deliveries(1)[0].body, b"more", "the other goes on")
    poll("it is no longer in the tree", lambda: path not in listed())
    with node.connect() as connection:
        with closes(404, f"NOT_FOUND - no queue '{exclusive}' in vhost '/'"):
            connection.channel().queue(exclusive, passive=True)
    again = t.posthorn("actors", "kill", path, environment=url)
    require(again.returncode != 0 and path in again.stderr, f"killed twice: {again.returncode} {again.stderr!r}")
    channel.send("basic.ack", delivery_tag=0, multiple=True)
    equal(channel.count("work"), (0, 1), "ready and consumers")
    other.close()


def test_connections_die_under_load(t):
    """Actors of connections too: their clients see a 320 or the end, come back, and nothing confirmed is lost."""
    node, count = t.node(), 0
    with node.connect() as connection:
        connection.channel().queue("work", durable=True)
    confirmed, seen, first, problems = set(), collections.Counter(), collections.Counter(), []
    publishing, stopping = threading.Event(), threading.Event()
    publishing.set()

    def survive(work):
        while not stopping.is_set():
            try:
                work(node.connect())
            except amqp_raw.closed as close:
                if close.code != 320:
                    problems.append(f"a close: {close}")
                    return
            except (amqp_raw.gone, ConnectionError):
                pass
            except Exception as error:  # whatever else a client sees is a finding
                problems.append(repr(error))
                return

    def publish(connection):
        nonlocal count
        channel = connection.channel()
        channel.call("confirm.select")
        while publishing.is_set():
            first, count = count, count + 10
            for n in range(first, count):
                channel.publish("", "work", b"%d" % n, delivery_mode=2)
            channel.confirm()
            confirmed.update(range(first, count))
        connection.close()
        stopping.wait()

    def consume(connection):
        channel = connection.channel()
        channel.call("basic.qos", prefetch_count=20)
        channel.consume("work")
        while not stopping.is_set():
            try:
                message = channel.wait("basic.deliver", timeout=0.1)
            except TimeoutError:
                continue
            seen[int(message.body)] += 1
            if not message.redelivered:
                first[int(message.body)] += 1
            channel.send("basic.ack", delivery_tag=message.delivery_tag)
        connection.close()

    clients = [threading.Thread(target=survive, args=(work,), daemon=True) for work in (publish, consume, consume)]
    for each in clients:
        each.start()
    killer = arsonist(node, random.Random(t.random.random()), problems.append, spare=(),
                      only=lambda path: path.startswith("/amqp/connections/") or path == queue_path("work"))
    killer.start()
    poll("enough was killed", lambda: problems or killer.kills["connection"] >= 60, 120)
    killer.finish()
    publishing.clear()
    boss = operator(node)

    def listed(*keys):
        return [boss.queues()["work"][key] for key in keys]

    try:
        poll("the queue is empty", lambda: problems or listed("messages") == [0], 30)
    except AssertionError:
        problems.append("messages, ready, unacknowledged, consumers: "
                        f"{listed('messages', 'messages_ready', 'messages_unacknowledged', 'consumers')} after 30 s")
    stopping.set()
    for each in clients:
        each.join(30)
    t.note(f"{dict(killer.kills)} killed, {len(confirmed)} confirmed, {sum(seen.values())} delivered")
    require(not problems, "\n".join(problems[:10]))
    missing = confirmed - set(seen)
    require(not missing, f"{len(missing)} confirmed messages never came, first {sorted(missing)[:5]}")
    twice = [number for number, times in first.items() if times > 1]
    require(not twice, f"{len(twice)} messages came twice without a mark, first {sorted(twice)[:5]}")
    poll("nobody consumes", lambda: listed("messages", "consumers") == [0, 0])
    left = [path for path, each in boss.tree().items() if each["kind"] == "connection"]
    equal(left, [], "connections in the tree")


# --- one actor of each kind -----------------------------------------------------------------------------------------


def fill(channel, queue, first, count, mode=2, size=0):
    channel.call("confirm.select")
    for n in range(first, first + count):
        channel.publish("", queue, b"%d" % n + b" " * size, delivery_mode=mode)
    channel.confirm(timeout=60)


def numbers(messages):
    return [(int(each.body), each.redelivered) for each in messages]


def goes_on(t, *paths):
    """A consumer with unacknowledged messages, and a producer, while these actors are killed again and again."""
    node = t.node()
    boss, due = operator(node), 0
    with node.connect() as consuming, node.connect() as publishing:
        channel, publisher = consuming.channel(), publishing.channel()
        channel.queue("work", durable=True)
        fill(publisher, "work", 0, 40)
        channel.call("basic.qos", prefetch_count=5)
        channel.consume("work")
        for cycle in range(6):
            batch = channel.deliveries(5)
            equal(numbers(batch), [(due + n, False) for n in range(5)], f"cycle {cycle}")
            due += 5
            for path in paths:
                boss.kill_and_wait(path)
            channel.call("basic.qos", prefetch_count=5)
            require(not consuming.inbox[1], "nothing comes before there is an acknowledgement")
            # A return of what it got before, an acknowledgement of the rest.
            channel.send("basic.nack", delivery_tag=batch[4].delivery_tag, requeue=True)
            equal([(int(each.body), each.redelivered) for each in channel.deliveries(1)], [(due - 1, True)], "the returned one")
            channel.send("basic.ack", delivery_tag=0, multiple=True)
            fill(publisher, "work", 40 + cycle, 1)
        while due < 46:
            batch = channel.deliveries(min(5, 46 - due))
            equal(numbers(batch), [(due + n, False) for n in range(len(batch))], "the rest, and what was published meanwhile")
            due += len(batch)
            channel.send("basic.ack", delivery_tag=batch[-1].delivery_tag, multiple=True)
        poll("nothing is left", lambda: boss.queues()["work"]["messages"] == 0)
        equal(publisher.count("work"), (0, 1), "ready and consumers")


def test_consumers_go_on_after_their_queue_was_killed(t):
    goes_on(t, queue_path("work"))


def test_consumers_go_on_after_the_committer_was_killed(t):
    goes_on(t, "/journal")


def test_consumers_go_on_after_the_topology_was_killed(t):
    goes_on(t, "/vhosts/%2F/topology")


def test_consumers_go_on_after_the_supervisors_were_killed(t):
    goes_on(t, "/vhosts/%2F/queues", "/vhosts/%2F", "/vhosts", "/amqp/connections", "/amqp")


def test_consumers_go_on_after_the_listener_was_killed(t):
    goes_on(t, "/amqp/listener")


def test_consumers_go_on_after_everything_was_killed(t):
    goes_on(t, queue_path("work"), "/journal", "/vhosts/%2F/topology", "/vhosts/%2F/queues", "/vhosts", "/amqp",
            "/amqp/listener", queue_path("work"))


def kills_while(t, node, *paths, every=0.002):
    """Kills these actors as fast as the node lets us, until it is told to stop."""
    problems = []
    killer = arsonist(node, random.Random(t.random.random()), problems.append, every=every, only=lambda path: path in paths)
    killer.problems = problems
    killer.start()
    poll("the first kill", lambda: killer.kills or problems)
    return killer


def cycles(killer, at_least, kills):
    """Counts up, at least so far, and until enough actors were killed."""
    cycle, deadline = 0, time.monotonic() + 60
    while cycle < at_least or sum(killer.kills.values()) < kills:
        require(not killer.problems, "\n".join(killer.problems[:5]))
        require(time.monotonic() < deadline, f"only {sum(killer.kills.values())} kills in {cycle} cycles")
        yield cycle
        cycle += 1


def ended(t, killer, at_least=1):
    kills = killer.finish()
    require(not killer.problems, "\n".join(killer.problems[:5]))
    t.note(f"{kills} kills: {dict(killer.kills)}")
    require(kills >= at_least, f"only {kills} kills")


def test_each_basic_get_is_answered_while_its_queue_is_killed(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("work", durable=True)
        killer = kills_while(t, node, queue_path("work"), every=0.005)
        for cycle in cycles(killer, 20, 50):
            fill(channel, "work", 0, 50)
            for _ in range(80):
                channel.send("basic.get", queue="work", no_ack=cycle % 2 == 0)
            answers = [channel.wait("basic.get-ok", "basic.get-empty") for _ in range(80)]
            equal([each.name == "basic.get-ok" and int(each.body) for each in answers], [*range(50), *[False] * 30], "in order")
            equal([each.message_count for each in answers[:50]], list(range(49, -1, -1)), "ready messages behind each")
            if cycle % 2:
                channel.send("basic.ack", delivery_tag=0, multiple=True)
        ended(t, killer, 50)
        equal(channel.count("work"), (0, 0), "the end")


def test_a_backlog_of_50000_outlives_kills(t):
    node, count = t.node(), 50_000
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("work", durable=True)
        killer = kills_while(t, node, queue_path("work"), "/journal", "/vhosts/%2F/queues", every=0.05)
        fill(channel, "work", 0, count)
        equal(channel.count("work")[0], count, "the backlog")
        boss = operator(node)
        boss.kill_and_wait(queue_path("work"))
        channel.call("basic.qos", prefetch_count=500)
        channel.consume("work")
        for at in range(0, count, 250):
            batch = channel.deliveries(250)
            equal(numbers(batch), [(n, False) for n in range(at, at + 250)], "in order, each once")
            channel.send("basic.ack", delivery_tag=batch[-1].delivery_tag, multiple=True)
        ended(t, killer, 10)
        poll("nothing is left", lambda: boss.queues()["work"]["messages"] == 0)


def test_messages_beyond_the_memory_budget_outlive_kills(t):
    node, count, size = t.node(options=["--memory-messages-max", "1MiB"]), 2000, 10_000
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("work", durable=True)
        killer = kills_while(t, node, queue_path("work"), "/journal", every=0.01)
        channel.call("basic.qos", prefetch_count=20)
        for _ in cycles(killer, 1, 30):
            fill(channel, "work", 0, count, size=size)
            channel.consume("work", "c")
            for at in range(0, count, 10):
                batch = channel.deliveries(10)
                equal(numbers(batch), [(n, False) for n in range(at, at + 10)], "in order, each once")
                require(all(len(each.body) == len(b"%d" % (at + n)) + size for n, each in enumerate(batch)), "whole bodies")
                channel.send("basic.ack", delivery_tag=batch[-1].delivery_tag, multiple=True)
            channel.call("basic.cancel", consumer_tag="c")
        ended(t, killer, 30)
        require(operator(node).queues()["work"]["memory"] < 4 << 20, "the budget holds")


def test_purges_and_deletes_while_their_queue_is_killed(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("work", durable=True)
        killer = kills_while(t, node, queue_path("work"), "/journal", "/vhosts/%2F/topology", every=0.01)
        for cycle in cycles(killer, 60, 60):
            count = t.random.randint(0, 100)
            fill(channel, "work", 0, count, mode=t.random.choice((1, 2)))
            # All in one go, so that kills come between.
            how = "queue.delete" if cycle % 3 == 2 else "queue.purge"
            channel.send(how, queue="work")
            channel.send("queue.declare", queue="work", durable=True)
            channel.publish("", "work", b"7", delivery_mode=2)
            channel.send("basic.get", queue="work", no_ack=True)
            equal(channel.wait(how + "-ok").message_count, count, how)
            equal(channel.wait("queue.declare-ok").message_count, 0, "declared again")
            got = channel.wait("basic.get-ok", "basic.get-empty")
            require(got.name == "basic.get-ok" and got.body == b"7", f"cycle {cycle}: {got}")
            channel.confirm()
        ended(t, killer, 10)
        equal(channel.count("work"), (0, 0), "the end")


def test_mandatory_publishes_while_their_queue_is_killed(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("work", durable=True)
        channel.exchange("news", "topic")
        channel.bind("work", "news", "a.#")
        channel.call("confirm.select")
        killer = kills_while(t, node, queue_path("work"), "/vhosts/%2F/topology", every=0.01)
        sent = lost = 0
        for cycle in cycles(killer, 50, 50):
            for n in range(20):
                channel.publish("news", "a.b" if n % 4 else "z", b"%d" % n, mandatory=True, delivery_mode=2)
            waiting, returned = set(range(channel.published - 19, channel.published + 1)), []
            while waiting:
                answer = channel.wait("basic.ack", "basic.nack", "basic.return")
                require(answer.name != "basic.nack", f"cycle {cycle}: a nack")
                if answer.name == "basic.return":
                    returned.append(answer.body)
                else:
                    tag = answer.delivery_tag
                    waiting = {n for n in waiting if n > tag} if answer.multiple else waiting - {tag}
            equal(returned, [b"0", b"4", b"8", b"12", b"16"], f"cycle {cycle}: what no queue takes, and nothing else")
            sent, lost = sent + 20, lost + len(returned)
        ended(t, killer, 50)
        equal(channel.count("work")[0], sent - lost, "what was taken")


def test_confirms_come_once_while_the_committer_is_killed(t):
    node, count = t.node(), 10_000
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("work", durable=True)
        channel.call("confirm.select")
        killer = kills_while(t, node, "/journal", queue_path("work"), every=0.01)
        for n in range(count):
            channel.publish("", "work", b"%d" % n, delivery_mode=2)
        waiting = set(range(1, count + 1))
        while waiting:
            answer = channel.wait("basic.ack", "basic.nack")
            now = {n for n in waiting if n <= answer.delivery_tag} if answer.multiple else waiting & {answer.delivery_tag}
            require(answer.name == "basic.ack" and now, f"{answer} settles nothing, or refuses")
            waiting -= now
        ended(t, killer, 3)
        equal(channel.count("work")[0], count, "each message once")
    node.kill()
    node.start()
    with node.connect() as connection:
        channel = connection.channel()
        channel.consume("work", no_ack=True)
        equal([int(each.body) for each in channel.deliveries(count)], list(range(count)), "after kill -9, each once")


def test_the_declared_stands_while_the_topology_is_killed(t):
    """Queues, exchanges and bindings whose declaration was answered are there, also after kill -9."""
    node, count = t.node(), 100
    with node.connect() as connection:
        channel = connection.channel()
        killer = kills_while(t, node, "/vhosts/%2F/topology", "/journal", "/vhosts/%2F", "/vhosts/%2F/queues", every=0.01)
        for n in range(count):
            channel.queue(f"queue {n}", durable=True)
            channel.exchange(f"exchange {n}", "direct", durable=True)
            channel.bind(f"queue {n}", f"exchange {n}", "k")
            if n % 3 == 0:
                channel.call("queue.delete", queue=f"queue {n}")
        ended(t, killer, 10)
    equal(sorted(operator(node).queues()), sorted(f"queue {n}" for n in range(count) if n % 3), "before")
    node.kill()
    node.start()
    equal(sorted(operator(node).queues()), sorted(f"queue {n}" for n in range(count) if n % 3), "after kill -9")
    with node.connect() as connection:
        channel = connection.channel()
        channel.call("confirm.select")
        for n in range(count):
            channel.publish(f"exchange {n}", "k", b"x", mandatory=True)
        channel.confirm()
        equal([each.exchange for each in connection.inbox[1] if each.name == "basic.return"],
              [f"exchange {n}" for n in range(0, count, 3)], "what leads nowhere")


# --- the whole process too ------------------------------------------------------------------------------------------


def test_kill_9_in_the_midst_of_the_fire(t):
    node, book, killed = t.node(), load.ledger(), 0
    with node.connect() as connection:
        load.declare(connection)
    for number in load.judged_rounds(book, min(t.rounds(6), 50)):
        killer = arsonist(node, random.Random(t.random.random()), book.problem, tolerant=True)
        killer.start()
        crash.one_round(t, node, book, number)
        killed += killer.finish()
        require(not book.problems, f"round {number}: " + "\n".join(book.problems[:20]))
    load.check_all(book, node, time.monotonic(), empty=True)
    require(not book.problems, "\n".join(book.problems[:20]))
    t.note(f"{killed} actors killed, {book.confirmed_count()} confirmed, {book.settled_count()} acknowledged")
    require(killed > 0, "no actor was killed")
    node.terminate()
    verified = t.posthorn("verify", node.data_dir)
    require(verified.returncode == 0, f"verify: {verified.stdout}{verified.stderr}")


def test_sigterm_in_the_midst_of_the_fire(t):
    """A node that is asked to stop while its actors die stops in time and in order."""
    node, book, killed, slowest = t.node(), load.ledger(), 0, 0.0
    with node.connect() as connection:
        load.declare(connection)
    for number in range(1, min(t.rounds(4), 50) + 1):
        chance = random.Random(t.random.random())
        killer = arsonist(node, random.Random(chance.random()), book.problem, every=0.01, tolerant=True)
        wanted = book.confirmed_count() + chance.randint(500, 4000)
        running = load.run_of_load(book, node, chance, number)
        killer.start()
        poll("enough was confirmed", lambda: book.confirmed_count() > wanted or book.problems, 30)
        ended_at = time.monotonic()
        code, took = node.terminate()
        slowest = max(slowest, took)
        running.finish()
        killed += killer.finish()
        equal(code, 0, f"round {number}: the exit code")
        node.start()
        load.check_all(book, node, ended_at, running.order_seen(), chance.random() < 0.5)
        require(not book.problems, f"round {number}: " + "\n".join(book.problems[:20]))
    t.note(f"{killed} actors killed, {book.confirmed_count()} confirmed, {book.settled_count()} acknowledged, "
           f"slowest stop {slowest:.2f} s")
    require(killed > 0, "no actor was killed")
