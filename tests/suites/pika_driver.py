"""Runs pika's own acceptance tests in this process, against the broker at a port; started by pika_acceptance.py.

usage: pika_driver.py TREE PORT RESULTS [ID...]

Without IDs it writes the ids of all tests to the file RESULTS, one a line; with them it runs these, and writes one JSON
object a test. The tests speak to port 5672, and their code stays as it is: what connects there is led to PORT.
"""
import importlib
import json
import logging
import os
import socket
import sys
import time
import unittest

MODULES = ["tests.acceptance.async_adapter_tests", "tests.acceptance.blocking_adapter_test"]
PUBLISHED_PORT = 5672


def lead_to(port):
    """Every connection to the port that the tests have written down goes to ours."""
    def led(address):
        return ("127.0.0.1", port) if address[1] == PUBLISHED_PORT and len(address) == 2 else address

    def wrapped(method):
        def connect(self, address):
            return method(self, led(address) if isinstance(address, tuple) else address)
        return connect

    class led_socket(socket.socket):
        connect = wrapped(socket.socket.connect)
        connect_ex = wrapped(socket.socket.connect_ex)

    socket.socket = led_socket


def tests_in(each):
    if isinstance(each, unittest.TestCase):
        yield each
    else:
        for child in each:
            yield from tests_in(child)


class recorder(unittest.TestResult):
    """One line for each test, as soon as it ended."""

    def __init__(self, output):
        super().__init__()
        self.output, self.verdict = output, None

    def startTest(self, test):
        super().startTest(test)
        self.since, self.verdict = time.monotonic(), ("pass", "")

    def stopTest(self, test):
        super().stopTest(test)
        outcome, detail = self.verdict
        self.output.write(json.dumps({"id": test.id(), "outcome": outcome, "detail": detail,
                                      "seconds": time.monotonic() - self.since}) + "\n")
        self.output.flush()

    def addError(self, test, err):
        self.verdict = ("FAIL", self._exc_info_to_string(err, test))

    addFailure = addError

    def addSkip(self, test, reason):
        self.verdict = ("skip", reason)

    def addUnexpectedSuccess(self, test):
        self.verdict = ("FAIL", "passes, and pika expects it to fail")


def main():
    tree, port, results, *ids = sys.argv[1:]
    output = open(results, "w", encoding="utf-8")  # noqa: SIM115  until the process ends
    os.chdir(tree)
    sys.path.insert(0, tree)
    lead_to(int(port))
    logging.disable(logging.CRITICAL)
    tests = {}
    for name in MODULES:
        for test in tests_in(unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(name))):
            tests[test.id()] = test
    if not ids:
        output.write("".join(f"{name}\n" for name in sorted(tests)))
        return
    result = recorder(output)
    for name in ids:
        tests[name].run(result)
    output.close()
    os._exit(0)  # a test that ran out of time leaves a thread behind


if __name__ == "__main__":
    main()
