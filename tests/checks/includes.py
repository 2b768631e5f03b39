#!/usr/bin/env python3
"""Checks that includes point down the list of folders only, and that the pure core stays pure.

usage: includes.py [--self-test] [ROOT]
"""
import os
import re
import sys
import tempfile

# From the bottom up. A file may include its own floor and those below it.
FLOORS = ["mailbox", "access", "persist", "actors", "cluster", "gateway", "posthorn", "node"]

# What a floor never includes, whatever library brings it.
BARRED = {
    "mailbox": ["caf/", "lmdb.h", "boost/asio", "thread", "mutex", "shared_mutex", "condition_variable", "future",
                "fstream", "iostream", "unistd.h", "sys/", "random"],
    "persist": ["caf/", "boost/asio"],
}
BARRED["access"] = BARRED["mailbox"]

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')


def faults_of(path, lines):
    floor = path.split("/")[0]
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        quoted, target = found.group(1) == '"', found.group(2)
        above = target.split("/")[0]
        if quoted and "/" not in target:
            yield f'{path}:{number}: "{target}" is not written from the root of the tree'
        if "/" in target and above in FLOORS and FLOORS.index(above) > FLOORS.index(floor):
            yield f"{path}:{number}: {floor}/ includes {target}, which is above it"
        for barred in BARRED.get(floor, []):
            if target == barred or (target.startswith(barred) and not barred[-1].isalpha()) \
                    or target.startswith(barred + "/") or (barred == "boost/asio" and target == "boost/asio.hpp"):
                yield f"{path}:{number}: {floor}/ must do without <{target}>"


def check(root):
    faults, count = [], 0
    for floor in FLOORS:
        for folder, _, names in os.walk(os.path.join(root, floor)):
            for name in sorted(names):
                if name.endswith((".hpp", ".cpp")):
                    path = os.path.join(folder, name)
                    with open(path, encoding="utf-8") as file:
                        faults += faults_of(os.path.relpath(path, root), file)
                    count += 1
    return count, faults


def self_test():
    """The check must find each of these, and nothing in the last one."""
    cases = [
        ("mailbox/a.hpp", '#include "persist/environment.hpp"', 1),
        ("persist/a.cpp", "#include <actors/queue.hpp>", 1),
        ("actors/a.cpp", '  #  include "gateway/amqp091/wire.hpp"', 1),
        ("gateway/http/a.cpp", '#include "node/settings.hpp"', 1),
        ("gateway/http/a.cpp", '#include "server.hpp"', 1),
        ("mailbox/a.cpp", "#include <caf/all.hpp>", 1),
        ("mailbox/a.cpp", "#include <thread>", 1),
        ("persist/a.cpp", "#include <boost/asio.hpp>", 1),
        ("node/a.cpp", '#include "gateway/http/server.hpp"\n#include <mutex>\n// #include "x/y"', 0),
        ("mailbox/a.cpp", '#include "mailbox/ring.hpp"\n#include <boost/system/result.hpp>\n#include <chrono>', 0),
    ]
    wrong = 0
    for path, text, expected in cases:
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, os.path.dirname(path)))
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text + "\n")
            found = check(root)[1]
            if len(found) != expected:
                print(f"{path}: {text!r}: expected {expected} faults, got {found}")
                wrong += 1
    return wrong


def main():
    arguments = sys.argv[1:]
    if "--self-test" in arguments:
        return 1 if self_test() else 0
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    count, faults = check(os.path.abspath(root))
    for fault in faults:
        print(fault)
    if count == 0:
        print("no sources found: the check looked in the wrong place")
    return 1 if faults or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
