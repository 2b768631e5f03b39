#!/usr/bin/env python3
"""Random method sequences on two brokers, or on one and on what another has answered: every answer is compared."""
import argparse
import base64
import collections
import concurrent.futures
import contextlib
import functools
import http.client
import json
import multiprocessing
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "e2e")]

import amqp_raw  # noqa: E402
import generator  # noqa: E402
import harness  # noqa: E402
import player  # noqa: E402
import transcript  # noqa: E402

# Set before the workers are forked.
table = None
run_name = f"{random.SystemRandom().randrange(1 << 20):05x}"


def prefix(seed, round_number=0):
    """Always of one length, because reply texts end at 255 octets."""
    return f"d{run_name}{round_number % 10}.{seed:05d}."


def judge_for(row):
    return functools.partial(table.judge, features=row["features"], seed=row["seed"])


def play(port, row, expected=None, stop_early=True, round_number=0, kind=player.player, patience=1.0):
    for left in range(20, -1, -1):
        try:
            return kind(port, row["steps"], prefix(row["seed"], round_number), expected, judge_for(row), stop_early,
                        patience).play()
        except player.blocked:
            if not left:
                raise
            time.sleep(1)  # an alarm is not the sequence's doing, and goes away
    return None


def work(arguments):
    """One sequence in a worker: its answers, or why there are none; and which intended differences it met."""
    port, row, expected, round_number, kind, patience = arguments
    table.used.clear()
    try:
        return row["seed"], play(port, row, expected, round_number=round_number, kind=kind,
                                patience=patience), None, set(table.used)
    except Exception:  # noqa: BLE001  a broker may do anything, and the other sequences still count
        return row["seed"], None, traceback.format_exc(limit=-4), set(table.used)


def play_all(options, port, rows, expected=None, round_number=0, kind=player.player, patience=1.0):
    """All sequences, several at a time; those that have to wait most come first."""
    tasks = [(port, row, expected and expected[row["seed"]], round_number, kind, patience)
             for row in sorted(rows, key=lambda row: "quorum" not in row["features"])]
    answers, errors, used = {}, {}, set()
    began = shown = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        for seed, lines, error, more in pool.map(work, tasks):
            answers[seed], used = lines, used | more
            if error:
                errors[seed] = error
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                print(f"  {len(answers)} of {len(tasks)} sequences, {shown - began:.0f} s", flush=True)
    print(f"{len(tasks)} sequences played in {time.monotonic() - began:.1f} s", flush=True)
    return answers, errors, used


def broker_name(port):
    with amqp_raw.connection(port).open() as raw:
        properties = raw.start.server_properties
    # Posthorn calls itself RabbitMQ, and says who it is on another line.
    own = str(properties.get("platform"))
    return own if own.startswith("Posthorn") else f"{properties.get('product')} {properties.get('version')}"


@contextlib.contextmanager
def broker(options):
    """The port of the broker to be tested: one that runs, or a Posthorn that is started here."""
    if options.port:
        yield options.port
        return
    with tempfile.TemporaryDirectory(prefix="posthorn-differential-") as directory:
        node = harness.node(options.posthornd, directory)
        node.start()
        options.http = options.http or node.http_port
        try:
            yield node.port
            harness.require(not node.exited(), f"the node ended with {node.process.returncode}:\n{node.log_tail()}")
        except BaseException:
            print(node.log_tail(), file=sys.stderr)
            raise
        finally:
            node.stop()


def wanted(options, rows):
    without, only = (set(filter(None, text.split(","))) for text in (options.without, options.only))
    unknown = (without | only) - {*generator.FEATURES, "policy"}
    if unknown:
        sys.exit(f"no such feature: {', '.join(sorted(unknown))}; there are {', '.join(sorted(generator.FEATURES))}")
    if options.seed:
        seeds = {int(s) for s in options.seed.split(",")}
        return [row for row in rows if row["seed"] in seeds]
    rows = rows[:options.sequences] if options.sequences else rows
    return [row for row in rows if not without & set(row["features"]) and (not only or only & set(row["features"]))]


def generated(options):
    if options.seed:
        return [generator.sequence(int(s)) for s in options.seed.split(",")]
    first = generator.POLICY_SEEDS if options.policies else 1
    count = options.sequences or (200 if options.policies else 2500)
    return wanted(options, [generator.sequence(seed) for seed in range(first, first + count)])


def by_command(command):
    """Policies by a command line, whose `{}` stands for its arguments, which are those of rabbitmqctl."""
    def order(kind, name, policy):
        words = [f"clear_{kind}", name]
        if policy:
            words = [f"set_{kind}", name, policy["pattern"], json.dumps(policy["definition"]), "--priority",
                     str(policy["priority"]), "--apply-to", policy["apply-to"]]
        text = " ".join(map(shlex.quote, words))
        subprocess.run(command.replace("{}", text), shell=True, check=True, stdout=subprocess.DEVNULL)
    return order


def by_http(port):
    """Policies by the management API."""
    def order(kind, name, policy):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        group = "policies" if kind == "policy" else "operator-policies"
        client.request("PUT" if policy else "DELETE", f"/api/{group}/%2F/{name}", policy and json.dumps(policy),
                       {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()})
        answer = client.getresponse()
        text = answer.read().decode()
        client.close()
        harness.require(answer.status in (201, 204), f"policy {name}: {answer.status} {text}")
    return order


@contextlib.contextmanager
def policies(*orders):
    """Gives the brokers the generator's policies, and takes them back."""
    made = [(kind, f"differential-{name}-{priority}",
             {"pattern": f"^.+-p\\.{name}$", "definition": definition, "priority": priority, "apply-to": "queues"})
            for name, rules in generator.POLICIES.items() for kind, priority, definition in rules]
    for order in orders:
        for kind, name, policy in made:
            order(kind, name, policy)
    try:
        yield
    finally:
        for order in orders:
            for kind, name, _ in made:
                order(kind, name, None)


def compare(rows, expected, answers, errors):
    """Where each sequence differs first: (kind, seed, index of the step)."""
    found = []
    for row in rows:
        seed = row["seed"]
        if seed in errors:
            last = errors[seed].strip().splitlines()[-1]
            found.append((("the player stopped", "", transcript.abstract(last)), seed, 0))
            continue
        for index, (left, right) in enumerate(zip(expected[seed], answers[seed])):
            verdict = judge_for(row)(left, right)
            if verdict == "different":
                found.append((transcript.kind(row["steps"][index], left, right), seed, index))
            if verdict != "same":
                break
    return found


def report(found, count, names, examples=None):
    """The kinds of differences, the most frequent first. Examples are (steps, expected, answers) by seed."""
    kinds = collections.defaultdict(list)
    for kind, seed, index in found:
        kinds[kind].append((seed, index))
    for number, (kind, where) in enumerate(sorted(kinds.items(), key=lambda each: -len(each[1])), 1):
        shortest = sorted(where, key=lambda each: each[1])[:5]
        print(f"{number:3}. {len(where)} × {kind[0]}   (seeds {', '.join(str(s) for s, _ in shortest)})")
        print(f"       {names[0]}: {kind[1]}\n       {names[1]}: {kind[2]}")
        seed, index = shortest[0]
        steps, expected, answers = examples(seed) if examples else ([], [], None)
        if answers and index < len(answers):
            print(f"       e.g. {seed}, step {index + 1}: {transcript.show_step(steps[index])[:400]}")
            for left, right in transcript.pairs(expected[index], answers[index]):
                if left == right:
                    print(f"         = {left}")
                else:
                    print(f"         - {left or '(nothing)'}\n         + {right or '(nothing)'}")
    differing = len({seed for _, seed, _ in found})
    print(f"{count - differing} sequences without a difference, {differing} with one, of {len(kinds)} kinds")


def unused(options, used, problems):
    """An intended difference that nothing showed is a mistake in the table, if everything was played."""
    if options.without or options.only or options.seed or options.sequences or options.policies or problems:
        return 0
    left = [entry["name"] for entry in table.entries if entry["name"] not in used]
    for name in left:
        print(f"the intended difference {name!r} was never seen: take it out of the table")
    return len(left)


def show(options, row, port, expected, names):
    answers = play(port, row, expected, stop_early=False)
    expected = expected if expected is not None else answers
    print(f"sequence {row['seed']}: {', '.join(row['features'])}\n")
    print(transcript.side_by_side(row["steps"], expected, answers, names, judge_for(row), options.width))
    return compare([row], {row["seed"]: expected}, {row["seed"]: answers}, {})


def record(options):
    table.entries = []
    rows, name = generated(options), broker_name(options.port)
    if options.show:
        for row in rows:
            show(options, row, options.port, None, (name, name))
        return 0
    print(f"{len(rows)} sequences on {name}, {options.rounds} times")
    first, chancy, steps = {}, rows, {row["seed"]: row["steps"] for row in rows}
    # What differs is played again, alone and with more patience: a machine that is busy makes a broker slow, and what is
    # slow is not always chance. What differs then, too, is.
    for attempt, (jobs, patience) in enumerate([(options.jobs, 1.0), (2, 4.0), (1, 8.0)]):
        options.jobs, rounds = jobs, []
        for number in range(options.rounds):
            answers, errors, _ = play_all(options, options.port, chancy, None, attempt * options.rounds + number, patience=patience)
            for seed, error in list(errors.items())[:3]:
                print(f"sequence {seed}: {error}")
            if errors:
                print(f"{len(errors)} sequences could not be played")
                return 1
            rounds.append(answers)
        first.update(rounds[0])
        found = [each for later in rounds[1:] for each in compare(chancy, rounds[0], later, {})]
        differing = {seed for _, seed, _ in found}
        print(f"{len(chancy) - len(differing)} of {len(chancy)} transcripts are the same {options.rounds} times")
        if found:
            report(found, len(chancy), ("first time", "later"), lambda seed: (steps[seed], rounds[0][seed], rounds[-1][seed]))
        chancy = [row for row in chancy if row["seed"] in differing]
        if not chancy:
            break
    if chancy:
        print("the generator asks for something that is left to chance: nothing is written")
        return 1
    rounds = [first]
    header = {"broker": name, "sequences": len(rows)}
    transcript.write(options.file, header, [
        {**row, "hash": transcript.fingerprint(rounds[0][row["seed"]]), "answers": rounds[0][row["seed"]]} for row in rows])
    steps, lines = sum(len(r["steps"]) for r in rows), sum(len(a) for all_of in rounds[0].values() for a in all_of)
    print(f"{options.file}: {len(rows)} sequences, {steps} steps, {lines} lines, {os.path.getsize(options.file)} octets")
    return 0


def check(options):
    files = [options.file] if options.file else [transcript.WITH_POLICIES] if options.policies else \
        [transcript.RECORDED, transcript.WITH_POLICIES]
    headers, recorded = zip(*map(transcript.read, files))
    rows = [row for some in recorded for row in some]
    if any(generator.sequence(row["seed"])["steps"] != row["steps"] for row in rows):
        print("note: the generator has changed since this was recorded; what was recorded is played")
    rows = wanted(options, rows)
    with broker(options) as port, contextlib.ExitStack() as stack:
        if any("policy" in row["features"] for row in rows):
            if options.ctl or options.http:
                stack.enter_context(policies(by_command(options.ctl) if options.ctl else by_http(options.http)))
            else:
                print("note: the sequences with policies are left out, for want of --http or --ctl")
                rows = [row for row in rows if "policy" not in row["features"]]
        names = (headers[0]["broker"], broker_name(port))
        if options.show:
            return 1 if [d for row in rows for d in show(options, row, port, row["answers"], names)] else 0
        expected = {row["seed"]: row["answers"] for row in rows}
        answers, errors, used = play_all(options, port, rows, expected)
    return finish(options, rows, expected, answers, errors, used, names)


def live(options):
    rows = generated(options)
    with broker(options) as port:
        names = (broker_name(options.peer), broker_name(port))
        expected, errors, _ = play_all(options, options.peer, rows)
        if errors:
            print(next(iter(errors.values())))
            return 1
        if options.show:
            return 1 if [d for row in rows for d in show(options, row, port, expected[row["seed"]], names)] else 0
        answers, errors, used = play_all(options, port, rows, expected, 1)
    return finish(options, rows, expected, answers, errors, used, names)


def finish(options, rows, expected, answers, errors, used, names):
    found = compare(rows, expected, answers, errors)
    steps = {row["seed"]: row["steps"] for row in rows}
    report(found, len(rows), names, lambda seed: (steps[seed], expected[seed], answers[seed]))
    for seed, error in list(errors.items())[:3]:
        print(f"sequence {seed}: {error}")
    if not rows:
        print("nothing was compared")
    return 1 if found or not rows or unused(options, used, found) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["record", "check", "live", "selftest"])
    parser.add_argument("--port", type=int, help="the broker that is played on (record: the peer)")
    parser.add_argument("--peer", type=int, default=5673, help="live: the broker that is right")
    parser.add_argument("--posthornd", help="check, live: the program to start, if no --port is given")
    parser.add_argument("--sequences", type=int, help="only the first N (record: 2500)")
    parser.add_argument("--seed", help="only these, separated by commas")
    parser.add_argument("--show", action="store_true", help="print both sides, step by step")
    parser.add_argument("--without", default="", help="leave out what uses one of these features")
    parser.add_argument("--only", default="", help="leave out what uses none of these features")
    parser.add_argument("--policies", action="store_true", help="only the sequences with policies")
    parser.add_argument("--http", type=int, help="check: the port of the broker's management API, for policies")
    parser.add_argument("--ctl", help="the command line that gives the broker a policy: `rabbitmqctl {}`, or one like it")
    parser.add_argument("--peer-ctl", help="live: that of the peer")
    parser.add_argument("--rounds", type=int, default=2, help="record: all rounds must be the same")
    parser.add_argument("--file")
    parser.add_argument("--intended", default=transcript.INTENDED)
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--width", type=int, default=76)
    options = parser.parse_args()
    if options.mode != "check":
        if options.policies and not (options.ctl and (options.peer_ctl or options.mode != "live")):
            parser.error("--policies needs --ctl" + (" and --peer-ctl" if options.mode == "live" else ""))
        options.file = options.file or (transcript.WITH_POLICIES if options.policies else transcript.RECORDED)
    global table
    table = transcript.intended(options.intended)
    if options.mode == "selftest":
        import selftest
        return selftest.main(sys.modules[__name__], options)
    if not options.port and (options.mode == "record" or not options.posthornd):
        parser.error("--port is missing" + ("" if options.mode == "record" else ", or --posthornd"))
    commands = [options.peer_ctl, options.ctl] if options.mode == "live" else [options.ctl]
    if options.mode == "check":
        return check(options)
    with policies(*map(by_command, commands)) if options.policies else contextlib.nullcontext():
        return {"record": record, "live": live}[options.mode](options)


if __name__ == "__main__":
    sys.exit(main())
