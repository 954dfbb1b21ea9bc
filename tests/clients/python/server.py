"""Where the server is, and how a workload runs: every step twice, each round on emptied databases.

../ecosystem.rs says what a workload is. Its variables are handed down to the workers that a workload starts.
"""

import os
import signal
import subprocess
import sys
import time

import redis
from transcript import SAID

ROUNDS = 2
# What comes by itself is looked for every so often, and so many times.
POLL_INTERVAL_S = 0.01
POLLS_MAX = 4_000
# A worker that is asked to end finishes what it is at.
STOP_S = 20


def url(database=0):
    """As redis-py reads it, and what is built on that."""
    user, password = os.environ.get("REDIS_USERNAME"), os.environ.get("REDIS_PASSWORD")
    login = f"{user}:{password}@" if user else ""
    return f"redis://{login}{os.environ['REDIS_HOST']}:{os.environ['REDIS_PORT']}/{database}"


def url_of(name, database=0):
    """In the protocol that is asked for, on connections of that name."""
    return f"{url(database)}?protocol={os.environ['REDIS_PROTOCOL']}&client_name={name}"


def client():
    return redis.Redis.from_url(url_of("workload"))


def lose(name, waiting=None):
    """Kills every connection of that name, once one of them is at the command that it waits in."""
    r = client()

    def named():
        return [one for one in r.client_list() if one["name"] == name]

    until(f"{name} is at {waiting}", lambda: waiting is None or waiting in [one["cmd"] for one in named()])
    for one in named():
        r.client_kill_filter(_id=one["id"])
    r.close()


def until(what, holds):
    """Looks until it is so, and returns what it then is; fails when it never is."""
    for _ in range(POLLS_MAX):
        if value := holds():
            return value
        time.sleep(POLL_INTERVAL_S)
    raise AssertionError(f"never came true: {what}")


class Worker:
    """A Python program beside this one, which is gone when the `with` block is over."""

    def __init__(self, *words, variables={}):
        self._words = words
        self._variables = variables

    def __enter__(self):
        # What it logs is wanted only when something fails, and then it stands in the workload's standard error.
        self._process = subprocess.Popen([sys.executable, "-s", "-B", *self._words],
                                         stdout=sys.stderr, env=os.environ | self._variables)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def run(steps, clean=lambda: None):
    asked = [argument.removeprefix("--step=") for argument in sys.argv[1:] if argument.startswith("--step=")]
    for number in range(ROUNDS):
        cleaner = client()
        cleaner.flushall()
        cleaner.script_flush()
        cleaner.close()
        clean()
        for step in steps:
            if asked and step.__name__ not in asked:
                continue
            SAID.step = f"{number}/{step.__name__}"
            step()
    print("done", flush=True)
