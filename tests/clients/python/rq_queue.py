"""RQ: queues, and a worker process that forks one for each job."""

import os
from datetime import timedelta

import rq_tasks
from rq import Callback, Queue, Repeat, Retry
from rq.command import send_shutdown_command, send_stop_job_command
from rq.exceptions import NoSuchJobError
from rq.group import Group
from rq.job import Job
from rq.registry import DeferredJobRegistry, FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry
from rq.worker import Worker as Registered
from server import Worker, client, lose, run, until, url_of
from transcript import say

JOBS = 12
LOOKS = 60


def worker(name, *options):
    here = os.path.dirname(os.path.abspath(__file__))
    return Worker("-m", "rq.cli", "worker", "--quiet", "--url", url_of(name), "--path", here, "--name", name,
                  *options, "urgent", "default")


def ended(job, *states):
    """The state that a job comes to rest in."""
    states = states or ("finished", "failed", "stopped", "canceled")
    return until(f"{job.id} ends", lambda: (state := job.get_status().value) in states and state)


def queues():
    """Without a worker yet."""
    r = client()
    default, urgent = Queue("default", connection=r), Queue("urgent", connection=r)
    job = default.enqueue(rq_tasks.add, 1, 2, job_id="add", description="adds")
    say("queued", (job.get_status().value, default.count, default.job_ids, job.get_position()))
    kept = Job.fetch("add", connection=r)
    say("kept", (kept.func_name, kept.args, kept.description, kept.origin))
    say("front", (default.enqueue(rq_tasks.add, 1, 1, job_id="front", at_front=True).id, default.job_ids))
    default.enqueue_many([Queue.prepare_data(rq_tasks.add, (n, n), job_id=f"many-{n}") for n in range(3)])
    say("many", (default.job_ids, default.get_jobs(1, 2)[0].id))
    say("cancel", (Job.fetch("many-1", connection=r).cancel(), default.job_ids))
    say("delete", (Job.fetch("many-2", connection=r).delete(), Job.exists("many-2", connection=r)))
    try:
        Job.fetch("many-2", connection=r)
    except NoSuchJobError as raised:
        say("no such job", str(raised))
    say("queues", sorted(queue.name for queue in Queue.all(connection=r)))
    say("empty", (default.empty(), default.count, urgent.is_empty()))
    say("delete", (default.delete(), sorted(queue.name for queue in Queue.all(connection=r))))


def work():
    r = client()
    default, urgent = Queue("default", connection=r), Queue("urgent", connection=r)
    with worker("first"):
        until("it is there", lambda: Registered.count(connection=r) == 1)
        job = default.enqueue(rq_tasks.add, 1, 2, job_id="add")
        say("add", (ended(job), job.return_value(), job.latest_result().type.name, job.get_status().value))
        jobs = [default.enqueue(rq_tasks.add, n, n, job_id=f"j{n}") for n in range(JOBS)]
        say("results", [(ended(job), job.return_value()) for job in jobs])
        # What shows the state of jobs looks again and again; the cache answers.
        say("looks", {tuple(Job.fetch(job.id, connection=r).return_value() for job in jobs[:5]) for _ in range(LOOKS)})
        job = default.enqueue(rq_tasks.fail, "these words", job_id="fails")
        say("fails", (ended(job), job.latest_result().exc_string.strip().splitlines()[-1]))
        say("failed", FailedJobRegistry(queue=default).get_job_ids())
        job = default.enqueue(rq_tasks.flaky, "tries", 2, job_id="flaky", retry=Retry(max=3))
        say("flaky", (ended(job, "finished"), job.return_value(), [one.type.name for one in job.results()]))
        job = default.enqueue(rq_tasks.flaky, "tries again", 1, job_id="requeued")
        say("requeued", (ended(job), job.requeue().id, ended(job, "finished"), job.return_value()))
        job = default.enqueue(rq_tasks.progress, 5, job_id="progress")
        say("progress", (ended(job), job.return_value(), job.get_meta()))
        job = default.enqueue(rq_tasks.slow, 60, job_id="too-slow", job_timeout=1)
        say("too slow", (ended(job), "JobTimeoutException" in job.latest_result().exc_string))
        job = default.enqueue(rq_tasks.slow, 60, job_id="stopped")
        until("it runs", lambda: job.get_status().value == "started")
        until("it can be stopped", lambda: job.get_executions())
        send_stop_job_command(r, "stopped")
        say("stopped", ended(job))
        r.delete("callbacks")
        callbacks = {"on_success": Callback(rq_tasks.succeeded), "on_failure": Callback(rq_tasks.failed)}
        for name, job in [("good", default.enqueue(rq_tasks.add, 2, 2, job_id="good", **callbacks)),
                          ("bad", default.enqueue(rq_tasks.fail, "words", job_id="bad", **callbacks))]:
            say(name, ended(job))
        until("both are called", lambda: r.llen("callbacks") == 2)
        say("callbacks", r.lrange("callbacks", 0, -1))
        parents = [default.enqueue(rq_tasks.note, "order", f"parent {n}", job_id=f"parent-{n}") for n in range(2)]
        child = urgent.enqueue(rq_tasks.note, "order", "child", job_id="child", depends_on=parents)
        say("depends", (ended(child), r.lrange("order", 0, -1)))
        orphan = default.enqueue(rq_tasks.note, "order", "never", job_id="orphan", depends_on=default.enqueue(rq_tasks.fail, "x", job_id="bad-parent"))
        until("its parent fails", lambda: Job.fetch("bad-parent", connection=r).get_status().value == "failed")
        say("orphan", (orphan.get_status().value, DeferredJobRegistry(queue=default).get_job_ids()))
        group = Group(connection=r, name="group")
        jobs = group.enqueue_many(default, [Queue.prepare_data(rq_tasks.add, (n, 1), job_id=f"g{n}") for n in range(3)])
        say("group", ([(ended(job), job.return_value()) for job in jobs], sorted(job.id for job in Group.fetch("group", connection=r).get_jobs())))
        finished = FinishedJobRegistry(queue=default).get_job_ids()
        say("finished", (len(finished), sorted(finished)[:3]))
        [registered] = Registered.all(connection=r)
        say("worker", (registered.name, sorted(registered.queue_names()), registered.successful_job_count > 10))
        send_shutdown_command(r, "first")
        until("it leaves", lambda: Registered.count(connection=r) == 0)


def schedules():
    r = client()
    default = Queue("default", connection=r)
    with worker("second", "--with-scheduler"):
        until("it is there", lambda: Registered.count(connection=r) == 1)
        job = default.enqueue_in(timedelta(seconds=1), rq_tasks.add, 3, 4, job_id="later")
        say("scheduled", (job.get_status().value, ScheduledJobRegistry(queue=default).get_job_ids()))
        say("later", (ended(job), job.return_value()))
        job = default.enqueue(rq_tasks.note, "repeated", "x", job_id="repeated", repeat=Repeat(times=2, interval=1))
        until("it is repeated", lambda: r.llen("repeated") == 3)
        say("repeated", r.lrange("repeated", 0, -1))
        # Its connections are lost, that on which it waits for jobs among them.
        until("all is done", lambda: job.get_status().value == "finished")
        lose("second", "blpop")
        job = default.enqueue(rq_tasks.add, 5, 5, job_id="after-a-loss")
        say("after a loss", (ended(job), job.return_value()))


run([queues, work, schedules])
