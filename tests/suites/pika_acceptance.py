"""The acceptance tests of pika, unchanged, out of its sources: every adapter that runs here."""
import json
import os
import subprocess
import sys
import tarfile

import harness

DRIVER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pika_driver.py")
PREFIX = "tests.acceptance."
LIMIT = 180


def drive(tree, port, results, *ids):
    """Lets the driver run these tests; returns its lines, and what it printed if it did not get to its end."""
    log = results + ".log"
    problem = ""
    with open(log, "wb") as output:
        try:
            code = subprocess.run([sys.executable, "-B", DRIVER, tree, str(port), results, *ids], stdout=output,
                                  stderr=output, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False).returncode
            problem = f"the driver ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            problem = f"the driver did not end within {LIMIT} s"
    with open(log, errors="replace", encoding="utf-8") as text:
        tail = "".join(text.readlines()[-30:])
    if not os.path.exists(results):
        return [], f"{problem}\n{tail}"
    with open(results, encoding="utf-8") as lines:
        return lines.read().splitlines(), f"{problem}\n{tail}" if problem else ""


def run(bench):
    if not bench.options.pika:
        bench.report("sources", "FAIL", 0, "no --pika given")
        return
    tree = os.path.join(bench.directory, "tree")
    with tarfile.open(bench.options.pika) as archive:
        archive.extractall(tree)  # its checksum was compared when it was fetched
    tree = os.path.join(tree, os.listdir(tree)[0])
    ids, problem = drive(tree, bench.port, os.path.join(bench.directory, "ids"))
    harness.require(not problem and len(ids) > 100, f"{len(ids)} tests found; {problem}")
    chosen = {each: each[len(PREFIX):] for each in ids if bench.wanted(each[len(PREFIX):])}
    if not chosen:
        return
    lines, problem = drive(tree, bench.port, os.path.join(bench.directory, "results"), *chosen)
    for result in map(json.loads, lines):
        bench.report(chosen.pop(result["id"]), result["outcome"], result["seconds"], result["detail"])
    for name in chosen.values():
        bench.report(name, "FAIL", 0, f"no result: {problem}")
