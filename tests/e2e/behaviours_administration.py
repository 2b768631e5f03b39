"""What an operator does to a broker: virtual hosts, users, permissions, policies, limits, alarms, closing connections.

`administration(t)` is the way to do it to the broker under test: `rabbitmqctl` for a peer, `posthorn` for a node of ours.
Both raise when a command is refused. A `posthorn` that does not have a command yet skips the test.
"""
import atexit
import contextlib
import json
import os
import shlex
import shutil
import socket
import struct
import subprocess

from harness import require, skip

# rabbitmqctl takes seconds to start. So it is started once, and told to run what comes in on a socket: its own commands, one
# after the other. Words are parted by 0x1f, an answer begins with the exit code.
SERVE = r"""
{:ok, s} = :gen_tcp.connect({127, 0, 0, 1}, PORT, [:binary, packet: 4, active: false])
serve = fn serve ->
  case :gen_tcp.recv(s, 0) do
    {:ok, words} ->
      answer =
        try do
          RabbitMQCtl.exec_command(String.split(words, "\x1f"), fn output, _, _ -> output end)
        catch
          kind, reason -> {:error, 70, inspect({kind, reason})}
        end
      text =
        case answer do
          {:error, code, problem} -> "#{code} #{if is_binary(problem), do: problem, else: inspect(problem)}"
          {:error, problem} -> "70 #{inspect(problem)}"
          done -> "0 #{inspect(done, limit: :infinity, printable_limit: :infinity)}"
        end
      :gen_tcp.send(s, text)
      serve.(serve)
    _ -> :ended
  end
end
serve.(serve)
"""


class rabbitmqctl_process:
    """One rabbitmqctl that stays. Its command line is POSTHORN_PEER_CONTROL, or the one of a chroot at
    ~/.cache/posthorn-peer, or the one in PATH."""

    def __init__(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            listener.settimeout(30)
            code = SERVE.replace("PORT", str(listener.getsockname()[1]))
            self.process = subprocess.Popen(self.command(["exec", code]), stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                self.sock, _ = listener.accept()
            except socket.timeout:
                self.process.kill()
                raise skip("rabbitmqctl does not start") from None
        self.sock.settimeout(30)
        atexit.register(self.end)

    @staticmethod
    def command(arguments):
        if given := os.environ.get("POSTHORN_PEER_CONTROL"):
            return [*shlex.split(given), *arguments]
        root = os.path.expanduser("~/.cache/posthorn-peer")
        if not os.path.isdir(root) or os.geteuid() != 0:
            if found := shutil.which("rabbitmqctl"):
                return [found, *arguments]
            raise skip("no rabbitmqctl for the peer: set POSTHORN_PEER_CONTROL")
        inner = ("RABBITMQ_NODENAME=r43@localhost ERL_EPMD_PORT=4371 HOME=/var/lib/rabbitmq "
                 "/usr/lib/rabbitmq/bin/rabbitmqctl " + shlex.join(arguments))
        return ["chroot", root, "su", "-s", "/bin/sh", "rabbitmq", "-c", inner]

    def read(self, size):
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            require(more, "rabbitmqctl ended")
            data += more
        return data

    def run(self, *words):
        data = "\x1f".join(words).encode()
        self.sock.sendall(struct.pack(">I", len(data)) + data)
        code, _, text = self.read(struct.unpack(">I", self.read(4))[0]).decode().partition(" ")
        return int(code), text

    def end(self):
        self.sock.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        if self.process.poll() is None:
            self.process.kill()


class rabbitmqctl:
    running = None

    def __init__(self):
        if rabbitmqctl.running is None:
            rabbitmqctl.running = rabbitmqctl_process()

    def run(self, *words):
        code, text = self.running.run("-q", *words)
        require(code == 0, f"rabbitmqctl {' '.join(words)}: {text}")
        return text

    def add_vhost(self, name, default_queue_type=None):
        more = ["--default-queue-type", default_queue_type] if default_queue_type else []
        self.run("add_vhost", name, *more)

    def delete_vhost(self, name):
        self.run("delete_vhost", name)

    def add_user(self, name, password, tags=()):
        self.run("add_user", name, password)
        if tags:
            self.run("set_user_tags", name, *tags)

    def delete_user(self, name):
        self.run("delete_user", name)

    def set_permissions(self, user, vhost, configure, write, read):
        self.run("set_permissions", "-p", vhost, user, configure, write, read)

    def clear_permissions(self, user, vhost):
        self.run("clear_permissions", "-p", vhost, user)

    def set_topic_permissions(self, user, vhost, exchange, write, read):
        self.run("set_topic_permissions", "-p", vhost, user, exchange, write, read)

    def set_policy(self, vhost, name, pattern, definition, apply_to="queues", priority=0):
        self.run("set_policy", "-p", vhost, name, pattern, json.dumps(definition), "--apply-to", apply_to, "--priority",
                 str(priority))

    def set_operator_policy(self, vhost, name, pattern, definition, apply_to="queues", priority=0):
        self.run("set_operator_policy", "-p", vhost, name, pattern, json.dumps(definition), "--apply-to", apply_to,
                 "--priority", str(priority))

    def clear_policy(self, vhost, name):
        self.run("clear_policy", "-p", vhost, name)

    def clear_operator_policy(self, vhost, name):
        self.run("clear_operator_policy", "-p", vhost, name)

    def set_vhost_limit(self, vhost, limit, value):
        self.run("set_vhost_limits", "-p", vhost, json.dumps({limit: value}))

    def set_user_limit(self, user, limit, value):
        self.run("set_user_limits", user, json.dumps({limit: value}))

    def close_connections(self, vhost, reason):
        self.run("close_all_connections", "--vhost", vhost, reason)

    def raise_alarm(self, resource):
        self.run("eval", f"rabbit_alarm:set_alarm({{{{resource_limit, {resource}, node()}}, []}}).")

    def clear_alarm(self, resource):
        self.run("eval", f"rabbit_alarm:clear_alarm({{resource_limit, {resource}, node()}}).")


class posthorn:
    """The command line of a node of ours, shaped like rabbitmqctl."""

    def __init__(self, t, node):
        self.t, self.url = t, f"http://127.0.0.1:{node.http_port}"

    def run(self, group, command, *words):
        self.has((), group)
        self.has((group,), command)
        done = self.t.posthorn("--url", self.url, group, command, *words)
        require(done.returncode == 0, f"posthorn {group} {command} {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def has(self, above, command):
        """Skips the test if the help that lists the commands does not list this one."""
        listed = self.t.posthorn(*above, "--help").stdout.partition("Subcommands:")[2].splitlines()
        if not any(each.split()[:1] == [command] for each in listed):
            raise skip(f"posthorn has no command `{' '.join([*above, command])}` yet")

    def add_vhost(self, name, default_queue_type=None):
        more = ["--default-queue-type", default_queue_type] if default_queue_type else []
        self.run("vhosts", "add", name, *more)

    def delete_vhost(self, name):
        self.run("vhosts", "delete", name)

    def add_user(self, name, password, tags=()):
        more = ["--tags", ",".join(tags)] if tags else []
        self.run("users", "add", name, password, *more)

    def delete_user(self, name):
        self.run("users", "delete", name)

    def set_permissions(self, user, vhost, configure, write, read):
        self.run("permissions", "set", "--vhost", vhost, user, configure, write, read)

    def clear_permissions(self, user, vhost):
        self.run("permissions", "clear", "--vhost", vhost, user)

    def set_topic_permissions(self, user, vhost, exchange, write, read):
        self.run("permissions", "set-topic", "--vhost", vhost, user, exchange, write, read)

    def set_policy(self, vhost, name, pattern, definition, apply_to="queues", priority=0, more=()):
        self.run("policies", "set", "--vhost", vhost, name, pattern, json.dumps(definition), "--apply-to", apply_to,
                 "--priority", str(priority), *more)

    def set_operator_policy(self, vhost, name, pattern, definition, apply_to="queues", priority=0):
        self.set_policy(vhost, name, pattern, definition, apply_to, priority, ("--operator",))

    def clear_policy(self, vhost, name):
        self.run("policies", "clear", "--vhost", vhost, name)

    def clear_operator_policy(self, vhost, name):
        self.run("policies", "clear", "--vhost", vhost, name, "--operator")

    def set_vhost_limit(self, vhost, limit, value):
        self.run("limits", "set", "--vhost", vhost, limit, str(value))

    def set_user_limit(self, user, limit, value):
        self.run("limits", "set", "--user", user, limit, str(value))

    def close_connections(self, vhost, reason):
        self.run("connections", "close", "--vhost", vhost, reason)

    def raise_alarm(self, resource):
        self.run("alarms", "raise", resource)

    def clear_alarm(self, resource):
        self.run("alarms", "clear", resource)


def administration(t, node=None):
    return rabbitmqctl() if t.suite.peer else posthorn(t, node or t.shared_node())


def undo(t, action):
    """Runs the action when the test ends, whatever comes of it."""
    def attempt():
        with contextlib.suppress(AssertionError, skip):
            action()
    t.on_exit(attempt)


def own_vhost(t, operator, stem="vhost", users=("guest",), **arguments):
    """A virtual host that goes with the test, in which these users may do everything."""
    name = t.unique(stem)
    operator.add_vhost(name, **arguments)
    undo(t, lambda: operator.delete_vhost(name))
    for user in users:
        operator.set_permissions(user, name, ".*", ".*", ".*")
    return name


def own_user(t, operator, stem="user", tags=(), **permissions):
    """A user that goes with the test. permissions: by virtual host, (configure, write, read)."""
    name = t.unique(stem)
    operator.add_user(name, "secret", tags)
    undo(t, lambda: operator.delete_user(name))
    for vhost, rules in permissions.items():
        operator.set_permissions(name, vhost, *rules)
    return name


@contextlib.contextmanager
def quick_dead_letter_retries(t):
    """RabbitMQ tries dead letters that found no way again after three minutes; for queues made within this, after a second."""
    if not t.suite.peer:
        yield
        return
    operator = rabbitmqctl()
    setting = "rabbit, dead_letter_worker_publisher_confirm_timeout"
    before = int(operator.run("eval", f"{{ok, V}} = application:get_env({setting}), V.").rpartition(" ")[2].rstrip("}"))
    operator.run("eval", f"application:set_env({setting}, 1000).")
    try:
        yield
    finally:
        operator.run("eval", f"application:set_env({setting}, {before}).")


@contextlib.contextmanager
def node_with_consumer_limit(t, limit):
    """A broker on which a new channel may have so many consumers."""
    if not t.suite.peer:
        option = "--amqp-consumer-max"
        if option not in subprocess.run([t.suite.posthornd, "--help"], capture_output=True, text=True, check=False).stdout:
            raise skip(f"posthornd has no option {option} yet")
        yield t.node(options=[option, str(limit)])
        return
    operator = rabbitmqctl()
    operator.run("eval", f"application:set_env(rabbit, consumer_max_per_channel, {limit}).")
    try:
        yield t.shared_node()
    finally:
        operator.run("eval", "application:unset_env(rabbit, consumer_max_per_channel).")
