"""What every end-to-end test stands on: a node as a process, free ports, polling with a deadline, and the runner's context."""
import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import traceback

import amqp_raw

READY_WITHIN = 20.0


class skip(Exception):
    """The machine lacks what the test needs: counted, never silent."""


def free_port(host="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def poll(what, condition, timeout=10.0, interval=0.02):
    """Asks until the condition holds, and returns what it returned; fails at the deadline, naming `what`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(interval)


def equal(actual, expected, what=""):
    if actual != expected:
        raise AssertionError(f"{what + ': ' if what else ''}expected {expected!r}, got {actual!r}")


def require(condition, what):
    if not condition:
        raise AssertionError(what)


@contextlib.contextmanager
def closes(code, text, kind="channel", within=None):
    """The body must end with a close of this kind, code and text (a text that ends in `…` is a prefix)."""
    try:
        yield
    except amqp_raw.closed as close:
        equal((close.name, close.code), (f"{kind}.close", code), close.text)
        if text.endswith("…"):
            require(close.text.startswith(text[:-1]), f"expected a text starting {text[:-1]!r}, got {close.text!r}")
        else:
            equal(close.text, text, "reply text")
        if within is not None:
            equal((close.class_id, close.method_id), within, "offending method")
        return
    raise AssertionError(f"expected {kind}.close {code} {text!r}, but nothing was closed")


class node:
    """One posthornd process on its own data directory and ports."""

    def __init__(self, binary, directory, environment=None, options=(), amqp_host="127.0.0.1", command_prefix=()):
        self.binary, self.directory = binary, directory
        self.data_dir = os.path.join(directory, "data")
        self.log_path = os.path.join(directory, "node.log")
        self.environment, self.options = dict(environment or {}), list(options)
        self.command_prefix = list(command_prefix)
        self.amqp_host = amqp_host
        self.port, self.http_port = free_port(), free_port()
        self.process = None
        os.makedirs(directory, exist_ok=True)

    def command(self):
        host = f"[{self.amqp_host}]" if ":" in self.amqp_host else self.amqp_host
        return self.command_prefix + [self.binary, "--amqp", f"{host}:{self.port}", "--http",
                                      f"127.0.0.1:{self.http_port}", "--data-dir", self.data_dir, "--log-level",
                                      "info", *self.options]

    def spawn(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **self.environment})
        self.started_at = time.monotonic()
        return self

    def start(self, timeout=READY_WITHIN):
        """Starts the process and waits until /healthz says ok; returns the seconds from exec to then."""
        self.spawn()
        poll("the node answers /healthz", lambda: self.exited() or self.healthy(), timeout, 0.005)
        if self.exited():
            raise AssertionError(f"the node ended with {self.process.returncode} instead of getting ready")
        return time.monotonic() - self.started_at

    def exited(self):
        return self.process.poll() is not None

    def http_get(self, path, timeout=2.0):
        client = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        try:
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, answer.read().decode()
        finally:
            client.close()

    def healthy(self):
        try:
            return self.http_get("/healthz")[0] == 200
        except OSError:
            return False
        except http.client.HTTPException:
            return False

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self, timeout=10.0):
        """SIGTERM; returns the exit code and the seconds it took."""
        since = time.monotonic()
        self.process.terminate()
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the node did not end within {timeout:g} s of SIGTERM") from None
        return code, time.monotonic() - since

    def stop(self):
        if self.process is not None and not self.exited():
            self.process.kill()
            self.process.wait()

    def connect(self, **arguments):
        return self.raw().open(**arguments)

    def raw(self):
        return amqp_raw.connection(self.port, "127.0.0.1" if self.amqp_host == "*" else self.amqp_host)

    def rss_anon(self):
        """The node's own memory in bytes; pages of the store's map are file pages and do not count."""
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon in /proc")

    def log_tail(self, lines=25):
        try:
            with open(self.log_path, errors="replace") as log:
                return "".join(log.readlines()[-lines:])
        except OSError:
            return ""


class peer:
    """A broker that runs already; for tests that ask nothing of the process, to check the tests themselves."""

    def __init__(self, port):
        self.port, self.amqp_host, self.process = port, "127.0.0.1", None

    connect, raw = node.connect, node.raw

    def log_tail(self):
        return ""

    def stop(self):
        pass


class context:
    """What one test gets: nodes that end with it, a directory that goes with it, and chance that can be replayed."""

    def __init__(self, suite, name):
        self.suite, self.name = suite, name
        self.random = random.Random(f"{suite.seed}/{name}")
        self.nodes, self.cleanups, self.notes = [], [], []
        self.directory = tempfile.mkdtemp(prefix="posthorn-e2e-")
        self.names = 0

    def note(self, text):
        self.notes.append(text)

    def unique(self, stem):
        """A name nobody else uses, so that tests can share a node."""
        self.names += 1
        return f"{stem}-{os.getpid()}-{self.name}-{self.names}"

    def node(self, label="node", faulty=False, start=True, **arguments):
        binary = self.suite.options.faulty_node if faulty else self.suite.posthornd
        if faulty and not binary:
            raise skip("no --faulty-node given")
        if self.suite.peer:
            raise skip("needs a node of its own")
        made = node(binary, os.path.join(self.directory, label), **arguments)
        self.nodes.append(made)
        if start:
            made.start()
        return made

    def shared_node(self):
        """One node for all the tests that only talk to it."""
        return self.suite.shared_node()

    def rounds(self, default):
        return self.suite.options.rounds or default

    def posthorn(self, *arguments, timeout=60, environment=None):
        return subprocess.run([self.suite.posthorn, *arguments], capture_output=True, text=True, timeout=timeout,
                              env={**os.environ, **(environment or {})}, check=False)

    def on_exit(self, action):
        self.cleanups.append(action)

    def close(self):
        for each in self.nodes:
            each.stop()
        for action in reversed(self.cleanups):
            try:
                action()
            except OSError:
                traceback.print_exc()
        shutil.rmtree(self.directory, ignore_errors=True)
