#!/usr/bin/python3
"""Runs test suites and programs of other people's clients against an installed Posthorn. See README.md."""
import argparse
import concurrent.futures
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback

if any(importlib.util.find_spec(name) is None for name in ("pika", "kombu", "celery")) and (
        sys.executable != "/usr/bin/python3"):
    os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])  # Debian's, which has its packages
sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "e2e")]
import harness  # noqa: E402

SUITES = ["celery_workers", "pika_acceptance", "amqplib_suite", "amqplib_programs", "kombu_programs"]


def read_exceptions(path):
    """The tests that are known to fail, and why."""
    reasons = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\n")
            if not line or line.startswith("#"):
                continue
            name, separator, reason = line.partition(" -- ")
            if not separator or not reason.strip():
                sys.exit(f"{path}:{number}: a line is `NAME -- REASON`, and the reason may not be missing")
            if name in reasons:
                sys.exit(f"{path}:{number}: {name} stands there twice")
            reasons[name] = reason.strip()
    return reasons


class tally:
    """The results of all suites. Threads report to it; each line is printed whole."""

    def __init__(self, exceptions, filters, skips):
        self.exceptions, self.filters, self.skips = exceptions, filters, skips
        self.counts = {"pass": 0, "FAIL": 0, "skip": 0, "known": 0}
        self.failed, self.seen = [], set()
        self.lock = threading.Lock()

    def wanted(self, name):
        return (not self.filters or any(part in name for part in self.filters)) and not any(
            part in name for part in self.skips)

    def report(self, name, outcome, seconds, detail=""):
        with self.lock:
            if name in self.seen:
                outcome, detail = "FAIL", "a test of this name was counted before"
            self.seen.add(name)
            reason = self.exceptions.get(name)
            if reason and outcome == "FAIL":
                outcome, detail = "known", reason
            elif reason and outcome == "pass":
                outcome, detail = "FAIL", "it passes: take it out of the file of exceptions"
            self.counts[outcome] += 1
            brief = f"  ({detail})" if outcome in ("skip", "known") else ""
            print(f"{outcome}  {name}  {seconds:.2f} s{brief}", flush=True)
            if outcome == "FAIL":
                self.failed.append(name)
                print(detail.rstrip(), flush=True)


class bench:
    """What one suite gets: a broker, a directory that goes with it, and where its results go."""

    def __init__(self, running, suite):
        self.running, self.suite = running, suite
        self.options = running.options
        self.directory = tempfile.mkdtemp(prefix=f"posthorn-{suite}-")
        self.nodes, self.cleanups, self.programs = [], [], []
        self.names = 0
        self.broker = harness.peer(self.options.peer) if self.options.peer else self.node("shared")
        self.port = self.broker.port

    def node(self, label, **arguments):
        if self.options.peer:
            raise harness.skip("needs a node of its own")
        binary = os.path.join(os.path.abspath(self.options.prefix), "bin", "posthornd")
        made = harness.node(binary, os.path.join(self.directory, label), **arguments)
        self.nodes.append(made)
        made.start()
        return made

    def unique(self, stem):
        """A name nobody else uses, so that tests can share a broker, and a broker can be tested again."""
        self.names += 1
        return f"{stem}-{os.getpid()}-{self.suite}-{self.names}"

    def wanted(self, name):
        return self.running.wanted(f"{self.suite}.{name}")

    def report(self, name, outcome, seconds, detail=""):
        if self.wanted(name):
            self.running.report(f"{self.suite}.{name}", outcome, seconds, detail)

    def on_exit(self, action):
        self.cleanups.append(action)

    def clean(self):
        for action in reversed(self.cleanups):
            try:
                action()
            except Exception:  # noqa: BLE001  what cannot be cleaned up is no result of the broker's
                traceback.print_exc()
        self.cleanups.clear()

    def functions(self, module, prepare=None):
        """Runs the functions test_* of one of our modules, one after the other, and before each of them `prepare`."""
        for name, function in list(vars(module).items()):
            if not name.startswith("test_") or not callable(function) or not self.wanted(name[5:]):
                continue
            since, outcome, detail = time.monotonic(), "pass", ""
            try:
                if prepare:
                    prepare(self)
                function(self)
            except harness.skip as reason:
                outcome, detail = "skip", str(reason)
            except Exception:  # noqa: BLE001  a test may fail in any way; the others still run
                outcome, detail = "FAIL", traceback.format_exc() + "".join(
                    f"--- last lines of {' '.join(each.command)}\n{each.text()}\n" for each in self.programs)
            took = time.monotonic() - since
            self.clean()
            self.programs.clear()
            self.report(name[5:], outcome, took, detail)

    def run(self):
        module = importlib.import_module(self.suite)
        try:
            module.run(self)
        except Exception:  # noqa: BLE001  the other suites still run
            self.running.report(f"{self.suite}.run", "FAIL", 0, traceback.format_exc())
        self.clean()
        for node in self.nodes:
            if node is self.broker and node.exited():
                self.running.report(f"{self.suite}.node", "FAIL", 0,
                                    f"the node died with {node.process.returncode}\n{node.log_tail()}")

    def close(self):
        for node in self.nodes:
            node.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def run_suite(running, name):
    here = bench(running, name)
    try:
        here.run()
    finally:
        here.close()


def main():
    parser = argparse.ArgumentParser(description="Suites by others against an installed Posthorn.")
    parser.add_argument("--prefix", help="where bin/posthornd is")
    parser.add_argument("--pika", metavar="ARCHIVE", help="the sources of pika, with its acceptance tests")
    parser.add_argument("--node-modules", metavar="DIR", help="what npm installed of node/package-lock.json")
    parser.add_argument("--filter", action="append", default=[], metavar="NAME", help="only tests so named")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave these out")
    parser.add_argument("--suite", action="append", default=[], choices=SUITES, help="only these suites")
    parser.add_argument("--peer", type=int, metavar="PORT", help="run them against a broker that runs already")
    parser.add_argument("--exceptions", default=os.path.join(HERE, "exceptions"), metavar="FILE",
                        help="the tests that may fail, with the reason (exceptions); not asked of a peer")
    parser.add_argument("--jobs", type=int, default=len(SUITES), metavar="N", help="suites at a time (all)")
    options = parser.parse_args()
    if not options.prefix and not options.peer:
        parser.error("--prefix is needed")
    running = tally({} if options.peer else read_exceptions(options.exceptions), options.filter, options.skip)
    running.options = options
    suites = [name for name in SUITES if not options.suite or name in options.suite]
    for name in suites:
        importlib.import_module(name)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for work in [pool.submit(run_suite, running, name) for name in suites]:
            work.result()
    whole = not (options.filter or options.skip or options.suite)
    for name in sorted(set(running.exceptions) - running.seen) if whole else []:
        running.failed.append(name)
        running.counts["FAIL"] += 1
        print(f"FAIL  {name}  is in the file of exceptions, and there is no such test")
    if running.failed:
        print("failed: " + " ".join(running.failed))
    print(f"{running.counts['skip']} skipped, {running.counts['known']} known to fail ({options.exceptions})")
    print(f"{running.counts['pass']} passed, {running.counts['FAIL']} failed")
    return 1 if running.counts["FAIL"] or not running.counts["pass"] else 0


if __name__ == "__main__":
    sys.exit(main())
