"""Recorded transcripts: their file, their comparison, and the table of differences that are intended."""
import hashlib
import json
import lzma
import os
import re
import textwrap

HERE = os.path.dirname(os.path.abspath(__file__))
RECORDED = os.path.join(HERE, "recorded", "rabbitmq-4.3.6.jsonl.xz")
WITH_POLICIES = RECORDED.replace(".jsonl", "-policies.jsonl")
INTENDED = os.path.join(HERE, "intended.json")


def fingerprint(answers):
    return hashlib.sha256(json.dumps(answers, ensure_ascii=False).encode()).hexdigest()[:16]


def write(path, header, rows):
    """One line of JSON for each sequence, after one that says who answered."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with lzma.open(path + ".new", "wt", encoding="utf-8", preset=9) as out:
        for row in [header, *rows]:
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    os.replace(path + ".new", path)


def read(path):
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        header = json.loads(next(lines))
        rows = [json.loads(line) for line in lines]
    for row in rows:
        if fingerprint(row["answers"]) != row["hash"]:
            raise ValueError(f"{path}: the transcript of sequence {row['seed']} is not what was recorded")
    return header, rows


class intended:
    """The table of intended differences.

    An entry says with two regular expressions what RabbitMQ shows in one line, and what is shown here instead; groups of one
    name must hold the same text on both sides. Null stands for no line at all. With `"feature"`, an entry counts in sequences
    that use this feature only, with `"seeds"` in these sequences only. `"after": "stop"` ends the comparison of a sequence
    there, when what follows, in this step and after it, cannot be compared.
    """

    def __init__(self, path=INTENDED):
        with open(path, encoding="utf-8") as source:
            self.entries = json.load(source)
        self.used = set()
        for entry in self.entries:
            if set(entry) - {"name", "reason", "feature", "seeds", "recorded", "here", "after"} or not entry.get("name") or len(entry.get("reason", "")) < 10:
                raise ValueError(f"{path}: an entry without a name or a reason, or with something unknown: {entry}")
            entry["patterns"] = [None if entry[side] is None else re.compile(entry[side]) for side in ("recorded", "here")]

    def excuse(self, expected, line, features, seed):
        for entry in self.entries:
            if entry.get("feature") not in (None, *features) or seed not in entry.get("seeds", [seed]):
                continue
            matches = []
            for pattern, text in zip(entry["patterns"], (expected, line)):
                if (pattern is None) != (text is None):
                    break
                matches.append({} if pattern is None else pattern.fullmatch(text))
            if len(matches) == 2 and None not in matches:
                left, right = (m.groupdict() if m else {} for m in matches)
                if all(right.get(name, value) == value for name, value in left.items()):
                    return entry
        return None

    def judge(self, expected, lines, features=(), seed=None):
        """`same`, `stop` (an intended difference after which nothing can be compared), or `different`."""
        for left, right in pairs(expected, lines):
            if left != right:
                entry = self.excuse(left, right, features, seed)
                if entry is None:
                    return "different"
                self.used.add(entry["name"])
                if entry.get("after") == "stop":
                    return "stop"
        return "same"


def topic(line):
    """What a line is about: two lines about the same thing are compared with each other."""
    about = re.match(r"(\d+: (?:deliver to \S+|confirmed|refused|return|\S+ all|the server cancels \S+)|~\S+:|\d+:)", line)
    return about.group(1) if about else line


def pairs(expected, lines):
    """The lines side by side, those that answer each other in one row; None stands where one side says nothing."""
    rows, left, right = [], list(expected), list(lines)
    while left or right:
        if left and right and (left[0] == right[0] or topic(left[0]) == topic(right[0])):
            rows.append((left.pop(0), right.pop(0)))
        elif left and (not right or topic(left[0]) not in map(topic, right)):
            rows.append((left.pop(0), None))
        elif right and (not left or topic(right[0]) not in map(topic, left)):
            rows.append((None, right.pop(0)))
        else:
            rows.append((left.pop(0), None))
    return rows


def show_step(step):
    label, method, arguments = step
    if method == "publish":
        shown = []
        for each in arguments["messages"]:
            flags = "".join(f" {flag}" for flag in ("mandatory", "immediate") if each.get(flag))
            shown.append(f"{each['body']} x='{each['exchange']}' key='{each['routing_key']}'{flags}" + "".join(
                f" {k}={json.dumps(v)}" for k, v in each["properties"].items()))
        return f"{label}: publish " + " | ".join(shown)
    words = [f"{k}={json.dumps(v)}" if v is not True else k for k, v in arguments.items() if v not in (False, {}, "")]
    return f"{label}: {method} {' '.join(words)}".rstrip()


def side_by_side(steps, expected, actual, names, judge, width=76):
    """A page to read: each step, and below it both sides where they differ, one where they agree."""
    page = []
    for index, step in enumerate(steps):
        page.append(f"{index + 1:3} {show_step(step)}")
        left = expected[index] if index < len(expected) else []
        if index >= len(actual):
            page += [f"      = {line}" for line in left] if not page[-1].endswith("(not played)") else []
            continue
        right = actual[index]
        for a, b in pairs(left, right):
            if a == b:
                page.append(f"      = {a}")
                continue
            mark = "~" if judge([a] if a else [], [b] if b else []) != "different" else "#"
            columns = [textwrap.wrap(each, width, subsequent_indent="    ") if each else ["(nothing)"] for each in (a, b)]
            page.append(f"    {mark} {names[0]:<{width}} {mark} {names[1]}")
            for at in range(max(map(len, columns))):
                cells = [c[at] if at < len(c) else "" for c in columns]
                page.append(f"    {mark} {cells[0]:<{width}} {mark} {cells[1]}".rstrip())
    return "\n".join(page)


def kind(step, expected, lines):
    """What sort of difference this is: the step's method and the first lines that differ, without names and numbers."""
    left, right = next(((a, b) for a, b in pairs(expected, lines) if a != b), (None, None))
    return step[1], abstract(left), abstract(right, left)


def abstract(line, other=None):
    if line is None:
        return "(nothing)"
    line = re.sub(r"^\d+: ", "", line)
    line = re.sub(r" (x|key)='[^']*'", r" \1=…", line)
    line = re.sub(r"~[a-z-]+\d*", "~n", line)
    line = re.sub(r"\$[gt]\d+", "$n", line)
    line = re.sub(r"\b(deliver to|consume-ok|cancel-ok|cancels) \S+?(:?)(?= |$)", r"\1 c\2", line)
    line = re.sub(r"\bm\d+ \+\d+", "m", line)
    line = re.sub(r"(confirmed|refused) [\d, ]+", r"\1 N", line)
    if not re.search(r"(close|return) \d+ ", line):
        line = re.sub(r"\d+", "N", line)
    if "deliver to" in line or "get-ok" in line:
        line = re.sub(r" (\w+)=('[^']*'|\d\S*|N)", r"", line)
        line = re.sub(r"headers=\{.*\}", "headers", line)
    return line
