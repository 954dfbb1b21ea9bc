"""Steps about doing several things at once: pipelines, WATCH, scripts, functions, locks."""

import asyncio

from library import do, error
from redis.exceptions import WatchError
from transcript import say

WORKERS = 4
INCREMENTS = 8


async def pipelines(library):
    r = library.client()
    for transaction in [False, True]:
        pipe = r.pipeline(transaction=transaction)
        pipe.set("a", 1).get("a").incr("a").get("a").hset("h", "f", "v").hgetall("h").lrange("none", 0, -1)
        say(f"{transaction}", await do(pipe.execute()))
        say("reused", await do(pipe.get("a").mget("a", "none").execute()))
        say("empty", await do(pipe.execute()))
        pipe.set("a", 5).lpush("a", "x").get("a")
        await error("raises", lambda: pipe.execute())
        say("after", await do(r.get("a")))
        pipe.get("a").lpush("a", "x").get("a")
        say("raise_on_error", await do(pipe.execute(raise_on_error=False)))
        pipe.execute_command("GET")
        pipe.set("a", 9)
        await error("refused", lambda: pipe.execute())
        say("after", await do(r.get("a")))
        for number in range(200):
            pipe.set("k", number).get("k").get("k")
        say("read your writes", await do(pipe.execute()))


async def watches(library):
    r = library.client()
    other = library.client()
    await do(r.set("watched", 1))
    pipe = r.pipeline()
    await do(pipe.watch("watched"))
    say("immediate", await do(pipe.get("watched")))
    pipe.multi()
    pipe.incr("watched")
    say("exec", await do(pipe.execute()))
    await do(pipe.watch("watched", "not yet"))
    say("immediate", await do(pipe.get("watched")))
    say("elsewhere", await do(other.set("watched", 10)))
    say("sees it", await do(pipe.get("watched")))
    pipe.multi()
    pipe.incr("watched")
    await error("watch error", lambda: pipe.execute())
    say("after", await do(r.get("watched")))
    await do(pipe.watch("watched"))
    await do(other.set("watched", 20))
    await do(pipe.unwatch())
    pipe.multi()
    pipe.incr("watched")
    say("unwatched", await do(pipe.execute()))
    await do(pipe.watch("watched"))
    await do(pipe.reset())
    say("after", await do(r.get("watched")))


async def contention(library):
    """The loop of redis-py's documentation, by several at once: no increment may be lost."""
    r = library.client()
    await do(r.set("contended", 0))

    async def worker():
        mine = library.client()
        for _ in range(INCREMENTS):
            pipe = mine.pipeline()
            while True:
                try:
                    await do(pipe.watch("contended"))
                    value = int(await do(pipe.get("contended")))
                    pipe.multi()
                    pipe.set("contended", value + 1)
                    await do(pipe.execute())
                    break
                except WatchError:
                    continue
            await do(pipe.reset())
        if library.asyncio:
            await mine.aclose()

    for running in [library.beside(worker) for _ in range(WORKERS)]:
        await running
    say("sum", await do(r.get("contended")))

    def double(pipe):
        pipe.multi()
        pipe.incrby("contended", 1)
        pipe.get("contended")

    say("transaction", await do(r.transaction(double, "contended")))


async def scripts(library):
    r = library.client()
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    say("not loaded", await do(r.script_exists(add.sha)))
    # EVALSHA says NOSCRIPT, redis-py loads it and asks again.
    say("called", await do(add(keys=["scripted"], args=[5])))
    say("loaded", await do(r.script_exists(add.sha)))
    say("get", await do(r.get("scripted")))
    say("called", await do(add(keys=["scripted"], args=[5])))
    say("get", await do(r.get("scripted")))
    pipe = r.pipeline()
    await do(add(keys=["scripted"], args=[1], client=pipe))
    pipe.get("scripted")
    say("pipelined", await do(pipe.execute()))
    say("undeclared", await do(r.eval("redis.call('SET', 'scripted', 'by script') return 'done'", 0)))
    say("get", await do(r.get("scripted")))
    types = "return {1, 'two', {3, {4}}, redis.status_reply('FINE'), false, 'never seen', nil, 'nor this'}"
    say("types", await do(r.eval(types, 0)))
    say("resp3", await do(r.eval("redis.setresp(3) return {map={a=1}, double=1.5, big_number=3}", 0)))
    say("map", await do(r.eval("redis.setresp(3) return {map={a='b'}}", 0)))
    say("double", await do(r.eval("redis.setresp(3) return {double=1.5}", 0)))
    say("read only", await do(r.eval_ro("return redis.call('GET', KEYS[1])", 1, "scripted")))
    await error("writes", lambda: r.eval_ro("return redis.call('SET', KEYS[1], 'x')", 1, "scripted"))
    library_code = "#!lua name=mine\nredis.register_function('put', function(k, a) return redis.call('SET', k[1], a[1]) end)"
    say("function load", await do(r.function_load(library_code, replace=True)))
    say("fcall", await do(r.fcall("put", 1, "scripted", "by function")))
    say("get", await do(r.get("scripted")))
    await error("fcall_ro", lambda: r.fcall_ro("put", 1, "scripted", "no"))
    say("functions", len(await do(r.function_list())))
    await error("script kill", lambda: r.script_kill())


async def locks(library):
    r = library.client()
    lock = r.lock("lock", timeout=30)
    say("acquire", await do(lock.acquire()))
    say("held", (await do(lock.locked()), await do(lock.owned())))
    rival = r.lock("lock", timeout=30, blocking_timeout=0.05, sleep=0.01)
    say("rival", await do(rival.acquire()))
    say("rival owns", await do(rival.owned()))
    say("extend", await do(lock.extend(10)))
    say("ttl", 30 < await do(r.ttl("lock")) <= 40)
    say("replace", await do(lock.extend(10, replace_ttl=True)))
    say("reacquire", await do(lock.reacquire()))
    say("ttl", 10 < await do(r.ttl("lock")) <= 30)
    await do(lock.release())
    say("released", (await do(lock.locked()), await do(r.get("lock"))))
    await error("again", lambda: lock.release())
    await do(lock.acquire())
    say("stolen", await do(r.set("lock", "thief")))
    await error("not owned", lambda: lock.release())
    await do(r.delete("lock"))
    inside = 0
    worst = 0

    async def worker():
        nonlocal inside, worst
        mine = library.client()
        for _ in range(3):
            guard = mine.lock("guard", timeout=30, sleep=0.002)
            await do(guard.acquire())
            inside += 1
            worst = max(worst, inside)
            # Read and written back without a transaction: the lock alone keeps the count.
            await do(mine.set("guarded", int(await do(mine.get("guarded")) or 0) + 1))
            await asyncio.sleep(0.001)
            inside -= 1
            await do(guard.release())

    for running in [library.beside(worker) for _ in range(WORKERS)]:
        await running
    say("guarded", (await do(r.get("guarded")), worst))


STEPS = [pipelines, watches, contention, scripts, locks]
