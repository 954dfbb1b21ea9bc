"""The application of celery_queue.py: its settings, and what its workers run."""

import os
import time

from celery import Celery
from celery.exceptions import Reject
from kombu import Queue
from server import client, url

# The variable with the name of the connections.
CLIENT_NAME = "CLIENT_NAME"

app = Celery("tasks", broker=url(1), backend=url(2))
app.conf.update(
    task_queues=[Queue("celery"), Queue("other")],
    task_track_started=True,
    worker_send_task_events=True,
    task_send_sent_event=True,
    result_extended=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    broker_transport_options={
        "client_name": os.environ.get(CLIENT_NAME),
        # What a worker took and never finished goes to another after so long; looked for every second.
        "visibility_timeout": 10,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    redis_client_name=os.environ.get(CLIENT_NAME),
    worker_cancel_long_running_tasks_on_connection_loss=False,
    timezone="UTC",
)


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def fail(words):
    raise ValueError(words)


@app.task(bind=True, max_retries=3)
def flaky(self, failures):
    if self.request.retries < failures:
        raise self.retry(countdown=0.05, exc=RuntimeError(f"after {self.request.retries} retries"))
    return f"at retry {self.request.retries}"


@app.task
def note(key, word):
    client().rpush(key, word)


@app.task
def slow(seconds):
    time.sleep(seconds)
    return "slept"


@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 50})
    until_told = client()
    until_told.blpop("go on", timeout=20)
    return "all done"


@app.task
def limited():
    return time.time()


@app.task(bind=True)
def rejected(self):
    raise Reject("not mine", requeue=False)


@app.task(bind=True)
def where(self):
    return self.request.delivery_info["routing_key"]


@app.task(soft_time_limit=1)
def too_slow():
    time.sleep(30)


@app.task
def first_only(key):
    """Holds the first worker that takes it until that is killed; the second finishes it."""
    if client().incr(key) == 1:
        time.sleep(60)
    return "by the second"


@app.task
def failed(request, raised, traceback):
    client().rpush("errbacks", f"{type(raised).__name__}: {raised}")
