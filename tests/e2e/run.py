#!/usr/bin/python3
"""Runs the end-to-end tests against an installed Posthorn. See README.md."""
import argparse
import importlib
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

if importlib.util.find_spec("pika") is None and sys.executable != "/usr/bin/python3":
    os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])  # Debian's, which has its python3-pika
sys.dont_write_bytecode = True  # an installed tree stays as it was
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

TOPICS = ["settings", "clients", "protocol", "transport", "closes", "parting", "exchange_types", "behaviours_declaration",
          "behaviours_publishing", "behaviours_consuming", "behaviours_expiry_and_limits", "behaviours_lifecycle", "access",
          "policies", "lifecycle", "badinput", "transactions", "streams", "delayed", "patience", "crash", "fire", "bank",
          "examples", "powercut", "faults", "backup", "memory", "differential"]
HERE = os.path.dirname(os.path.abspath(__file__))


class suite:
    """Everything that lives longer than one test."""

    def __init__(self, options):
        self.options = options
        self.seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**9)
        self.prefix = os.path.abspath(options.prefix) if options.prefix else ""
        self.posthornd = os.path.join(self.prefix, "bin", "posthornd")
        self.posthorn = os.path.join(self.prefix, "bin", "posthorn")
        self.peer = harness.peer(options.peer) if options.peer else None
        self.directory = tempfile.mkdtemp(prefix="posthorn-e2e-shared-")
        self.shared = None
        self.built = {}

    def shared_node(self):
        if self.peer:
            return self.peer
        if self.shared is None or self.shared.exited():
            if self.shared is not None:
                raise AssertionError(f"the shared node died with {self.shared.process.returncode}")
            self.shared = harness.node(self.posthornd, os.path.join(self.directory, "shared"))
            self.shared.start()
        return self.shared

    def native(self, name, given, source, *flags):
        """A native helper: the one that the build made, or else compiled here and now."""
        if given:
            return os.path.abspath(given)
        if name not in self.built:
            target = os.path.join(self.directory, name)
            subprocess.run(["c++", "-std=c++20", "-O2", "-pthread", *flags, "-o", target, os.path.join(HERE, source)],
                           check=True)
            self.built[name] = target
        return self.built[name]

    def loader(self):
        return self.native("loader", self.options.loader, "loader.cpp")

    def powercut(self):
        return self.native("powercut.so", self.options.powercut, "../powercut/powercut.cpp", "-shared", "-fPIC", "-ldl")

    def powercut_selftest(self):
        return self.native("powercut_selftest", self.options.powercut_selftest, "../powercut/selftest.cpp")

    def close(self):
        if self.shared is not None:
            self.shared.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def tests_of(topic):
    module = importlib.import_module(topic)
    for name, value in list(vars(module).items()):
        if name.startswith("test_") and callable(value):
            yield f"{topic}.{name[5:]}", value


def run_one(running, name, function):
    """Runs one test; returns 'pass', 'FAIL' or 'skip'."""
    context = harness.context(running, name)
    since, problem, outcome = time.monotonic(), "", "pass"
    try:
        function(context)
    except harness.skip as reason:
        problem, outcome = str(reason), "skip"
    except Exception:  # a test may fail in any way; the others still run
        problem, outcome = traceback.format_exc(), "FAIL"
    took = time.monotonic() - since
    print(f"{outcome}  {name}  {took:.2f} s{'  (' + problem + ')' if outcome == 'skip' else ''}", flush=True)
    for note in context.notes:
        print(f"      {note}", flush=True)
    if outcome == "FAIL":
        print(problem.rstrip())
        for each in context.nodes or [running.shared]:
            tail = each.log_tail() if each is not None else ""
            if tail:
                print(f"--- last lines of {each.log_path}\n{tail.rstrip()}\n---")
        print(f"      replay: --filter {name} --seed {running.seed}", flush=True)
    context.close()
    if running.shared is not None and running.shared.exited():
        print(f"FAIL  {name}  left the shared node dead ({running.shared.process.returncode})", flush=True)
        print(running.shared.log_tail())
        running.shared = None
        outcome = "FAIL"
    return outcome


def main():
    parser = argparse.ArgumentParser(description="End-to-end tests against an installed Posthorn.")
    parser.add_argument("--prefix", help="where bin/posthornd and bin/posthorn are")
    parser.add_argument("--filter", action="append", default=[], metavar="NAME", help="only tests whose name contains it")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave these out")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of the crash and power cut tests")
    parser.add_argument("--fire-seconds", type=float, default=20, metavar="N", help="length of the fire")
    parser.add_argument("--seed", type=int, help="replays the chances of an earlier run")
    parser.add_argument("--messages", type=int, default=5_000_000, help="messages of the memory test")
    parser.add_argument("--faulty-node", metavar="PATH", help="posthornd built with its defects on demand")
    parser.add_argument("--powercut", metavar="PATH", help="the power cut layer (compiled here if not given)")
    parser.add_argument("--powercut-selftest", metavar="PATH", help="its self-test (compiled here if not given)")
    parser.add_argument("--examples", metavar="DIR", help="where the examples were built")
    parser.add_argument("--loader", metavar="PATH", help="the load driver (compiled here if not given)")
    parser.add_argument("--peer", type=int, metavar="PORT", help="check the tests against a broker that runs already")
    parser.add_argument("--list", action="store_true", help="print the tests' names")
    options = parser.parse_args()
    if not options.prefix and not options.peer and not options.list:
        parser.error("--prefix is needed")
    chosen = [(name, function) for topic in TOPICS for name, function in tests_of(topic)
              if (not options.filter or any(part in name for part in options.filter))
              and not any(part in name for part in options.skip)]
    if options.list:
        print("\n".join(name for name, _ in chosen))
        return 0
    running = suite(options)
    print(f"seed {running.seed}", flush=True)
    counts = {"pass": 0, "FAIL": 0, "skip": 0}
    failed = []
    try:
        for name, function in chosen:
            outcome = run_one(running, name, function)
            counts[outcome] += 1
            if outcome == "FAIL":
                failed.append(name)
    finally:
        running.close()
    if failed:
        print("failed: " + " ".join(failed))
    print(f"{counts['skip']} skipped")
    print(f"{counts['pass']} passed, {counts['FAIL']} failed")
    return 1 if failed or not counts["pass"] else 0


if __name__ == "__main__":
    sys.exit(main())
