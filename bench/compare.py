#!/usr/bin/env python3
"""Measures Posthorn, a peer and this machine's ceiling with the same load, in turn, and prints the table of
docs/performance.md.

    bench/compare.py --posthornd PATH --amqpload PATH [--limit PATH] [--peer PORT] [--rounds 3] [--seconds 4]

Posthorn and the ceiling are started on empty directories for every run; the peer has to run already. The load generator
and the ceiling are not part of this repository: any program with the options and the result line below serves as the one,
any AMQP broker with its port and directory as arguments as the other.
"""
import argparse
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

CASES = [
    ("1 KiB, confirm window 1,000", ["--size", "1024", "--confirm", "1000"], "cons"),
    ("1 KiB, window 10,000", ["--size", "1024", "--confirm", "10000"], "cons"),
    ("100 B, window 10,000", ["--size", "100", "--confirm", "10000"], "cons"),
    ("1 KiB, no consumer", ["--size", "1024", "--confirm", "10000", "-c", "0"], "conf"),
    ("1 KiB transient, auto-ack, no confirms", ["--size", "1024", "--confirm", "0", "--transient", "--autoack"], "cons"),
    ("latency at 2,000/s, ack each", ["--size", "1024", "--rate", "2000", "--ackevery", "1"], "latency"),
]
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


class System:
    def __init__(self, name, command=None, port=None):
        self.name, self.command, self.port = name, command, port

    def run(self, amqpload, options, seconds):
        if self.command is None:
            return measure(amqpload, self.port, options, seconds)
        directory = pathlib.Path(tempfile.mkdtemp(prefix="posthorn-compare-"))
        port = free_port()
        process = subprocess.Popen(self.command(port, directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(port)
            return measure(amqpload, port, options, seconds)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(6)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(directory)


def measure(amqpload, port, options, seconds):
    out = subprocess.run([amqpload, "--port", str(port), "--seconds", str(seconds), *options],
                         capture_output=True, text=True, timeout=120)
    found = RESULT.search(out.stdout)
    if not found:
        raise SystemExit(f"no result from the load generator: {out.stdout}{out.stderr}")
    pub, conf, cons, p50, p99 = found.groups()
    return {"pub": int(pub), "conf": int(conf), "cons": int(cons), "p50": int(p50 or 0), "p99": int(p99 or 0)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posthornd", required=True)
    parser.add_argument("--amqpload", required=True)
    parser.add_argument("--limit")
    parser.add_argument("--peer", type=int, metavar="PORT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    chosen = parser.parse_args()
    systems = [System("Posthorn", lambda port, d: [chosen.posthornd, "--amqp", f"127.0.0.1:{port}", "--http",
                                                   f"127.0.0.1:{free_port()}", "--data-dir", str(d),
                                                   "--log-level", "error"])]
    if chosen.peer:
        systems.append(System("peer", port=chosen.peer))
    if chosen.limit:
        systems.append(System("ceiling", lambda port, d: [chosen.limit, str(port), str(d)]))
        systems.append(System("ceiling, sparing", lambda port, d: [chosen.limit, str(port), str(d), "elide"]))
    print("| case | " + " | ".join(s.name for s in systems) + (" | ratio to peer |" if chosen.peer else " |"))
    print("| --- " * (len(systems) + 1 + bool(chosen.peer)) + "|")
    for name, options, what in CASES:
        results = {s.name: [] for s in systems}
        for _ in range(chosen.rounds):
            for s in systems:
                results[s.name].append(s.run(chosen.amqpload, options, chosen.seconds))
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
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
