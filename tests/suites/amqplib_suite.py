"""The test suite of npm's amqplib, unchanged: those of its files that talk to a broker."""
import json
import os
import subprocess

FILES = ["callback_api", "channel_api", "connect"]
HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT = 120
LIMIT_OF_A_TEST = 10


def environment(bench):
    preload = os.path.join(HERE, "node", "redirect.cjs")
    return {**os.environ, "AMQP_PORT": str(bench.port), "NODE_OPTIONS": f"--require={preload}",
            "NODE_PATH": os.path.abspath(bench.options.node_modules)}


def run(bench):
    if not bench.options.node_modules:
        bench.report("modules", "FAIL", 0, "no --node-modules given")
        return
    modules = os.path.abspath(bench.options.node_modules)
    for file in FILES:
        results = os.path.join(bench.directory, file)
        log, problem = results + ".log", ""
        with open(log, "wb") as output:
            try:
                subprocess.run(["node", "--require", os.path.join(HERE, "node", "limits.cjs"),
                                "--test-reporter=" + os.path.join(HERE, "node", "reporter.mjs"),
                                "--test-reporter-destination=" + results,
                                os.path.join(modules, "amqplib-with-tests", "test", f"{file}.test.js")],
                               env={**environment(bench), "TEST_TIMEOUT_MS": str(LIMIT_OF_A_TEST * 1000)},
                               stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=LIMIT, check=False)
            except subprocess.TimeoutExpired:
                problem = f"it did not end within {LIMIT} s"
        lines = []
        if os.path.exists(results):
            with open(results, encoding="utf-8") as text:
                lines = text.read().splitlines()
        for result in map(json.loads, lines):
            bench.report(f"{file} > {result['id']}", result["outcome"], result["seconds"], result["detail"])
        if problem or not lines:
            with open(log, errors="replace", encoding="utf-8") as text:
                tail = "".join(text.readlines()[-30:])
            bench.report(f"{file} > all of the file", "FAIL", LIMIT, f"{problem}\n{tail}")
