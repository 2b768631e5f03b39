"""Celery with real worker processes: retries, times, queues, routes, revocation, and workers that are killed."""
import contextlib
import functools
import importlib
import importlib.util
import os
import signal
import sys
import threading
import time

import harness
from harness import equal, require
from processes import program, relay

HERE = os.path.dirname(os.path.abspath(__file__))
RESULT_WITHIN = 30


def run(bench):
    bench.functions(sys.modules[__name__], prepare=fresh)


def fresh(bench):
    """For each test an application with queues and a ledger of its own: nothing that one leaves disturbs the next.

    The ledger is where the tasks write down what they do.
    """
    bench.celery_name = bench.unique("celery")
    bench.celery_ledger = os.path.join(bench.directory, f"{bench.celery_name}.ledger")
    os.environ.update(environment(bench))
    found = importlib.util.spec_from_file_location("celery_app", os.path.join(HERE, "celery_app.py"))
    bench.tasks = importlib.util.module_from_spec(found)
    found.loader.exec_module(bench.tasks)
    bench.on_exit(functools.partial(remove_queues, bench.tasks.app))


def remove_queues(app):
    with app.connection() as connection:
        for queue in app.conf.task_queues:
            bound = queue(connection.default_channel)
            bound.delete()
            bound.exchange.delete()
    app.close()


def environment(bench, port=None):
    inherited = os.environ.get("PYTHONPATH", "")
    folders = dict.fromkeys([HERE, *filter(None, inherited.split(os.pathsep))])
    return {"CELERY_BROKER": f"amqp://guest:guest@127.0.0.1:{port or bench.port}//", "CELERY_NAME": bench.celery_name,
            "CELERY_LEDGER": bench.celery_ledger, "PYTHONPATH": os.pathsep.join(folders),
            "PYTHONDONTWRITEBYTECODE": "1", "C_FORCE_ROOT": "1"}


def worker(bench, name, *arguments, queues=("default",), concurrency=1, port=None, wait=True):
    """A worker of its own processes, which is ready."""
    made = program(bench, [sys.executable, "-B", "-m", "celery", "-A", "celery_app", "worker", "-l", "INFO", "-n",
                           f"{name}@{bench.celery_name}", "-c", str(concurrency), "-Q",
                           ",".join(f"{bench.celery_name}-{queue}" for queue in queues), *arguments],
                   environment(bench, port), cwd=bench.directory)
    if wait:
        made.wait_for(" ready.", timeout=60)
    return made


def lines(bench, *start):
    """The lines of the ledger that start with these words, each as a list of words."""
    try:
        with open(bench.celery_ledger, encoding="utf-8") as ledger:
            words = [line.split() for line in ledger]
    except FileNotFoundError:
        return []
    return [each for each in words if each[:len(start)] == list(start)]


def poll(what, condition, timeout=30.0):
    """As the harness's, with the time that starting processes of Python takes on a busy machine."""
    return harness.poll(what, condition, timeout)


def tasks_run(bench, stem):
    """How many tasks of this stem have run, not counting those that ran twice."""
    return len({each[1] for each in lines(bench, "ran") if each[1].startswith(f"{stem}-")})


def came(result, timeout=RESULT_WITHIN):
    return result.get(timeout=timeout)


def test_results_of_many_tasks(bench):
    worker(bench, "many", concurrency=2)
    results = [bench.tasks.add.delay(n, n) for n in range(100)]
    equal([came(each) for each in results], [2 * n for n in range(100)])
    try:
        came(bench.tasks.broken.delay())
    except ValueError as error:
        equal(str(error), "as it should")
    else:
        raise AssertionError("a task that failed gave a result")


def test_chains_and_groups(bench):
    from celery import chain, group
    worker(bench, "chains")
    equal(came(chain(bench.tasks.add.s(1, 2), bench.tasks.add.s(10), bench.tasks.add.s(100)).delay()), 113)
    equal(came(group(bench.tasks.add.s(n, 1) for n in range(10)).delay()), list(range(1, 11)))


def test_retries(bench):
    worker(bench, "retries", "--prefetch-multiplier", "4", concurrency=2)
    name = bench.unique("retry")
    equal(came(bench.tasks.flaky.delay(name, 3, 0.3)), 3)
    tries = lines(bench, "try", name)
    equal([each[2] for each in tries], ["0", "1", "2", "3"])
    times = [float(each[3]) for each in tries]
    require(all(b - a >= 0.29 for a, b in zip(times, times[1:])), f"tried too early: {times}")
    try:
        came(bench.tasks.flaky.apply_async((name + "x", 99, 0.01), retry=True))
    except ValueError as error:
        equal(str(error), "failed 5")
    else:
        raise AssertionError("it went on after its retries")
    try:
        came(bench.tasks.backing_off.delay(name + "y"))
    except KeyError:
        pass
    equal(len(lines(bench, "try", name + "y")), 2)


def test_eta_and_countdown(bench):
    from datetime import datetime, timedelta, timezone
    worker(bench, "times", "--prefetch-multiplier", "4")
    since = time.time()
    late = bench.tasks.timed.apply_async(("late",), eta=datetime.now(timezone.utc) + timedelta(seconds=4))
    soon = bench.tasks.timed.apply_async(("soon",), countdown=2)
    now = bench.tasks.timed.delay("now")
    ran = [came(each) - since for each in (now, soon, late)]
    require(ran[0] < ran[1] and ran[1] >= 2 and ran[2] >= 4, f"they ran after {ran} s")
    equal([each[1] for each in lines(bench, "ran")], ["now", "soon", "late"])


def test_expired_tasks_do_not_run(bench):
    """The time is the message's own, and the broker's to keep: no worker sees it."""
    bench.tasks.timed.apply_async(("expired",), expires=0.1)
    bench.tasks.timed.apply_async(("alive",), expires=600)
    time_is_over = time.time() + 0.2
    poll("its time is over", lambda: time.time() > time_is_over)
    worker(bench, "expiry")
    came(bench.tasks.timed.delay("last"))
    equal([each[1] for each in lines(bench, "ran")], ["alive", "last"])


def test_several_queues_and_routes(bench):
    started = [worker(bench, queue, queues=[queue], wait=False) for queue in ("mail", "urgent", "default")]
    for each in started:
        each.wait_for(" ready.", timeout=60)
    mails = [bench.tasks.mail.delay(n) for n in range(5)]
    equal([came(each) for each in mails], [[n, f"mail@{bench.celery_name}"] for n in range(5)])
    equal(came(bench.tasks.urgent.delay()), f"urgent@{bench.celery_name}")
    equal(came(bench.tasks.where.delay()), ["task.default", f"default@{bench.celery_name}"])
    equal(came(bench.tasks.where.apply_async(queue=f"{bench.celery_name}-urgent"))[1], f"urgent@{bench.celery_name}")
    equal(came(bench.tasks.where.apply_async(exchange=f"{bench.celery_name}-tasks", routing_key="mail.in")),
          ["mail.in", f"mail@{bench.celery_name}"])


def test_revoked_before_it_runs(bench):
    from celery.exceptions import TaskRevokedError
    worker(bench, "revoking")
    name = bench.unique("revoked")
    result = bench.tasks.timed.apply_async((name,), countdown=8)
    control = bench.tasks.app.control
    poll("the worker has it", lambda: result.id in str(control.inspect(timeout=1).scheduled()), 40)
    result.revoke()
    try:
        came(result)
    except TaskRevokedError:
        pass
    else:
        raise AssertionError("it ran")
    equal(lines(bench, "ran", name), [])


def test_revoked_while_it_runs(bench):
    from celery.exceptions import TaskRevokedError
    worker(bench, "ending", concurrency=1)
    name = bench.unique("ended")
    result = bench.tasks.slow.delay(name, 60)
    poll("it runs", lambda: lines(bench, "began", name))
    result.revoke(terminate=True, signal="SIGKILL")
    try:
        came(result)
    except TaskRevokedError:
        pass
    else:
        raise AssertionError("it ran to its end")
    equal(came(bench.tasks.add.delay(1, 1)), 2, "the worker goes on")
    equal(lines(bench, "ended", name), [])


def test_prefetch_shares_the_work(bench):
    """With a prefetch of one and late acknowledgements, a worker that is busy takes nothing from the next worker."""
    gate, name = os.path.join(bench.directory, bench.unique("gate")), bench.unique("share")
    busy = worker(bench, "busy")
    held = bench.tasks.careful.delay(name, gate)
    poll("it runs", lambda: lines(bench, "began", name))
    others = [bench.tasks.where.delay() for _ in range(5)]
    worker(bench, "free")
    equal({came(each)[1] for each in others}, {f"free@{bench.celery_name}"}, "who ran the others")
    require(busy.process.poll() is None and not lines(bench, "ended", name), "the busy worker was not busy")
    with open(gate, "wb"):
        pass
    equal(came(held), [name, False])


def test_killed_worker_with_acks_late(bench):
    """A worker dies of SIGKILL with all its processes in the middle of a task: the task comes again, elsewhere."""
    gate, name = os.path.join(bench.directory, bench.unique("gate")), bench.unique("killed")
    first = worker(bench, "victim")
    result = bench.tasks.careful.delay(name, gate)
    poll("it runs", lambda: lines(bench, "began", name))
    worker(bench, "heir")
    first.kill()
    again = poll("it runs again", lambda: lines(bench, "began", name)[1:])
    equal((again[0][2], again[0][4]), ("True", f"heir@{bench.celery_name}"))
    with open(gate, "wb"):
        pass
    equal(came(result), [name, True])
    equal(len(lines(bench, "ended", name)), 1)


def test_killed_worker_without_acks_late(bench):
    """What was acknowledged before it ran is gone with its worker, and does not come again."""
    gate, name = os.path.join(bench.directory, bench.unique("gate")), bench.unique("gone")
    first = worker(bench, "victim")
    bench.tasks.careless.delay(name, gate)
    poll("it runs", lambda: lines(bench, "began", name))
    first.kill()
    worker(bench, "heir")
    equal(came(bench.tasks.add.delay(2, 3)), 5, "what was sent after it")
    equal(len(lines(bench, "began", name)), 1)


def test_killed_child_of_a_worker(bench):
    """Only the process that runs the task dies: the worker gives the message back, and runs it again."""
    gate, name = os.path.join(bench.directory, bench.unique("gate")), bench.unique("child")
    worker(bench, "parent")
    result = bench.tasks.careful.delay(name, gate)
    pid = int(poll("it runs", lambda: lines(bench, "began", name))[0][3])
    os.kill(pid, signal.SIGKILL)
    again = poll("it runs again", lambda: lines(bench, "began", name)[1:])
    equal(again[0][2], "True")
    with open(gate, "wb"):
        pass
    equal(came(result), [name, True])


def test_rejected_with_requeue(bench):
    worker(bench, "rejecting")
    name = bench.unique("rejected")
    equal(came(bench.tasks.rejecting.delay(name)), True)
    equal([each[2] for each in lines(bench, "began", name)], ["False", "True"])


def consumers(bench, queue):
    """How many the queue has, or None if there is no queue. A worker answers before it has done what it was told."""
    with bench.tasks.app.connection() as connection:
        try:
            return connection.default_channel.queue_declare(queue, passive=True).consumer_count
        except connection.channel_errors:
            return None


def test_remote_control(bench):
    """Broadcasts and their answers: ping, what is consumed, queues added and cancelled."""
    names = [f"{each}@{bench.celery_name}" for each in ("one", "two")]
    for each in ("one", "two"):
        worker(bench, each)
    control = bench.tasks.app.control
    poll("both answer", lambda: len(control.ping(timeout=2)) == 2, 40)
    equal(sorted(key for each in control.ping(timeout=2) for key in each), names)
    queues = control.inspect(timeout=5, destination=names[:1]).active_queues()
    equal([each["name"] for each in queues[names[0]]], [f"{bench.celery_name}-default"])
    mail = f"{bench.celery_name}-mail"
    control.add_consumer(mail, destination=names[:1], reply=True, timeout=5)
    poll("one consumes", lambda: consumers(bench, mail) == 1)
    equal(came(bench.tasks.mail.delay("a")), ["a", names[0]])
    control.cancel_consumer(mail, destination=names[:1], reply=True, timeout=5)
    poll("nobody consumes", lambda: consumers(bench, mail) == 0)
    later = bench.tasks.mail.delay("b")
    control.add_consumer(mail, destination=names[1:], reply=True, timeout=5)
    equal(came(later), ["b", names[1]])
    stats = control.inspect(timeout=5, destination=names).stats()
    equal(sorted(stats), names)


def test_events(bench):
    """Who watches hears each step of a task."""
    app = bench.tasks.app
    seen, connected = [], threading.Event()
    worker(bench, "watched")

    def watch():
        with app.connection() as connection:
            receiver = app.events.Receiver(connection, handlers={
                "task-succeeded": lambda event: seen.append(("succeeded", event["uuid"])),
                "task-started": lambda event: seen.append(("started", event["uuid"]))})
            receiver.on_consume_ready = lambda *_, **__: connected.set()
            with contextlib.suppress(Exception):
                receiver.capture(limit=None, timeout=25, wakeup=False)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    require(connected.wait(10), "nobody watches")

    result = bench.tasks.add.delay(1, 1)
    poll("a task's steps are heard", lambda: len([each for each in seen if each[1] == result.id]) == 2, 40)
    equal([each[0] for each in seen if each[1] == result.id], ["started", "succeeded"])


def test_worker_survives_cuts(bench):
    """The worker's connection is cut while tasks run and come: it connects again, and every task is done."""
    between, name = relay(bench, bench.port), bench.unique("cut")
    cut = worker(bench, "cut", port=between.port)
    results = []
    for n in range(30):
        results.append(bench.tasks.timed.delay(f"{name}-{n}"))
        if n in (10, 20):
            taken = between.taken
            between.cut()
            poll("it connects again", lambda: between.taken > taken, 40)
    poll("all are done", lambda: tasks_run(bench, name) == 30, 40)
    require(cut.process.poll() is None, cut.text())


def test_node_killed_with_tasks_waiting(bench):
    """Tasks wait in the broker while it is killed; and a worker that was connected all along does them."""
    node = bench.node("killed")
    from celery import Celery
    sender = Celery("sender", broker=f"amqp://guest:guest@127.0.0.1:{node.port}//")
    sender.conf.update(bench.tasks.app.conf.changes)
    sender.conf.broker_url = f"amqp://guest:guest@127.0.0.1:{node.port}//"
    name = bench.unique("waiting")
    steady = worker(bench, "steady", port=node.port)
    steady.process.send_signal(signal.SIGSTOP)
    for n in range(20):
        sender.send_task("timed", (f"{name}-{n}",), exchange=f"{bench.celery_name}-tasks", routing_key="task.default")
    node.kill()
    node.start()
    steady.process.send_signal(signal.SIGCONT)
    poll("all are done", lambda: tasks_run(bench, name) == 20, 40)
