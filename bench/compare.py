#!/usr/bin/env python3
"""Measures Posthorn, a peer and this machine's ceiling with the same load, in turn, prints the table of docs/performance.md,
and writes it there, with the machine, the versions and the command, if --document is given.

    bench/compare.py --posthornd PATH --bench PATH [--limit PATH] [--peer PORT [--peer-pid PID]] [--rounds 3] [--seconds 4]
    bench/compare.py --posthornd PATH --amqpload PATH ...

Posthorn and the ceiling are started on empty directories for every run; the peer has to run already. `--bench` takes the
program `posthorn` as load generator, and measures memory and declarations, too; the memory of the peer only if its process
is named and on this machine. `--amqpload` takes another load generator, which is not part of this repository: any program
with the options and the result line below serves. Neither is the ceiling: any AMQP broker with its port and directory as
arguments.
"""
import argparse
import json
import pathlib
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from document import machine, put_between

CASES = [
    ("1 KiB, confirm window 1,000", ["--size", "1024", "--confirm", "1000"], "cons"),
    ("1 KiB, window 10,000", ["--size", "1024", "--confirm", "10000"], "cons"),
    ("100 B, window 10,000", ["--size", "100", "--confirm", "10000"], "cons"),
    ("1 KiB, no consumer", ["--size", "1024", "--confirm", "10000", "-c", "0"], "conf"),
    ("1 KiB transient, auto-ack, no confirms", ["--size", "1024", "--confirm", "0", "--transient", "--autoack"], "cons"),
    ("1 KiB, no consumer, one at a time (confirm window 1)", ["--size", "1024", "--confirm", "1", "-c", "0"], "conf"),
    ("latency at 2,000/s, ack each", ["--size", "1024", "--rate", "2000", "--ackevery", "1"], "latency"),
]
# With `posthorn bench` only. What is measured takes a broker of its own, without what a load left behind.
MORE_CASES = [
    ("resident, empty node", "resident"),
    ("per idle connection with a channel", "connection"),
    ("per idle durable queue", "queue"),
    ("declare durable queue, one by one", "one_by_one"),
    ("declare durable queue, pipelined", "pipelined"),
]
# The names that `posthorn bench` has for them.
BENCH_OPTIONS = {"-c": "--consumers", "--autoack": "--auto-ack", "--ackevery": "--ack-every"}
RESULT = re.compile(r"pub/s=(\d+) conf/s=(\d+) cons/s=(\d+) \| latency us (?:p50=(\d+) p99=(\d+))?")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, seconds=20):
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def version_of(port):
    """What a broker says of itself before anyone has logged in: the properties in its connection.start. Posthorn gives the
    name of what it is compatible with, and its own as the platform."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        s.sendall(b"AMQP\0\0\x09\x01")
        frame = s.recv(65536)
    texts = {}
    for name in ("product", "version", "platform"):
        if found := re.search(name.encode() + rb"S(.{4})", frame, re.DOTALL):
            texts[name] = frame[found.end():found.end() + int.from_bytes(found[1], "big")].decode()
    if texts.get("platform", "").startswith("Posthorn"):
        return texts["platform"]
    return " ".join(texts[name] for name in ("product", "version") if name in texts) or "unknown"


class Amqpload:
    def __init__(self, program):
        self.program = program

    def measure(self, port, options, seconds):
        out = subprocess.run([self.program, "--port", str(port), "--seconds", str(seconds), *options],
                             capture_output=True, text=True, timeout=120)
        found = RESULT.search(out.stdout)
        if not found:
            raise SystemExit(f"no result from the load generator: {out.stdout}{out.stderr}")
        pub, conf, cons, p50, p99 = found.groups()
        return {"pub": int(pub), "conf": int(conf), "cons": int(cons), "p50": int(p50 or 0), "p99": int(p99 or 0)}


class Bench:
    """`posthorn bench`."""

    def __init__(self, program):
        self.program = program

    def run(self, port, *options):
        out = subprocess.run([self.program, "--json", "bench", *options, "--uri", f"amqp://127.0.0.1:{port}"],
                             capture_output=True, text=True, timeout=600)
        if out.returncode != 0:
            raise SystemExit(f"posthorn bench ended with {out.returncode}: {out.stdout}{out.stderr}")
        return json.loads(out.stdout)

    def measure(self, port, options, seconds):
        found = self.run(port, "--seconds", str(seconds), *(BENCH_OPTIONS.get(each, each) for each in options))
        rates, latency = found["per_second"], found["latency_us"]
        return {"pub": rates["published"], "conf": rates["confirmed"], "cons": rates["consumed"],
                "p50": latency["p50"], "p99": latency["p99"]}

    def measure_more(self, port, pid):
        """What the broker holds, and what declarations take. Of a process that nobody named, the memory is not known."""
        memory = ["--broker-pid", str(pid)] if pid else []
        idle = self.run(port, "--producers", "0", "--consumers", "0", "--idle-connections", "900", "--idle-queues", "10000",
                        *memory)["idle"]
        declared = self.run(port, "declare", "--queues", "2000")
        out = {name: declared[name]["per_second"] for name in ("one_by_one", "pipelined")}
        if memory:
            held = idle["memory_bytes"]
            out |= {"resident": held["before"]["resident"], "connection": held["per_connection"]["resident"],
                    "queue": held["per_queue"]["resident"]}
        return out


class System:
    def __init__(self, name, command=None, port=None, pid=None):
        self.name, self.command, self.port, self.pid = name, command, port, pid
        self.version = None

    def run(self, measure):
        """What `measure(port, pid)` says of it."""
        if self.command is None:
            self.version = self.version or version_of(self.port)
            return measure(self.port, self.pid)
        directory = pathlib.Path(tempfile.mkdtemp(prefix="posthorn-compare-"))
        port = free_port()
        process = subprocess.Popen(self.command(port, directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(port)
            self.version = self.version or version_of(port)
            return measure(port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(6)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(directory)


def more_cell(what, values):
    if not values:
        return "", None
    median = statistics.median(values)
    if what in ("one_by_one", "pipelined"):
        return f"{median:,.0f}/s", median
    return (f"{median / 1e6:.0f} MB" if what == "resident" else f"{median / 1e3:.1f} KB"), median


def compare_more(say, load, systems, columns, has_peer, rounds):
    """A ceiling has no connections and queues to speak of: its cells stay empty."""
    results = {s.name: [s.run(load.measure_more) for _ in range(rounds)] for s in systems}
    for name, what in MORE_CASES:
        found = {s.name: more_cell(what, [r[what] for r in results[s.name] if what in r]) for s in systems}
        cells = [found[s.name][0] for s in systems] + [""] * (columns - len(systems))
        if has_peer:
            ours, theirs = found["Posthorn"][1], found["peer"][1]
            is_rate = what in ("one_by_one", "pipelined")
            better = None if not ours or not theirs else ours / theirs if is_rate else theirs / ours
            cells.append("" if better is None else f"{better:.1f} ×")
        say(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posthornd", required=True)
    generator = parser.add_mutually_exclusive_group(required=True)
    generator.add_argument("--bench", metavar="PATH", help="the program `posthorn`")
    generator.add_argument("--amqpload", metavar="PATH")
    parser.add_argument("--limit")
    parser.add_argument("--peer", type=int, metavar="PORT")
    parser.add_argument("--peer-pid", type=int, metavar="PID")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--document", type=pathlib.Path, help="has the table between its markers (docs/performance.md)")
    chosen = parser.parse_args()
    lines = []

    def say(line):
        print(line, flush=True)
        lines.append(line)

    load = Bench(chosen.bench) if chosen.bench else Amqpload(chosen.amqpload)
    systems = [System("Posthorn", lambda port, d: [chosen.posthornd, "--amqp", f"127.0.0.1:{port}", "--http",
                                                   f"127.0.0.1:{free_port()}", "--data-dir", str(d),
                                                   "--log-level", "error"])]
    if chosen.peer:
        systems.append(System("peer", port=chosen.peer, pid=chosen.peer_pid))
    if chosen.limit:
        systems.append(System("ceiling", lambda port, d: [chosen.limit, str(port), str(d)]))
        systems.append(System("ceiling, sparing", lambda port, d: [chosen.limit, str(port), str(d), "elide"]))
    say("| case | " + " | ".join(s.name for s in systems) + (" | ratio to peer |" if chosen.peer else " |"))
    say("| --- " * (len(systems) + 1 + bool(chosen.peer)) + "|")
    for name, options, what in CASES:
        results = {s.name: [] for s in systems}
        for _ in range(chosen.rounds):
            for s in systems:
                results[s.name].append(s.run(lambda port, _: load.measure(port, options, chosen.seconds)))
        cells = []
        for s in systems:
            if what == "latency":
                p50 = statistics.median(r["p50"] for r in results[s.name])
                p99 = statistics.median(r["p99"] for r in results[s.name])
                cells.append(f"{p50 / 1000:.2f} / {p99 / 1000:.2f} ms")
            else:
                cells.append(f"{statistics.median(r[what] for r in results[s.name]):,.0f}/s")
        if chosen.peer:
            key = "p50" if what == "latency" else what
            ours = statistics.median(r[key] for r in results["Posthorn"])
            theirs = statistics.median(r[key] for r in results["peer"])
            ratio = theirs / ours if what == "latency" else ours / theirs
            cells.append(f"{ratio:.1f} ×")
        say(f"| {name} | " + " | ".join(cells) + " |")
    if chosen.bench:
        compare_more(say, load, [s for s in systems if not s.name.startswith("ceiling")], len(systems), bool(chosen.peer), chosen.rounds)
    if chosen.document:
        # Programs by their names: where they stood on the machine tells nobody anything.
        words = [pathlib.Path(word).name if "/" in word else word for word in sys.argv]
        command = " ".join(shlex.quote(word) for word in words)
        who = ", ".join(f"{'the peer: ' if s.name == 'peer' else ''}{s.version}" for s in systems if not s.name.startswith("ceiling"))
        about = (f"{machine()}; {who}. Medians of {chosen.rounds} rounds of {chosen.seconds:g} seconds, in which the systems took "
                 f"turns.\n\n```sh\n{command}\n```")
        text = chosen.document.read_text()
        chosen.document.write_text(put_between(text, "comparison", "bench/compare.py", about + "\n\n" + "\n".join(lines)))


if __name__ == "__main__":
    main()
