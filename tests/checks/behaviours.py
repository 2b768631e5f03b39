#!/usr/bin/env python3
"""Checks that every numbered behaviour has its line in docs/amqp.md, and a test that is named by it.

A line of the table says `same`, or `different:` and why, or `not here:` and why. A test names its numbers at the end of its
name: test_queue_limit_19. A behaviour without a test needs a line that gives the reason after `no test:`.

usage: behaviours.py [--self-test] [ROOT]
"""
import ast
import os
import re
import sys
import tempfile

NUMBERS = range(1, 80)
PAGE, TESTS = os.path.join("docs", "amqp.md"), os.path.join("tests", "e2e")

ROW = re.compile(r"^\|\s*(\d+)\s*\|(.*)\|([^|]*)\|\s*$")
VERDICT = re.compile(r"same\b|different: \S|not here: \S")
NUMBERED = re.compile(r"^test_.*?((?:_\d+)+)$")


def rows_of(page):
    """What the page's table says about each number: (number, line, verdict)."""
    for line_number, line in enumerate(page.splitlines(), 1):
        row = ROW.match(line)
        if row:
            yield int(row.group(1)), line_number, row.group(3).strip()


def only_skips(function):
    """A test that does nothing but skip tests nothing."""
    body = [each for each in function.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "skip" in ast.dump(body[0])


def tested_by(source):
    for each in ast.parse(source).body:
        if isinstance(each, ast.FunctionDef) and not only_skips(each):
            named = NUMBERED.match(each.name)
            if named:
                yield from (int(number) for number in named.group(1)[1:].split("_"))


def check(root):
    faults, seen, tested = [], {}, set()
    with open(os.path.join(root, PAGE), encoding="utf-8") as file:
        for number, line, verdict in rows_of(file.read()):
            if number not in NUMBERS:
                faults.append(f"{PAGE}:{line}: there is no behaviour {number}")
            elif number in seen:
                faults.append(f"{PAGE}:{line}: behaviour {number} stands in line {seen[number][0]}, too")
            elif not VERDICT.match(verdict):
                faults.append(f"{PAGE}:{line}: behaviour {number} is neither `same` nor `different: …` nor `not here: …`")
            seen.setdefault(number, (line, verdict))
    for name in sorted(os.listdir(os.path.join(root, TESTS))):
        if name.endswith(".py"):
            with open(os.path.join(root, TESTS, name), encoding="utf-8") as file:
                tested.update(tested_by(file.read()))
    for number in NUMBERS:
        if number not in seen:
            faults.append(f"{PAGE}: behaviour {number} has no line")
        excused = re.search(r"\bno test: \S", seen.get(number, (0, ""))[1])
        if number not in tested and not excused:
            faults.append(f"{TESTS}: no test is named by behaviour {number}, and {PAGE} does not say why")
        if number in tested and excused:
            faults.append(f"{PAGE}:{seen[number][0]}: behaviour {number} has a test")
    return len(tested & set(NUMBERS)), faults


def self_test():
    """The check must find each of these, and nothing in the first one."""
    def row(number, verdict="same"):
        return f"| {number} | what it is | {verdict} |\n"

    def test(number, body="pass"):
        return f"def test_something_{number}(t):\n    {body}\n"

    page = "".join(map(row, NUMBERS))
    tests = "".join(map(test, NUMBERS))
    cases = [
        ("nothing is wrong", page, tests, 0),
        ("several numbers in one name", page, tests.replace(test(5), "").replace("something_6(", "something_5_6("), 0),
        ("a reason why there is no test", page.replace(row(36), row(36, "not here: needs two. no test: as that")),
         tests.replace(test(36), ""), 0),
        ("a line is missing", page.replace(row(7), ""), tests, 1),
        ("a line stands twice", page + row(7), tests, 1),
        ("a line of a number that does not exist", page + row(80), tests, 1),
        ("a line without a verdict", page.replace(row(7), row(7, "hm")), tests, 1),
        ("a difference without a reason", page.replace(row(7), row(7, "different:")), tests, 1),
        ("a test is missing", page, tests.replace(test(7), ""), 1),
        ("a test that only skips", page, tests.replace(test(7), test(7, "raise skip('later')")), 1),
        ("a number in the midst of a name", page, tests.replace("something_7(", "7_times("), 1),
        ("a reason for no test where there is one", page.replace(row(7), row(7, "same; no test: too slow")), tests, 1),
    ]
    wrong = 0
    for what, page_text, test_text, expected in cases:
        with tempfile.TemporaryDirectory() as root:
            for path, text in ((PAGE, page_text), (os.path.join(TESTS, "some.py"), test_text)):
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as out:
                    out.write(text)
            faults = check(root)[1]
        if len(faults) != expected:
            wrong += 1
            print(f"{what}: expected {expected} faults, found {faults}")
    print(f"{len(cases) - wrong} of {len(cases)} cases are judged rightly")
    return 1 if wrong else 0


def main():
    arguments = sys.argv[1:]
    if "--self-test" in arguments:
        return self_test()
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    tested, faults = check(root)
    print("\n".join(faults) or f"all {len(NUMBERS)} behaviours stand in {PAGE}, and {tested} have tests")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
