"""Random method sequences, answered as RabbitMQ has answered them: ../differential/ in the course of the other tests."""
import os
import shlex
import subprocess
import sys

from harness import require, skip

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "differential")
SEQUENCES_MIN = 2000


def run(t, node, *arguments, timeout=600):
    done = subprocess.run([sys.executable, os.path.join(HERE, "run.py"), *arguments, "--port", str(node.port)],
                          capture_output=True, text=True, timeout=timeout, check=False, env=operator_environment(node))
    lines = done.stdout.splitlines()
    require(done.returncode == 0, f"run.py {' '.join(arguments)} ended with {done.returncode}:\n" +
            "\n".join(lines[-60:]) + done.stderr[-4000:])
    t.note(lines[-1])
    return lines


def operator_environment(node):
    return {**os.environ, "POSTHORN_URL": f"http://127.0.0.1:{node.http_port}", "PYTHONDONTWRITEBYTECODE": "1"}


def own_node(t):
    if t.suite.peer:
        raise skip("its answers are what is compared with")
    return t.node()


def test_random_sequences_are_answered_as_by_rabbitmq(t):
    lines = run(t, own_node(t), "check")
    require(int(lines[-1].split()[0]) >= SEQUENCES_MIN, f"too few sequences were compared: {lines[-1]}")


def test_random_sequences_with_policies_are_answered_as_by_rabbitmq(t):
    node = own_node(t)
    if "policies" not in subprocess.run([t.suite.posthorn, "--help"], capture_output=True, text=True, check=False).stdout:
        raise skip("posthorn has no command `policies`")
    ctl = " ".join(map(shlex.quote, (sys.executable, os.path.join(HERE, "ctl.py"), t.suite.posthorn)))
    lines = run(t, node, "check", "--policies", "--ctl", ctl + " {}")
    require(int(lines[-1].split()[0]) >= 200, f"too few sequences were compared: {lines[-1]}")


def test_the_comparison_can_fail(t):
    run(t, own_node(t), "selftest")
