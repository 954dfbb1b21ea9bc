"""What the workers of rq_queue.py run."""

import time

from rq import get_current_job
from server import client


def add(a, b):
    return a + b


def fail(words):
    raise ValueError(words)


def flaky(key, failures):
    """Fails so many times."""
    tries = client().incr(key)
    if tries <= failures:
        raise RuntimeError(f"try {tries}")
    return f"at try {tries}"


def slow(seconds):
    time.sleep(seconds)


def note(key, word):
    client().rpush(key, word)


def progress(steps):
    job = get_current_job()
    for step in range(steps):
        job.meta["step"] = step + 1
        job.save_meta()
    return job.get_status().value


def succeeded(job, connection, result, *_):
    connection.rpush("callbacks", f"{job.id} returned {result}")


def failed(job, connection, kind, value, *_):
    connection.rpush("callbacks", f"{job.id} raised {kind.__name__}: {value}")
