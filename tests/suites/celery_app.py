"""The tasks that the workers of celery_workers.py run. What a task has done is a line in the file $CELERY_LEDGER."""
import os
import time

import celery
from celery import Celery
from kombu import Exchange, Queue

NAME = os.environ["CELERY_NAME"]  # no run shares queues with another

app = Celery("suites", broker=os.environ["CELERY_BROKER"], backend="rpc://")
app.conf.update(
    accept_content=["json"],
    task_serializer="json",
    result_serializer="json",
    task_track_started=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_connection_retry=True,
    broker_transport_options={"confirm_publish": True},
    control_exchange=f"{NAME}-control",
    event_exchange=f"{NAME}-events",
    event_queue_prefix=f"{NAME}-event",
    worker_send_task_events=True,
    task_default_queue=f"{NAME}-default",
    task_default_exchange=f"{NAME}-tasks",
    task_default_exchange_type="topic",
    task_default_routing_key="task.default",
    worker_prefetch_multiplier=1,
)
tasks = Exchange(f"{NAME}-tasks", type="topic")
app.conf.task_queues = [
    Queue(f"{NAME}-default", tasks, routing_key="task.default"),
    Queue(f"{NAME}-mail", tasks, routing_key="mail.*"),
    Queue(f"{NAME}-urgent", Exchange(f"{NAME}-urgent", type="direct"), routing_key="urgent"),
]
app.conf.task_routes = {
    "mail.*": {"exchange": f"{NAME}-tasks", "routing_key": "mail.out"},
    "urgent": {"queue": f"{NAME}-urgent"},
}


def note(*words):
    """One line, whole, whoever else writes."""
    line = " ".join(map(str, words)) + "\n"
    ledger = os.open(os.environ["CELERY_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, line.encode())
    finally:
        os.close(ledger)


@app.task(name="add")
def add(a, b):
    return a + b


@app.task(name="where", bind=True)
def where(self):
    return [self.request.delivery_info["routing_key"], self.request.hostname]


@app.task(name="mail.send", bind=True)
def mail(self, to):
    return [to, self.request.hostname]


@app.task(name="urgent", bind=True)
def urgent(self):
    return self.request.hostname


@app.task(name="flaky", bind=True, max_retries=5)
def flaky(self, key, failures, countdown):
    note("try", key, self.request.retries, time.time())
    if self.request.retries < failures:
        raise self.retry(countdown=countdown, exc=ValueError(f"failed {self.request.retries}"))
    return self.request.retries


@app.task(name="backing_off", autoretry_for=(KeyError,), retry_backoff=True, retry_jitter=False,
          retry_kwargs={"max_retries": 1}, bind=True)
def backing_off(self, key):
    note("try", key, self.request.retries, time.time())
    raise KeyError(key)


@app.task(name="broken")
def broken():
    raise ValueError("as it should")


@app.task(name="timed")
def timed(key):
    note("ran", key, time.time())
    return time.time()


@app.task(name="slow", bind=True)
def slow(self, key, seconds):
    note("began", key, self.request.hostname)
    time.sleep(seconds)
    note("ended", key, self.request.hostname)
    return key


@app.task(name="careful", bind=True, acks_late=True, reject_on_worker_lost=True)
def careful(self, key, gate):
    """Ends when the file `gate` is there; until then its worker can be killed in the middle."""
    again = bool(self.request.delivery_info.get("redelivered"))
    note("began", key, again, os.getpid(), self.request.hostname)
    while not os.path.exists(gate):
        time.sleep(0.02)
    note("ended", key, again, os.getpid(), self.request.hostname)
    return [key, again]


@app.task(name="careless", bind=True)
def careless(self, key, gate):
    """The same, acknowledged before it runs."""
    note("began", key, False, os.getpid(), self.request.hostname)
    while not os.path.exists(gate):
        time.sleep(0.02)
    return key


@app.task(name="rejecting", bind=True, acks_late=True)
def rejecting(self, key):
    again = bool(self.request.delivery_info.get("redelivered"))
    note("began", key, again)
    if not again:
        raise celery.exceptions.Reject("not this time", requeue=True)
    return again


@app.task(name="total")
def total(values):
    return sum(values)
