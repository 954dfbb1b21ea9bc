"""Celery with Redis for its broker and for its results, and worker processes that run the tasks."""

import os
import time
import uuid
from datetime import datetime, timedelta, timezone
from threading import Thread

from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.result import AsyncResult, GroupResult
from celery_tasks import CLIENT_NAME, add, app, fail, failed, first_only, flaky, note, progress, rejected, slow, too_slow, total, where
from server import Worker, client, lose, run, until
from transcript import say

TIMEOUT_S = 60
# What the worker's connections are called, and this program's are not.
WORKER_NAME = "worker"
TASKS = 30
LOOKS = 300


def worker(name):
    here = os.path.dirname(os.path.abspath(__file__))
    return Worker("-m", "celery", "--quiet", "--workdir", here, "--app", "celery_tasks", "worker", "--pool", "prefork",
                  "--concurrency", "2", "--hostname", f"{name}@here", "--queues", "celery,other", "--loglevel", "WARNING",
                  variables={CLIENT_NAME: WORKER_NAME})


def wait_for(name):
    until(f"{name} is there", lambda: app.control.ping(destination=[f"{name}@here"], timeout=1))


def got(result):
    """What a task returned or raised."""
    try:
        return result.get(timeout=TIMEOUT_S)
    except Exception as raised:
        return raised


def looked_up(result):
    """The same for whoever knows nothing but its id."""
    return AsyncResult(result.id, app=app)


def calls():
    say("add", got(add.delay(1, 2)))
    say("many", got(group(add.s(n, n) for n in range(TASKS)).apply_async()))
    say("fails", got(fail.delay("these words")))
    result = fail.delay("more words")
    result.get(timeout=TIMEOUT_S, propagate=False)
    say("failed", (result.state, result.successful(), result.failed(), type(result.result).__name__, "more words" in result.traceback))
    result = add.apply_async((2, 2), task_id=f"mine-{uuid.uuid4()}")
    say("by id", (got(result), looked_up(result).state, looked_up(result).result))
    say("looks", {(one.state, one.result) for one in (looked_up(result) for _ in range(LOOKS))})
    say("extended", (looked_up(result).name, looked_up(result).args, looked_up(result).worker))
    say("forget", (result.forget(), looked_up(result).state))
    result = progress.delay()
    until("it makes progress", lambda: result.state == "PROGRESS")
    say("progress", result.info)
    client().rpush("go on", 1)
    say("progress", (got(result), result.state))
    rejected.delay()
    result = add.apply_async((1, 1), ignore_result=True)
    say("ignored", result.state)
    say("too slow", got(too_slow.delay()))


def canvas():
    say("chain", got(chain(add.s(1, 2), add.s(3), add.s(4))()))
    say("chord", got(chord((add.s(n, n) for n in range(10)), total.s())()))
    say("nested", got(chord([group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)], total.s())()))
    say("chain of chords", got((group(add.s(1, 1), add.s(2, 2)) | total.s() | add.s(100))()))
    raised = got(chord([add.s(1, 1), fail.s("in a chord")], total.s())())
    say("chord with a failure", (isinstance(raised, ChordError), "in a chord" in str(raised)))
    saved = group(add.s(n, 1) for n in range(5)).apply_async()
    saved.save()
    say("saved", (got(saved), len(GroupResult.restore(saved.id, app=app).results), GroupResult.restore(saved.id, app=app).join(timeout=TIMEOUT_S)))
    saved.delete()
    r = client()
    r.delete("links", "errbacks")
    got(note.apply_async(("links", "task"), link=note.si("links", "link")))
    until("the link is called", lambda: r.llen("links") == 2)
    say("links", r.lrange("links", 0, -1))
    got(fail.apply_async(("for an errback",), link_error=failed.s()))
    until("the errback is called", lambda: r.llen("errbacks") == 1)
    say("errbacks", r.lrange("errbacks", 0, -1))
    say("map", (got(add.chunks([(n, n) for n in range(6)], 3)()), got(add.starmap([(1, 2), (3, 4)]).delay())))


def retries():
    say("flaky", got(flaky.delay(2)))
    say("hopeless", got(flaky.delay(9)))


def times():
    asked = time.time()
    result = add.apply_async((5, 5), countdown=0.6)
    say("countdown", (got(result), time.time() - asked >= 0.6))
    result = add.apply_async((6, 6), eta=datetime.now(timezone.utc) + timedelta(seconds=0.5))
    say("eta", got(result))
    say("expired", got(add.apply_async((1, 1), expires=datetime.now(timezone.utc) - timedelta(seconds=1))))


def revoking():
    far = add.apply_async((7, 7), countdown=30)
    until("it is scheduled", lambda: any((app.control.inspect(timeout=2).scheduled() or {}).get("first@here", [])))
    [scheduled] = app.control.inspect(timeout=5).scheduled()["first@here"]
    say("scheduled", (scheduled["request"]["name"], scheduled["request"]["args"], scheduled["request"]["id"] == far.id))
    far.revoke()
    say("revoked", (got(far), far.state))
    running = slow.delay(60)
    until("it runs", lambda: running.state == "STARTED")
    running.revoke(terminate=True, signal="SIGKILL")
    say("terminated", (got(running), running.state))
    say("after", got(add.delay(1, 1)))


def control():
    inspect = app.control.inspect(destination=["first@here"], timeout=10)
    say("ping", app.control.ping(destination=["first@here"], timeout=10))
    say("registered", [name for name in inspect.registered()["first@here"] if name.startswith("celery_tasks")])
    say("queues", sorted(one["name"] for one in inspect.active_queues()["first@here"]))
    stats = inspect.stats()["first@here"]
    say("stats", (stats["broker"]["transport"], stats["pool"]["max-concurrency"]))
    say("rate limit", app.control.rate_limit("celery_tasks.limited", "100/s", destination=["first@here"], reply=True, timeout=10))
    say("consumer", app.control.add_consumer("extra", destination=["first@here"], reply=True, timeout=10))
    say("routed", [got(where.apply_async(queue=queue)) for queue in ["celery", "other", "extra"]])
    say("cancel consumer", app.control.cancel_consumer("extra", destination=["first@here"], reply=True, timeout=10))
    say("events", events())
    say("purge", app.control.purge())


def events():
    """What the worker tells of a task, to whoever listens."""
    heard = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": heard.append})
        listening = Thread(target=lambda: receiver.capture(timeout=TIMEOUT_S))
        listening.start()
        until("the worker is heard", lambda: heard)
        result = add.delay(8, 8)
        until("it is told", lambda: any(event["type"] == "task-succeeded" and event["uuid"] == result.id for event in heard))
        receiver.should_stop = True
        listening.join()
    return {event["type"] for event in heard if event.get("uuid") == result.id}


def losses():
    result = slow.delay(1)
    until("it runs", lambda: result.state == "STARTED")
    lose(WORKER_NAME, "brpop")
    say("after a loss", (got(result), got(add.delay(9, 9)), got(group(add.s(n, 1) for n in range(5))())))


def together():
    """One worker process for what follows, as an application has one."""
    with worker("first"):
        wait_for("first")
        for step in [calls, canvas, retries, times, revoking, control, losses]:
            step()


def a_lost_worker():
    """What a killed worker had begun is given to the next one."""
    with worker("second") as second:
        wait_for("second")
        result = first_only.delay("taken")
        until("it is taken", lambda: client().get("taken") == b"1")
        second.kill()
    with worker("third"):
        say("finished", got(result))


run([together, a_lost_worker])
