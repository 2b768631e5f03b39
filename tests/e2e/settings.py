"""The two programs as an operator meets them: settings, mistakes, help, exit codes."""
import json
import os
import signal
import subprocess
import tomllib

from harness import equal, free_port, poll, require, skip


def posthornd(t, *arguments, environment=None, timeout=10):
    if t.suite.peer:
        raise skip("needs a node of its own")
    return subprocess.run([t.suite.posthornd, *arguments], capture_output=True, text=True, timeout=timeout, check=False,
                          env={**os.environ, **(environment or {})})


def test_help_fits_a_screen(t):
    for program, arguments in ((t.suite.posthornd, []), (t.suite.posthorn, []), (t.suite.posthorn, ["status"]),
                               (t.suite.posthorn, ["list"]), (t.suite.posthorn, ["verify"]), (t.suite.posthorn, ["bench"])):
        posthornd(t, "--version")
        done = subprocess.run([program, *arguments, "--help"], capture_output=True, text=True, timeout=10, check=False)
        what = " ".join([os.path.basename(program), *arguments, "--help"])
        equal((done.returncode, done.stderr), (0, ""), what)
        lines = done.stdout.splitlines()
        require(2 < len(lines) <= 40, f"{what} prints {len(lines)} lines")
        wide = [line for line in lines if len(line) > 110]
        require(not wide, f"{what} prints wide lines: {wide}")


def test_print_config_names_origins(t):
    path = os.path.join(t.directory, "posthorn.toml")
    with open(path, "w", encoding="ascii") as out:
        out.write('[amqp]\nheartbeat = 30\n[log]\nlevel = "error"\n')
    done = posthornd(t, "--config", path, "--amqp", "127.0.0.1:7000", "--print-config",
                     environment={"POSTHORN_LOG_LEVEL": "warning", "POSTHORN_AMQP_CHANNEL_MAX": "99"})
    equal((done.returncode, done.stderr), (0, ""))
    values = tomllib.loads(done.stdout)
    equal((values["amqp"]["heartbeat"], values["amqp"]["listen"], values["amqp"]["channel_max"], values["log"]["level"]),
          (30, "127.0.0.1:7000", 99, "warning"), "what counts more wins")
    origin = {line.split(" = ")[0]: line.split("#", 1)[1].strip() for line in done.stdout.splitlines() if " = " in line}
    require(origin["heartbeat"].endswith("posthorn.toml:2"), origin["heartbeat"])
    require("# from --amqp" in done.stdout, done.stdout)
    equal((origin["channel_max"], origin["level"]), ("from POSTHORN_AMQP_CHANNEL_MAX", "from POSTHORN_LOG_LEVEL"))
    require("default" in origin["frame_max"], origin["frame_max"])
    again = os.path.join(t.directory, "again.toml")
    with open(again, "w", encoding="utf-8") as out:
        out.write(done.stdout)
    equal(tomllib.loads(posthornd(t, "--config", again, "--print-config").stdout), values, "its output is a configuration")


def test_a_node_gives_its_own_name_if_it_is_asked_to(t):
    node = t.node(options=["--amqp-product", "Posthorn"])
    with node.connect() as connection:
        properties = connection.start.server_properties
        equal(properties["product"], "Posthorn")
        equal("Posthorn " + properties["version"], properties["platform"], "the version is the node's own")
    code, lines = mistaken(t, '[amqp]\nproduct = "Rabbit"\n')
    require(code != 0 and any("amqp.product" in line and "RabbitMQ" in line for line in lines), f"{lines}")


def test_a_command_that_does_not_exist_is_named(t):
    posthornd(t, "--version")
    done = subprocess.run([t.suite.posthorn, "stauts"], capture_output=True, text=True, timeout=10, check=False)
    equal((done.returncode, done.stdout, done.stderr),
          (2, "", "posthorn: unknown command 'stauts', did you mean 'status'? See `posthorn --help`\n"))


def mistaken(t, contents="", arguments=(), environment=None):
    path = os.path.join(t.directory, "posthorn.toml")
    with open(path, "w", encoding="ascii") as out:
        out.write(contents)
    data = os.path.join(t.directory, "untouched")
    done = posthornd(t, "--config", path, "--data-dir", data, *arguments, environment=environment)
    require(done.returncode != 0, "a mistake was taken")
    require(not os.path.exists(data), "a node that does not start makes no directory")
    return done.returncode, done.stderr.splitlines()


def test_mistakes_are_named(t):
    code, lines = mistaken(t, '[amqp]\nheartbeat = "fast"\n')
    equal((code, len(lines)), (78, 1), lines)
    for part in ("posthorn.toml:2", "amqp.heartbeat", '"fast"', "expected"):
        require(part in lines[0], f"{part!r} is not in {lines[0]!r}")
    code, lines = mistaken(t, "[amqp]\n\nchanel_max = 5\n")
    equal((code, len(lines)), (78, 1), lines)
    for part in ("posthorn.toml:3", "amqp.chanel_max", "amqp.channel_max"):
        require(part in lines[0], f"{part!r} is not in {lines[0]!r}")
    code, lines = mistaken(t, environment={"POSTHORN_LOG_LEVEL": "loud"})
    equal((code, len(lines)), (78, 1), lines)
    require("POSTHORN_LOG_LEVEL" in lines[0] and "debug" in lines[0], lines[0])
    code, lines = mistaken(t, environment={"POSTHORN_AMQP_HARTBEAT": "5"})
    require("POSTHORN_AMQP_HARTBEAT" in " ".join(lines), lines)
    code, lines = mistaken(t, "[amqp]\nheartbeat = -1\n[log]\nlevel = 5\n[nothing]\nx = 1\n")
    equal(len(lines), 3, f"one line for each mistake: {lines}")
    code, lines = mistaken(t, "[amqp\nheartbeat")
    require("posthorn.toml:1" in " ".join(lines) or "posthorn.toml:2" in " ".join(lines), lines)


def test_bad_flags(t):
    for arguments in (["--amqp", "nonsense"], ["--amqp", "127.0.0.1:99999"], ["--no-such-flag"], ["--log-level", "loud"],
                      ["--config", "/no/such/file"], ["stray"]):
        done = posthornd(t, *arguments, "--print-config")
        require(done.returncode not in (0, 1) or done.returncode == 1 and done.stderr, f"{arguments}: {done.returncode}")
        require(done.returncode > 0, f"{arguments}: ended with {done.returncode}")
        lines = done.stderr.strip().splitlines()
        require(1 <= len(lines) <= 3, f"{arguments}: {done.stderr!r}")
        require(any(part.strip("-") in done.stderr for part in arguments), f"{arguments}: {done.stderr!r}")


def test_status_and_list_queues(t):
    node = t.node()
    url = ["--url", f"http://127.0.0.1:{node.http_port}"]
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("orders", durable=True)
        channel.queue("other", durable=True)
        channel.call("confirm.select")
        for n in range(3):
            channel.publish("", "orders", b"%d" % n, delivery_mode=2)
        channel.confirm()
        channel.consume("other")
        done = t.posthorn("list", "queues", "--json", *url)
        equal((done.returncode, done.stderr), (0, ""))
        listed = json.loads(done.stdout)
        rows = {row["name"]: row for row in (listed if isinstance(listed, list) else listed["queues"])}
        equal(set(rows), {"orders", "other"})
        numbers = {key: value for key, value in rows["orders"].items() if isinstance(value, int)}
        require(3 in numbers.values(), f"the row counts its messages: {rows['orders']}")
        done = t.posthorn("list", "queues", *url)
        equal(done.returncode, 0, done.stderr)
        require("orders" in done.stdout and "3" in done.stdout, done.stdout)
        done = t.posthorn("status", *url)
        equal(done.returncode, 0, done.stderr)
        done = t.posthorn("status", "--json", *url)
        equal(done.returncode, 0, done.stderr)
        json.loads(done.stdout)
    node.terminate()
    done = t.posthorn("status", *url)
    require(done.returncode > 0 and done.stderr, f"a node that is not there: {done.returncode} {done.stderr!r}")
    equal(len(done.stderr.strip().splitlines()), 1, done.stderr)


def test_exit_codes_of_the_command_line(t):
    posthornd(t, "--version")
    for arguments in ([], ["nonsense"], ["list"], ["list", "nonsense"], ["status", "--nonsense"],
                      ["verify", os.path.join(t.directory, "nothing here")],
                      ["status", "--url", f"http://127.0.0.1:{free_port()}"]):
        done = t.posthorn(*arguments)
        require(done.returncode > 0, f"posthorn {' '.join(arguments)}: exit code {done.returncode}")
        require(done.stderr.strip() or not arguments, f"posthorn {' '.join(arguments)}: no word on standard error")


def test_verify_a_good_store(t):
    node = t.node()
    with node.connect() as connection:
        channel = connection.channel()
        channel.queue("q", durable=True)
        channel.call("confirm.select")
        for n in range(1000):
            channel.publish("", "q", b"x" * (n * 20), delivery_mode=2)
        channel.confirm(timeout=30)
    node.terminate()
    done = t.posthorn("verify", node.data_dir)
    equal((done.returncode, done.stderr), (0, ""))
    require("1000" in done.stdout.replace(",", "").replace("'", ""), f"it says what it read: {done.stdout}")
    done = t.posthorn("verify", "--json", node.data_dir)
    equal(done.returncode, 0, done.stderr)
    json.loads(done.stdout)


def test_sighup_changes_the_log_level(t):
    path = os.path.join(t.directory, "live.toml")

    def write(level):
        with open(path, "w", encoding="ascii") as out:
            out.write(f'[log]\nlevel = "{level}"\n')
    write("warning")
    node = t.node(start=False)
    command = node.command()
    at = command.index("--log-level")
    node.command = lambda: command[:at] + command[at + 2:] + ["--config", path]
    node.start()

    def size():
        return os.path.getsize(node.log_path)
    write("debug")
    before = size()
    node.process.send_signal(signal.SIGHUP)

    def talks():
        node.connect().close()
        return size() > before + 50
    poll("the log becomes talkative", talks)
    require(not node.exited(), "SIGHUP does not end the node")
