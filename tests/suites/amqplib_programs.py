"""Programs with npm's amqplib: its own tutorials, unchanged and each a process, and programs of ours in node/."""
import os
import sys

import amqplib_suite
from harness import equal, poll, require
from processes import program, relay

HERE = os.path.dirname(os.path.abspath(__file__))


def run(bench):
    if not bench.options.node_modules:
        bench.report("modules", "FAIL", 0, "no --node-modules given")
        return
    bench.functions(sys.modules[__name__])


def example(bench, name, *arguments):
    """One of amqplib's examples, as its package has it."""
    path = os.path.join(os.path.abspath(bench.options.node_modules), "amqplib", "examples", name)
    return program(bench, ["node", path, *arguments], amqplib_suite.environment(bench))


def ours(bench, name, *arguments, port=None):
    environment = amqplib_suite.environment(bench)
    if port:
        environment["AMQP_PORT"] = str(port)
    return program(bench, ["node", os.path.join(HERE, "node", name), *arguments], environment)


def emptied(bench, *queues):
    """The examples name their queues themselves: what an earlier run left goes first."""
    with bench.broker.connect() as connection:
        channel = connection.channel()
        for queue in queues:
            channel.call("queue.delete", queue=queue)


def test_tutorial_1_hello(bench):
    for folder in ("tutorials", "tutorials/callback_api"):
        emptied(bench, "hello")
        example(bench, f"{folder}/send.js").ends()
        receiver = example(bench, f"{folder}/receive.js")
        receiver.wait_for("Received 'Hello World!'")
        receiver.interrupt()
        receiver.ends()


def test_tutorial_2_work_queue(bench):
    """Tasks are shared out, and those of a worker that was killed come again."""
    for folder in ("tutorials", "tutorials/callback_api"):
        emptied(bench, "task_queue")
        workers = [example(bench, f"{folder}/worker.js") for _ in range(2)]
        for worker in workers:
            worker.wait_for("Waiting for messages")
        for number in range(4):
            example(bench, f"{folder}/new_task.js", f"task {number}").ends()
        for worker in workers:
            worker.wait_for("[x] Received", times=2)
            worker.wait_for("[x] Done", times=2)
        example(bench, f"{folder}/new_task.js", "long", "." * 60).ends()
        held = "Received 'long"
        holder = poll("a worker is given the long task", lambda: next((w for w in workers if w.said(held)), None))
        other = next(w for w in workers if w is not holder)
        holder.kill()
        other.wait_for(held)
        other.kill()


def test_tutorial_3_fanout(bench):
    for folder in ("tutorials", "tutorials/callback_api"):
        readers = [example(bench, f"{folder}/receive_logs.js") for _ in range(2)]
        for reader in readers:
            reader.wait_for("Waiting for logs")
        example(bench, f"{folder}/emit_log.js", "all of you").ends()
        for reader in readers:
            reader.wait_for("'all of you'")
            reader.interrupt()
            reader.ends()


def test_tutorial_4_direct(bench):
    for folder in ("tutorials", "tutorials/callback_api"):
        reader = example(bench, f"{folder}/receive_logs_direct.js", "warning", "error")
        reader.wait_for("Waiting for logs")
        for severity in ("info", "warning", "error"):
            example(bench, f"{folder}/emit_log_direct.js", severity, f"an {severity}").ends()
        reader.wait_for("error:'an error'")
        equal([line for line in reader.lines if "'an " in line], [" [x] warning:'an warning'", " [x] error:'an error'"])
        reader.interrupt()
        reader.ends()


def test_tutorial_5_topic(bench):
    for folder in ("tutorials", "tutorials/callback_api"):
        reader = example(bench, f"{folder}/receive_logs_topic.js", "kern.*", "*.critical")
        reader.wait_for("Waiting for logs")
        for key in ("kern.info", "cron.info", "kern.critical", "a.b.critical", "cron.critical"):
            example(bench, f"{folder}/emit_log_topic.js", key, key).ends()
        reader.wait_for("cron.critical:'cron.critical'")
        equal([line.split("'")[1] for line in reader.lines if "[x]" in line],
              ["kern.info", "kern.critical", "cron.critical"])
        reader.interrupt()
        reader.ends()


def test_tutorial_6_rpc(bench):
    for folder in ("tutorials", "tutorials/callback_api"):
        emptied(bench, "rpc_queue")
        server = example(bench, f"{folder}/rpc_server.js")
        server.wait_for("Awaiting RPC requests")
        clients = [example(bench, f"{folder}/rpc_client.js", str(n)) for n in (1, 10, 30)]
        for client, value in zip(clients, (1, 55, 832040)):
            require(f"Got {value}" in client.ends(), f"no answer {value}:\n{client.text()}")
        server.interrupt()
        server.ends()


def test_example_direct_reply_to(bench):
    emptied(bench, "rpc_queue")
    server = example(bench, "direct_reply_to_server.js")
    server.wait_for("To exit press")
    require("[.] pong" in example(bench, "direct_reply_to_client.js").ends(), "no pong")
    server.wait_for("[X] ping")


def test_example_headers(bench):
    reader = example(bench, "headers.js")
    reader.wait_for("hello", times=2)
    require(not reader.said("lost"), reader.text())
    reader.interrupt()
    reader.ends()


def test_example_wait_for_confirms(bench):
    require("All messages done" in example(bench, "waitForConfirms.js").ends(), "not confirmed")


def test_example_stream(bench):
    """Two readers, one after the other, get the same messages from the first on."""
    emptied(bench, "my_first_stream")
    for _ in range(3):
        example(bench, "stream_queues/send_stream.js").ends()
    for _ in range(2):
        reader = example(bench, "stream_queues/receive_stream.js")
        reader.wait_for("Received 'Hello World!", times=3)
        reader.kill()
    emptied(bench, "my_first_stream")


def test_confirm_channel(bench):
    ours(bench, "confirms.js", bench.unique("confirms"), "5000").ends()


def test_rpc_many_clients(bench):
    ours(bench, "rpc.js", bench.unique("rpc")).ends()


def test_rpc_direct_reply_to(bench):
    ours(bench, "rpc.js", bench.unique("rpc"), "direct").ends()


def test_work_queue_prefetch(bench):
    ours(bench, "work.js", bench.unique("work")).ends()


def test_topics_and_returns(bench):
    ours(bench, "topics.js", bench.unique("topics")).ends()


def test_values_of_headers_come_back(bench):
    ours(bench, "headers.js", bench.unique("headers")).ends()


def test_dead_letters_and_delays(bench):
    ours(bench, "dead_letters.js", bench.unique("dead")).ends()


def test_reconnect_after_cuts(bench):
    """A publisher and a consumer that recover by themselves, while their connections are cut: all messages come."""
    between = relay(bench, bench.port)
    reconnecting = ours(bench, "reconnect.js", bench.unique("cut"), "400", port=between.port)
    for progress in (50, 150, 250):
        reconnecting.wait_for(f"received {progress}")
        between.cut()
    reconnecting.ends(60)
    require(between.taken >= 4, f"only {between.taken} connections: nothing was cut")


def test_reconnect_after_kill(bench):
    """The same, while the node is killed."""
    node = bench.node("killed")
    reconnecting = ours(bench, "reconnect.js", bench.unique("kill"), "400", port=node.port)
    for progress in (50, 150):
        reconnecting.wait_for(f"received {progress}")
        node.kill()
        node.start()
    reconnecting.ends(60)
