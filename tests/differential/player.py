"""Plays a sequence on a broker, one method at a time, and writes down every answer.

After each step the player waits until nothing more can happen, without sleeping: it asks on the acting channel for something
that is answered in order (the cancel of a tag that nobody has), then for the counts of every queue as often as a dead letter
could travel on, then once more on every channel. What is written down is in an order that does not depend on chance: what
comes to one consumer stays as it came, what comes to different ones is sorted by their tags, and confirms are a set.
"""
import os
import re
import sys
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

import amqp_raw  # noqa: E402  (the raw client of the end-to-end tests)
from amqp_raw import typed  # noqa: E402

ANSWER_WITHIN = 10.0  # seconds: for what the protocol promises
EVENT_WITHIN = 3.0    # seconds: for a confirm or a server's cancel
AGREE_WITHIN = 1.0    # seconds: until a broker must have done what the expected transcript says
CALM = 0.005          # seconds in which nothing changes, before RabbitMQ counts as quiet while it is recorded,
QUORUM_CALM = 0.150   # and if there are quorum queues
CALM_ROUNDS = 4       # and so often asked without a change
AT_ONCE = {"queue.declare", "queue.bind", "queue.unbind", "exchange.declare", "exchange.bind", "exchange.unbind", "basic.qos",
           "confirm.select", "tx.select"}  # what is over when it is answered

SERVER_NAME = re.compile(r"amq\.(gen|ctag)-[A-Za-z0-9_-]+")
REPLY_NAME = re.compile(r"amq\.rabbitmq\.reply-to\.(?!none)[^'\s]+")
for _name, _method in (("tx.rollback", 30), ("tx.rollback-ok", 31)):
    amqp_raw.METHODS.setdefault(_name, (90, _method, []))
    amqp_raw.NAMES.setdefault((90, _method), _name)
SYNC = amqp_raw.method_payload("basic.cancel", consumer_tag="sync")
CONTROL = 9  # the channel, on each connection, on which the player itself asks


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def may_change(line):
    """Whether a line of a step that is not over can still become another one.

    When a broker ends a connection, it says so before the connection's exclusive queues are gone.
    """
    return " ready, " in line or ": confirmed " in line or ": refused " in line or re.match(r"~\S+: 405 ", line) is not None


class blocked(Exception):
    """The broker has raised an alarm: whatever this sequence has shown, it is to be played again."""


class open_channel:
    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.label = connection.index * 10 + number
        self.mode, self.published, self.unconfirmed, self.bodies = None, 0, set(), {}
        self.last_tag = 0
        self.held = []       # [window, consumer or "get", tag, queue], of what is not settled
        self.undone = []     # what a rollback gives back
        self.consumers = {}  # tag -> (queue, no_ack)
        self.window_queues = {}


class open_connection:
    def __init__(self, index, port):
        self.index, self.raw = index, amqp_raw.connection(port).open()
        self.channels, self.control_open, self.alive = {}, False, True


class player:
    """One playing of one sequence.

    With an expected transcript, the player waits until the broker agrees with it or a second has passed, and stops at the first
    step that `judge(expected lines, lines)` calls "different" (or goes on to the end, with `stop_early=False`). Without one it
    is `patient` with quorum queues, which tell their counts before they have applied what was sent to them.
    """

    def __init__(self, port, steps, prefix, expected=None, judge=None, stop_early=True, patience=1.0):
        self.patience = patience
        self.port, self.steps, self.prefix, self.expected = port, steps, prefix, expected
        self.patient, self.stop_early = expected is None, stop_early
        self.judge = judge or (lambda expected, lines: "same" if expected == lines else "different")
        self.connections, self.names, self.texts, self.reply = {}, {}, {}, "amq.rabbitmq.reply-to.none"
        self.polled, self.owner, self.quorum, self.counts, self.declared = [], {}, set(), {}, []
        self.depth = 1 + sum("x-dead-letter-exchange" in (s[2].get("arguments") or {}) for s in steps
                             if s[1] == "queue.declare")
        self.window, self.events, self.cancelled = 0, [], []

    # Names: what the sequence says, what the broker hears, and back.

    def real(self, value):
        if isinstance(value, str):
            if value.startswith("~"):
                return self.prefix + value[1:]
            if value == "$reply":
                return self.reply
            return self.names.get(value, value)
        if isinstance(value, dict):
            if "!" in value:
                inner = value["v"]
                if value["!"] == "x":
                    inner = bytes.fromhex(inner)
                return typed(value["!"], tuple(inner) if value["!"] == "D" else inner)
            return {k: self.real(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.real(v) for v in value]
        return value

    def shown(self, text):
        text = text.replace(self.prefix, "~")
        if "amq." in text:
            for name, short in self.texts.items():
                text = text.replace(name, short)
            text = SERVER_NAME.sub(r"amq.\1-*", text)
            text = REPLY_NAME.sub("$reply", text)
        return text

    def show_value(self, value, inside=""):
        if isinstance(value, typed):
            if value.letter == "T" and inside == "x-death.time":
                return "T*"
            if value.letter == "x":
                return "x" + value.value.hex()
            return f"{value.letter}{value.value}"
        if isinstance(value, bool):
            return "true" if value else "false"
        if value is None:
            return "void"
        if isinstance(value, str):
            return quoted(self.shown(value))
        if isinstance(value, list):
            return "[" + ", ".join(self.show_value(v, inside) for v in value) + "]"
        if isinstance(value, dict):
            deep = inside + "." if inside else ""
            return "{" + ", ".join(f"{k}={self.show_value(v, deep + k)}" for k, v in sorted(value.items())) + "}"
        return str(value)

    def show_content(self, method):
        body = bytes(method.body)
        name = body.split(b".")[0].decode("latin-1")
        size = len(body) - len(name)
        whole = body == name.encode("latin-1") + b"." * size
        parts = [name if whole else f"BODY {zlib.crc32(body):08x} of {len(body)}", f"+{size}"]
        for key, value in method.properties.items():
            parts.append(f"{key}={self.show_value(value)}")
        return " ".join(parts)

    # Events. Each is (channel, rank, key, text); sorting them takes chance out of their order.

    def event(self, label, rank, text, key=""):
        self.events.append((label, rank, key, text))

    def on_method(self, channel, method):
        name, label = method.name, channel.label
        if name == "basic.deliver":
            known = channel.consumers.get(method.consumer_tag)
            tag = self.shown(method.consumer_tag)
            queue = known[0] if known else "?"
            odd = self.odd_tag(channel, method.delivery_tag)
            if known is None:
                odd += " TO NO CONSUMER"
            elif not known[1]:
                self.hold(channel, "c " + tag, method.delivery_tag, queue)
            self.note_reply(method)
            self.event(label, 4, f"deliver to {tag}: {self.show_delivery(method)}{odd}", tag)
        elif name == "basic.return":
            odd = ""
            number = channel.bodies.get(bytes(method.body))
            if number is not None and channel.mode == "confirm" and number not in channel.unconfirmed:
                odd = " AFTER ITS CONFIRM"
            self.event(label, 2, f"return {method.reply_code} {method.reply_text} x={quoted(self.shown(method.exchange))} "
                       f"key={quoted(self.shown(method.routing_key))} {self.show_content(method)}{odd}")
        elif name in ("basic.ack", "basic.nack"):
            covered = {n for n in channel.unconfirmed if n <= method.delivery_tag} if method.multiple else (
                {method.delivery_tag} & channel.unconfirmed)
            if not covered:
                self.event(label, 3, f"{name} {method.delivery_tag} CONFIRMS NOTHING")
            channel.unconfirmed -= covered
            self.events += [(label, 3, n, "confirmed" if name == "basic.ack" else "refused") for n in covered]
        elif name == "basic.cancel":
            channel.consumers.pop(method.consumer_tag, None)
            self.event(label, 5, f"the server cancels {self.shown(method.consumer_tag)}", self.shown(method.consumer_tag))
        else:
            self.event(label, 6, f"{name} {self.show_value(method.arguments)}")

    def show_delivery(self, method):
        return (f"x={quoted(self.shown(method.exchange))} key={quoted(self.shown(method.routing_key))}"
                f"{' redelivered' if method.redelivered else ''} {self.show_content(method)}")

    def odd_tag(self, channel, tag):
        odd = "" if tag == channel.last_tag + 1 else f" WITH DELIVERY TAG {tag} AFTER {channel.last_tag}"
        channel.last_tag = tag
        return odd

    def hold(self, channel, whose, tag, queue):
        channel.held.append([self.window, whose, tag, queue])
        channel.window_queues.setdefault(self.window, set()).add(queue)

    def note_reply(self, method):
        reply = method.properties.get("reply_to", "")
        if reply.startswith("amq.rabbitmq.reply-to."):
            self.reply = reply

    def lines(self, answers):
        """What this step has shown so far, in its canonical order."""
        lines, confirms = list(answers), {}
        for label, rank, key, text in sorted(self.events, key=lambda e: (e[0], e[1], e[2] if e[1] in (4, 5) else "")):
            if rank == 3 and isinstance(key, int):
                confirms.setdefault((label, text), []).append(key)
            else:
                lines.append(f"{label}: {text}")
        lines += [f"{label}: {text} {', '.join(map(str, sorted(numbers)))}" for (label, text), numbers in
                  sorted(confirms.items())]
        for queue in self.polled_ever():
            if self.counts.get(queue) != self.shown_counts.get(queue):
                lines.append(f"{self.shown(queue)}: {self.counts.get(queue)}")
        return lines

    def polled_ever(self):
        return sorted(set(self.counts) | set(self.shown_counts), key=self.shown)

    # Reading.

    def sort_inbox(self, connection):
        """Hands all that has arrived, except answers, to on_method; returns a close of the connection, if there is one."""
        for number, box in list(connection.raw.inbox.items()):
            if number in (0, CONTROL):
                continue
            channel = connection.channels.get(number)
            if channel is None:
                box.clear()
                continue
            keep = []
            while box:
                method = box.popleft()
                if method.name in ("basic.deliver", "basic.return", "basic.ack", "basic.nack", "basic.cancel",
                                   "basic.credit-drained", "channel.flow"):
                    self.on_method(channel, method)
                else:
                    keep.append(method)
            box.extend(keep)
        for method in connection.raw.inbox[0]:
            if method.name == "connection.close":
                return method
            if method.name == "connection.blocked":
                raise blocked(f"the broker is {method.reason}")
        return None

    def lost(self, connection, why):
        # What still came to its channels came by chance: they end in any order.
        self.events = [e for e in self.events if e[0] // 10 != connection.index or e[1] != 4]
        self.event(connection.index * 10, 1, why)
        connection.alive = False
        connection.raw.drop()
        self.connections.pop(connection.index, None)

    def check_connection(self, connection):
        close = self.sort_inbox(connection)
        if close is None:
            return True
        try:
            connection.raw.send(0, "connection.close-ok")
            connection.raw.wait_gone(2)
        except (amqp_raw.gone, TimeoutError, OSError):
            pass
        self.lost(connection, f"connection.close {close.reply_code} {self.shown(close.reply_text)} "
                  f"({close.class_id}, {close.method_id})")
        return False

    def pump(self, connection, deadline):
        """Reads a frame; False if the connection is gone. A node that says nothing in time is a TimeoutError."""
        try:
            connection.raw.pump(max(0.001, deadline - time.monotonic()))
        except amqp_raw.gone:
            if self.check_connection(connection):
                self.lost(connection, "the connection ends without a close")
            return False
        return self.check_connection(connection)

    def wait(self, channel, *names):
        """The next answer on the channel that has one of these names; None, if channel or connection is closed instead."""
        deadline = time.monotonic() + ANSWER_WITHIN
        connection = channel.connection
        box = connection.raw.inbox[channel.number]
        while connection.alive:
            if not self.check_connection(connection):
                return None
            for method in box:
                if method.name in names:
                    box.remove(method)
                    return method
                if method.name == "channel.close":
                    box.remove(method)
                    self.channel_closed(channel, method)
                    return None
            try:
                if not self.pump(connection, deadline):
                    return None
            except TimeoutError:
                self.lost(connection, f"NO ANSWER on channel {channel.label} within {ANSWER_WITHIN:g} s, instead of "
                          f"{' or '.join(names)}")
                return None
        return None

    def channel_closed(self, channel, method):
        # Which confirms still came before the close is chance.
        self.events = [e for e in self.events if e[0] != channel.label or e[1] != 3]
        self.event(channel.label, 1, f"channel.close {method.reply_code} {self.shown(method.reply_text)} "
                   f"({method.class_id}, {method.method_id})")
        channel.connection.channels.pop(channel.number, None)
        self.send(channel.connection, channel.number, amqp_raw.method_payload("channel.close-ok"))

    def send(self, connection, number, payload):
        try:
            connection.raw.send_raw(amqp_raw.frame(amqp_raw.FRAME_METHOD, number, payload))
        except (amqp_raw.gone, OSError):
            pass  # reading says why

    # Connections and channels come when they are first needed, and again after they were closed.

    def connection(self, index):
        if index not in self.connections:
            self.connections[index] = open_connection(index, self.port)
        return self.connections[index]

    def channel(self, label):
        connection, number = self.connection(label // 10), label % 10
        if number not in connection.channels:
            connection.raw.inbox[number].clear()
            connection.channels[number] = made = open_channel(connection, number)
            self.send(connection, number, amqp_raw.method_payload("channel.open"))
            self.wait(made, "channel.open-ok")
        return connection.channels.get(number)

    # Quiescence.

    def synchronise(self, channels):
        """Each channel has answered all that came before."""
        for channel in channels:
            self.send(channel.connection, channel.number, SYNC)
        for channel in channels:
            if channel.connection.alive and channel.connection.channels.get(channel.number) is channel:
                self.wait(channel, "basic.cancel-ok")

    def open_channels(self):
        return [c for connection in list(self.connections.values()) for c in list(connection.channels.values())]

    def poll_counts(self):
        """Asks for each queue's counts. A queue that is gone closes the channel of the asking, and the rest is asked again."""
        for index in (0, 1):
            mine = [q for q in self.polled if (self.owner.get(q) or 0) == index]
            while mine:
                connection = self.connection(index)
                if not connection.control_open:
                    connection.raw.inbox[CONTROL].clear()
                    self.send(connection, CONTROL, amqp_raw.method_payload("channel.open"))
                    connection.control_open = True
                else:
                    for queue in mine:
                        self.send(connection, CONTROL, amqp_raw.method_payload("queue.declare", queue=queue, passive=True))
                    mine = self.read_counts(connection, mine)
        return dict(self.counts)

    def read_counts(self, connection, asked):
        left, deadline = list(asked), time.monotonic() + ANSWER_WITHIN
        box = connection.raw.inbox[CONTROL]
        while left and connection.alive:
            while box:
                method = box.popleft()
                if method.name == "queue.declare-ok":
                    self.counts[left.pop(0)] = f"{method.message_count} ready, {method.consumer_count} consumers"
                elif method.name == "channel.close":
                    queue = left.pop(0)
                    self.counts[queue] = "gone" if method.reply_code == 404 else f"{method.reply_code} {method.reply_text}"
                    if method.reply_code != 405:  # of a connection that the broker is ending
                        self.polled.remove(queue)
                    self.send(connection, CONTROL, amqp_raw.method_payload("channel.close-ok"))
                    connection.control_open = False
                    return left
            if left:
                try:
                    self.pump(connection, deadline)
                except TimeoutError:
                    self.lost(connection, "NO ANSWER to a passive declare")
        if not connection.alive and left:
            raise AssertionError(f"the broker ended the connection that asked for counts: {self.events[-1:]}")
        return left

    def settle(self, calm=0.0):
        """Waits until the broker is quiet, and has shown nothing new for so many seconds.

        Without an expected transcript the calm is needed: RabbitMQ answers a question for counts before the messages that
        came to the queue earlier, and a quorum queue answers before it has applied them.
        """
        self.await_confirms()
        calm_since, seen, rounds, same = time.monotonic(), None, 0, 0
        while rounds < self.depth or (calm and (same < CALM_ROUNDS * self.patience or time.monotonic() - calm_since < calm)):
            self.poll_counts()
            rounds += 1
            if calm:
                self.synchronise(self.open_channels())
            if calm and self.quorum:
                time.sleep(0.015)  # between two questions
            now = (dict(self.counts), len(self.events))
            same += 1
            if now != seen:
                calm_since, seen, same = time.monotonic(), now, 0
            elif not calm and rounds > 2:
                break
        self.synchronise(self.open_channels())
        self.await_cancels()
        for connection in list(self.connections.values()):
            self.check_connection(connection)

    def await_confirms(self):
        deadline = time.monotonic() + EVENT_WITHIN
        for channel in self.open_channels():
            while channel.unconfirmed and channel.connection.alive and (
                    channel.connection.channels.get(channel.number) is channel):
                try:
                    if not self.pump(channel.connection, deadline):
                        break
                except TimeoutError:
                    self.event(channel.label, 3, f"NEVER CONFIRMED: {sorted(channel.unconfirmed)}")
                    channel.unconfirmed.clear()
                self.synchronise([channel] if any(m.name == "channel.close" for m in channel.connection.raw.inbox[
                    channel.number]) else [])

    def await_cancels(self):
        """The consumers of a queue that is gone hear of it, a little later than everybody else."""
        deadline = time.monotonic() + EVENT_WITHIN
        for channel in self.open_channels():
            for tag, (queue, _) in list(channel.consumers.items()):
                while tag in channel.consumers and self.counts.get(queue) == "gone" and channel.connection.alive:
                    try:
                        if not self.pump(channel.connection, deadline):
                            break
                    except TimeoutError:
                        self.event(channel.label, 5, f"NO CANCEL for {self.shown(tag)}, whose queue is gone", tag)
                        del channel.consumers[tag]

    # Steps.

    def play(self):
        """The transcript: for each step, its lines."""
        transcript = []
        self.shown_counts = {}
        try:
            for index, (label, method, arguments) in enumerate(self.steps):
                self.window, self.events = self.window + 1, []
                answers = self.step(label, method, arguments)
                self.settle(self.calm(method) if answers != [f"{label}: holds nothing"] else 0.0)
                lines = self.lines(answers)
                wanted = self.expected[index] if self.expected is not None else None
                if wanted is not None:
                    lines = self.agree(answers, lines, wanted)
                self.shown_counts = dict(self.counts)
                transcript.append(lines)
                if wanted is not None and lines != wanted:
                    verdict = self.judge(wanted, lines)
                    if verdict == "same":
                        continue
                    if self.stop_early or verdict == "stop":
                        break
                    self.expected = None
        finally:
            self.clean_up()
        return transcript

    def calm(self, method):
        if not self.patient or (method in AT_ONCE and not self.events):
            return 0.0
        return self.patience * (QUORUM_CALM if self.quorum else CALM)

    def agree(self, answers, lines, expected):
        """A broker may take its time, but not for ever; and what it said, it said."""
        deadline, pause = time.monotonic() + AGREE_WITHIN, 0.001
        while lines != expected and self.judge(expected, lines) == "different" and time.monotonic() < deadline:
            if any(each not in expected for each in lines if not may_change(each)):
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
            self.settle()
            lines = self.lines(answers)
        return lines

    def step(self, label, method, arguments):
        channel = self.channel(label)
        if channel is None:
            return []
        if method == "publish":
            return self.publish(channel, arguments["messages"])
        if method.startswith("settle."):
            return self.acknowledge(channel, method.split(".")[1], arguments)
        if method == "drain":
            return self.drain(channel, arguments["queue"])
        return self.call(channel, method, arguments)

    def call(self, channel, method, arguments):
        wanted = {k: self.real(v) for k, v in arguments.items() if k != "as"}
        if method == "connection.close":
            return self.close_connection(channel.connection, wanted)
        self.remember(method, arguments, wanted)
        try:
            payload = amqp_raw.method_payload(method, **wanted)
        except ValueError as error:
            raise AssertionError(f"a step that cannot be sent: {method} {arguments}: {error}") from error
        if method == "basic.consume":  # deliveries may overtake the player, but not consume-ok
            return self.consume(channel, payload, arguments, wanted)
        self.send(channel.connection, channel.number, payload)
        if method in ("basic.ack", "basic.nack", "basic.reject", "basic.recover-async"):
            if method == "basic.recover-async":
                channel.held.clear()
            elif wanted.get("delivery_tag") == 0:
                self.release(channel, lambda each: True)
            self.synchronise([channel])
            return []
        answers = {"basic.get": ("basic.get-ok", "basic.get-empty")}.get(method, (method + "-ok",))
        if method == "exchange.unbind":
            answers = ("exchange.unbind-ok",)
        if method in ("basic.recover",):
            held, channel.held = channel.held, []
        answer = self.wait(channel, *answers)
        if answer is None:
            return []
        return [f"{channel.label}: {self.show_answer(channel, answer, arguments, wanted)}"]

    def remember(self, method, arguments, wanted):
        if method == "queue.declare" and not wanted.get("passive") and wanted["queue"].startswith(self.prefix):
            self.declares(wanted["queue"], wanted)
        if method == "exchange.declare" and not wanted.get("passive"):
            self.declared.append(("exchange", wanted["exchange"]))

    def declares(self, queue, wanted):
        self.declared.append(("queue", queue))
        if (wanted.get("arguments") or {}).get("x-queue-type") == "quorum":
            self.quorum.add(queue)

    def show_answer(self, channel, answer, arguments, wanted):
        name = answer.name
        if name == "queue.declare-ok":
            if "as" in arguments:
                self.names[arguments["as"]] = answer.queue
                if answer.queue.startswith("amq.gen-"):
                    self.texts[answer.queue] = arguments["as"]
                else:
                    return f"queue.declare-ok {answer.queue}, A NAME NOT LIKE amq.gen-…"
            if not wanted.get("passive") and (answer.queue.startswith(self.prefix) or answer.queue.startswith("amq.gen-")):
                if answer.queue not in self.polled:
                    self.polled.append(answer.queue)
                    self.owner[answer.queue] = channel.connection.index if wanted.get("exclusive") else None
                if "as" in arguments:
                    self.declares(answer.queue, wanted)
            return f"queue.declare-ok {self.shown(answer.queue)} {answer.message_count} ready, {answer.consumer_count} consumers"
        if name == "basic.get-ok":
            odd = self.odd_tag(channel, answer.delivery_tag)
            if not wanted.get("no_ack"):
                self.hold(channel, "get", answer.delivery_tag, wanted["queue"])
            self.note_reply(answer)
            return f"get-ok {self.show_delivery(answer)}, {answer.message_count} left{odd}"
        if name == "basic.cancel-ok":
            channel.consumers.pop(answer.consumer_tag, None)
            return f"cancel-ok {self.shown(answer.consumer_tag)}"
        if name in ("tx.select-ok", "confirm.select-ok"):
            if channel.mode is None:
                channel.published = 0  # confirms are numbered from here on
            channel.mode = name.split(".")[0]
        if name == "tx.commit-ok":
            channel.undone = []
        if name == "tx.rollback-ok":
            channel.held += channel.undone
            channel.undone = []
        if name == "channel.close-ok":
            channel.connection.channels.pop(channel.number, None)
        values = {k: v for k, v in answer.arguments.items() if v not in ("", b"")}
        return name + (" " + self.show_value(values) if values else "")

    def consume(self, channel, payload, arguments, wanted):
        """The consumer is known before its first delivery is looked at."""
        self.send(channel.connection, channel.number, payload)
        connection, deadline = channel.connection, time.monotonic() + ANSWER_WITHIN
        box = connection.raw.inbox[channel.number]
        while True:
            for at, method in enumerate(box):
                if method.name == "basic.consume-ok":
                    early = [m for m in list(box)[:at] if m.name == "basic.deliver" and m.consumer_tag == method.consumer_tag]
                    channel.consumers[method.consumer_tag] = (wanted["queue"], wanted.get("no_ack", False))
                    if "as" in arguments:
                        self.names[arguments["as"]] = method.consumer_tag
                        self.texts[method.consumer_tag] = arguments["as"]
                        if not method.consumer_tag.startswith("amq.ctag-"):
                            self.event(channel.label, 0, "A TAG NOT LIKE amq.ctag-…")
                    box.remove(method)
                    late = " AFTER A DELIVERY" if early else ""
                    return [f"{channel.label}: consume-ok {self.shown(method.consumer_tag)}{late}"]
                if method.name == "channel.close":
                    self.wait(channel, "basic.consume-ok")
                    return []
            if any(m.name != "connection.unblocked" for m in connection.raw.inbox[0]):
                self.wait(channel, "basic.consume-ok")
                return []
            try:
                connection.raw.pump(max(0.001, deadline - time.monotonic()))
            except amqp_raw.gone:
                if self.check_connection(connection):
                    self.lost(connection, "the connection ends without a close")
                return []
            except TimeoutError:
                self.lost(connection, "NO ANSWER to basic.consume")
                return []

    def close_connection(self, connection, wanted):
        self.send(connection, 0, amqp_raw.method_payload("connection.close", **wanted))
        deadline, answer = time.monotonic() + ANSWER_WITHIN, []
        while connection.alive:
            if any(m.name == "connection.close-ok" for m in connection.raw.inbox[0]):
                answer = [f"{connection.index * 10}: connection.close-ok"]
                break
            if not self.pump(connection, deadline):
                return answer
        connection.alive = False
        connection.raw.drop()
        self.connections.pop(connection.index, None)
        return answer

    def publish(self, channel, messages):
        data = b""
        for message in messages:
            body = message["body"].encode() if message["size"] else b""
            if message["size"] > len(body):
                body += b"." * (message["size"] - len(body))
            properties = self.real(message["properties"])
            data += amqp_raw.publish_frames(self.real(message["exchange"]), self.real(message["routing_key"]), body, properties,
                                            channel.number, channel.connection.raw.frame_max, message.get("mandatory", False),
                                            message.get("immediate", False))
            channel.published += 1
            channel.bodies[body] = channel.published
            if channel.mode == "confirm":
                channel.unconfirmed.add(channel.published)
        try:
            channel.connection.raw.send_raw(data)
        except (amqp_raw.gone, OSError):
            pass
        self.synchronise([channel])
        return []

    def release(self, channel, chosen):
        gone = [each for each in channel.held if chosen(each)]
        channel.held = [each for each in channel.held if not chosen(each)]
        if channel.mode == "tx":
            channel.undone += gone

    def acknowledge(self, channel, kind, arguments):
        held = sorted(channel.held)
        multiple = arguments.get("multiple", False)
        if not held:
            return [f"{channel.label}: holds nothing"]
        if arguments["pick"] == "all":
            tag, text = 0, "all"
            self.release(channel, lambda each: True)
        else:
            chosen = held[arguments["pick"] % len(held)]
            tag = chosen[2]
            text = f"number {held.index(chosen) + 1} of {len(held)}"
            if multiple:
                if len(channel.window_queues[chosen[0]]) > 1:  # tags within a window may be in any order between queues
                    tag = max(each[2] for each in held if each[0] == chosen[0])
                self.release(channel, lambda each: each[2] <= tag)
            else:
                self.release(channel, lambda each: each[2] == tag)
        wanted = {"delivery_tag": tag}
        if kind != "reject":
            wanted["multiple"] = multiple
        if kind != "ack":
            wanted["requeue"] = arguments.get("requeue", False)
        self.send(channel.connection, channel.number, amqp_raw.method_payload("basic." + kind, **wanted))
        self.synchronise([channel])
        return [f"{channel.label}: {kind} {text}"]

    def drain(self, channel, queue):
        """Everything that is ready in a queue, read to its end."""
        lines = []
        for _ in range(60):
            wanted = {"queue": self.real(queue), "no_ack": True}
            self.send(channel.connection, channel.number, amqp_raw.method_payload("basic.get", **wanted))
            answer = self.wait(channel, "basic.get-ok", "basic.get-empty")
            if answer is None:
                break
            lines.append(f"{channel.label}: {self.show_answer(channel, answer, {}, wanted)}")
            if answer.name == "basic.get-empty":
                break
            if self.depth > 1:
                self.settle(self.calm("drain"))
        return lines

    def clean_up(self):
        """Leaves nothing on the broker."""
        for index in (1, 0):
            if index in self.connections:
                self.connections.pop(index).raw.close()
        names = list(dict.fromkeys(n for n in self.declared if n[1].startswith((self.prefix, "amq.gen-"))))
        if not names:
            return
        with amqp_raw.connection(self.port).open() as raw:
            channel = None
            for kind, name in names:
                channel = channel or raw.channel(1)
                try:
                    channel.call(f"{kind}.delete", **{kind: name})
                except amqp_raw.closed:
                    channel = None
