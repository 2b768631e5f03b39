"""What the scripts write into docs/performance.md: each between markers of its own, which say who wrote it."""
import datetime
import os
import platform


def put_between(text, name, script, content):
    """Between the markers of this name, if the document has them."""
    begin, end = f"<!-- {name}: begin, written by {script} -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        return text
    head, rest = text.split(begin, 1)
    return head + begin + "\n" + content + "\n" + end + rest.split(end, 1)[1]


def machine():
    """Where and when: the begin of a sentence."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    when = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return f"Measured on {when}, on {os.cpu_count()} processors with {memory:.0f} GiB, Linux {platform.release()}"
