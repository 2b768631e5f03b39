"""A backlog of millions: the node's own memory stays bounded, and the backlog drains in order."""
import json
import subprocess

from harness import poll, require

LIMIT = 512 << 20


def watched(t, node, *arguments):
    """Runs the loader to its end and returns what it says, and the node's largest RssAnon on the way."""
    with subprocess.Popen([t.suite.loader(), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as loader:
        most = 0

        def ended():
            nonlocal most
            most = max(most, node.rss_anon())
            return loader.poll() is not None
        try:
            poll("the loader is done", ended, 900, 0.05)
        finally:
            loader.kill()
        out, err = loader.communicate()
    require(loader.returncode == 0, f"{arguments[0]}: {err}")
    return json.loads(out), most


def test_a_backlog_of_millions(t):
    node, count = t.node(), t.suite.options.messages
    filled, fill_most = watched(t, node, "fill", node.port, "backlog", count, 100, 10_000)
    rested = node.rss_anon()
    drained, drain_most = watched(t, node, "drain", node.port, "backlog", count, 100)
    t.note(f"{count} messages of 100 octets: filled at {filled['per_second']}/s, drained at {drained['per_second']}/s; "
           f"RssAnon at most {fill_most >> 20} MiB filling, {rested >> 20} MiB full, {drain_most >> 20} MiB draining")
    require(fill_most < LIMIT, f"{fill_most >> 20} MiB of its own while filling")
    require(drain_most < LIMIT, f"{drain_most >> 20} MiB of its own while draining")


def test_a_backlog_after_a_restart(t):
    """The node that finds a backlog on its disk needs no more memory than the one that took it in."""
    node, count = t.node(), min(t.suite.options.messages, 1_000_000)
    watched(t, node, "fill", node.port, "backlog", count, 100, 10_000)
    node.kill()
    took = node.start(60)
    started = node.rss_anon()
    _, most = watched(t, node, "drain", node.port, "backlog", count, 100)
    t.note(f"{count} messages: restart {took:.2f} s, RssAnon {started >> 20} MiB started, {most >> 20} MiB draining")
    require(max(started, most) < LIMIT, f"{max(started, most) >> 20} MiB of its own")


def test_a_backlog_of_large_bodies(t):
    """Bodies beyond the memory budget leave memory: 600 MB of them stay under the same limit."""
    node, count, size = t.node(), 6000, 100_000
    _, fill_most = watched(t, node, "fill", node.port, "large", count, size, 200)
    _, drain_most = watched(t, node, "drain", node.port, "large", count, size)
    t.note(f"RssAnon at most {fill_most >> 20} MiB filling, {drain_most >> 20} MiB draining")
    require(max(fill_most, drain_most) < LIMIT, f"{max(fill_most, drain_most) >> 20} MiB of its own")
