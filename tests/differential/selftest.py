"""The proof that the differential test can fail.

A broker that is nearly right is imitated twice. Once from the recording alone: each line of each transcript is changed in
every way that a mistake could change it, and the comparison must see it. And once with a broker (`--port` or `--posthornd`):
the player itself sends something slightly wrong, as if the broker had misunderstood, and sequences that were the same before
must differ.
"""
import copy
import json
import re
import tempfile

import player
import transcript


def change(pattern, text, count=1):
    """Changes a line: the new one, or None where there is nothing to change."""
    def changed(line):
        new = re.sub(pattern, text, line, count)
        return new if new != line else None
    return changed


LINES = {
    "a count is one too high": change(r"\b(\d+) ready", lambda m: f"{int(m.group(1)) + 1} ready"),
    "a consumer is not counted": change(r"\b[1-9]\d* consumers", "0 consumers"),
    "a code is another": change(r"close (\d)\d\d ", r"close \g<1>99 "),
    "a text ends differently": change(r"(close .*) \((\d+, \d+)\)$", r"\1. (\2)"),
    "another method is blamed": change(r"\((\d+), \d+\)$", r"(\1, 99)"),
    "redelivered is forgotten": change(r" redelivered ", " "),
    "redelivered comes without a reason": change(r"(key='[^']*') m", r"\1 redelivered m"),
    "a header's integer is wider": change(r"=I(-?\d+)", r"=l\1"),
    "a count of deaths is another type": change(r"count=l", "count=I"),
    "a header is lost": change(r"headers=\{[^{}=]+=[^{},]+, ", "headers={"),
    "the delivery mode is lost": change(r" delivery_mode=\d", ""),
    "another message comes": change(r"\bm(\d+) \+", lambda m: f"m{int(m.group(1)) + 1} +"),
    "a body is longer": change(r"(\bm\d+) \+(\d+)", lambda m: f"{m.group(1)} +{int(m.group(2)) + 1}"),
    "a confirm is a refusal": change(": confirmed ", ": refused "),
    "a reason is another": change("reason='(rejected|expired|maxlen|delivery_limit)'", "reason='other'"),
    "a message is not there": change(r": get-ok .*", ": basic.get-empty"),
    "a delivery goes to another consumer": change(r"deliver to \S+:", "deliver to other:"),
}


def steps_of(rows):
    for row in rows:
        for index, lines in enumerate(row["answers"]):
            yield row, index, lines


def changed_lines(name, rows):
    for row, _, lines in steps_of(rows):
        for at, line in enumerate(lines):
            new = LINES[name](line)
            if new is not None:
                yield row, lines, lines[:at] + [new] + lines[at + 1:]


def lost_lines(rows):
    for row, _, lines in steps_of(rows):
        for at in range(len(lines)):
            yield row, lines, lines[:at] + lines[at + 1:]


def doubled_deliveries(rows):
    for row, _, lines in steps_of(rows):
        for at, line in enumerate(lines):
            if ": deliver to " in line:
                yield row, lines, lines[:at] + [line] + lines[at:]


def swapped_deliveries(rows):
    for row, _, lines in steps_of(rows):
        for at in range(len(lines) - 1):
            if ": deliver to " in lines[at] and lines[at].split(":")[:2] == lines[at + 1].split(":")[:2] and (
                    lines[at] != lines[at + 1]):
                yield row, lines, lines[:at] + [lines[at + 1], lines[at]] + lines[at + 2:]


def in_the_comparison(suite, rows):
    """Whether each possible mistake is seen; the table of intended differences must hardly hide any."""
    mistakes = {name: (lambda name=name: changed_lines(name, rows)) for name in LINES}
    mistakes |= {"a line is missing": lambda: lost_lines(rows), "a delivery comes twice": lambda: doubled_deliveries(rows),
                 "two deliveries are swapped": lambda: swapped_deliveries(rows)}
    empty = copy.copy(suite.table)
    empty.entries, failed = [], 0
    for name, all_of in mistakes.items():
        made = seen = hidden = 0
        for row, right, wrong in all_of():
            made += 1
            seen += empty.judge(right, wrong, row["features"]) == "different"
            hidden += suite.table.judge(right, wrong, row["features"]) != "different"
        fine = made > 0 and seen == made and hidden <= made * 0.02
        failed += not fine
        print(f"{'ok    ' if fine else 'FAILED'}  {name}: {seen} of {made} seen, {hidden} hidden by the table")
    return failed


def in_the_table():
    """Whether the table of intended differences excuses what it says, and no more."""
    entry = {"name": "shorter", "reason": "only to see that the table works", "feature": "ttl",
             "recorded": r"1: channel\.close 406 (?P<q>~q\d+) is wrong", "here": r"1: channel\.close 406 (?P<q>~q\d+)"}
    gone = {"name": "gone", "reason": "only to see that the table works", "recorded": r"1: basic\.get-empty", "here": None,
            "after": "stop"}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([entry, gone], file)
        file.flush()
        table = transcript.intended(file.name)
    wrong, short = "1: channel.close 406 ~q1 is wrong", "1: channel.close 406 ~q1"
    cases = [("what is intended", [wrong], [short], ["ttl"], "same"),
             ("what is intended, in a sequence without the feature", [wrong], [short], ["dlx"], "different"),
             ("what is intended, about another queue", [wrong], [short.replace("q1", "q2")], ["ttl"], "different"),
             ("what is intended, and something else", [wrong, "2: x"], [short, "2: y"], ["ttl"], "different"),
             ("the other way round", [short], [wrong], ["ttl"], "different"),
             ("a line that may be missing", ["1: basic.get-empty"], [], [], "stop"),
             ("a line that may not", ["1: basic.get-ok"], [], [], "different")]
    failed = 0
    for name, left, right, features, verdict in cases:
        fine = table.judge(left, right, features) == verdict
        failed += not fine
        print(f"{'ok    ' if fine else 'FAILED'}  the table: {name} is {verdict}")
    fine = table.used == {"shorter", "gone"}
    print(f"{'ok    ' if fine else 'FAILED'}  the table: what was used is known")
    return failed + (not fine)


class saboteur(player.player):
    """A player whose broker seems to misunderstand."""

    def send(self, connection, number, payload):
        payload = self.twisted(payload)
        if payload is not None:
            super().send(connection, number, payload)

    def twisted(self, payload):
        return payload


class forgets_acknowledgements(saboteur):
    def twisted(self, payload):
        return None if payload[:4] == b"\0\x3c\0\x50" else payload


class turns_requeue_around(saboteur):
    def twisted(self, payload):
        if payload[:4] == b"\0\x3c\0\x5a":
            return payload[:-1] + bytes([payload[-1] ^ 1])
        if payload[:4] == b"\0\x3c\0\x78":
            return payload[:-1] + bytes([payload[-1] ^ 2])
        return payload


class loses_a_message(saboteur):
    def publish(self, channel, messages):
        return super().publish(channel, messages[:-1])


class doubles_a_message(saboteur):
    def publish(self, channel, messages):
        return super().publish(channel, messages + messages[-1:])


class publishes_backwards(saboteur):
    def publish(self, channel, messages):
        return super().publish(channel, messages[::-1])


class forgets_a_header(saboteur):
    def publish(self, channel, messages):
        return super().publish(channel, [{**m, "properties": {k: v for k, v in m["properties"].items() if k != "headers"}}
                                         for m in messages])


class forgets_queue_arguments(saboteur):
    def call(self, channel, method, arguments):
        if method == "queue.declare" and not arguments.get("passive"):
            arguments = {**arguments, "arguments": {}}
        return super().call(channel, method, arguments)


class binds_elsewhere(saboteur):
    def call(self, channel, method, arguments):
        if method in ("queue.bind", "exchange.bind"):
            arguments = {**arguments, "routing_key": arguments["routing_key"] + "x"}
        return super().call(channel, method, arguments)


class ignores_prefetch(saboteur):
    def call(self, channel, method, arguments):
        if method == "basic.qos":
            arguments = {**arguments, "prefetch_count": 0}
        return super().call(channel, method, arguments)


class closes_without_asking(saboteur):
    def call(self, channel, method, arguments):
        if method == "basic.recover":
            arguments = {"requeue": False}
        return super().call(channel, method, arguments)


SABOTEURS = [forgets_acknowledgements, turns_requeue_around, loses_a_message, doubles_a_message, publishes_backwards,
             forgets_a_header, forgets_queue_arguments, binds_elsewhere, ignores_prefetch, closes_without_asking]


def on_a_broker(suite, options, rows):
    failed, expected = 0, {row["seed"]: row["answers"] for row in rows}
    with suite.broker(options) as port:
        def differing(some, kind, number):
            answers, errors, _ = suite.play_all(options, port, some, expected, number, kind)
            return {seed for _, seed, _ in suite.compare(some, expected, answers, errors)}
        bad = differing(rows, player.player, 0)
        same = [row for row in rows if row["seed"] not in bad]
        print(f"{len(same)} of {len(rows)} sequences are the same without sabotage")
        for number, kind in enumerate(SABOTEURS, 1):
            seen = differing(same, kind, number)
            failed += not seen
            print(f"{'ok    ' if seen else 'FAILED'}  a broker that {kind.__name__.replace('_', ' ')}: "
                  f"{len(seen)} of {len(same)} sequences differ")
    return failed


def main(suite, options):
    _, rows = transcript.read(options.file)
    failed = in_the_comparison(suite, rows) + in_the_table()
    if options.port or options.posthornd:
        failed += on_a_broker(suite, options, rows[:options.sequences or 300])
    print(f"{failed} of the proofs failed" if failed else "whatever was wrong was seen")
    return 1 if failed else 0
