"""Steps about waiting for others: pub/sub, blocking pops, streams with consumer groups, MONITOR."""

import asyncio

from library import do, error
from transcript import say

POLL_INTERVAL_S = 0.01
POLLS_MAX = 1_000


async def _somebody_waits(client):
    """Returns once the server has a client that is blocked, which is what the next write is for."""
    for _ in range(POLLS_MAX):
        if (await do(client.info("clients")))["blocked_clients"]:
            return
        await asyncio.sleep(POLL_INTERVAL_S)
    raise AssertionError("nobody is blocked")


async def _next(pubsub, **options):
    """The next message, however many empty polls come before it."""
    for _ in range(20):
        message = await do(pubsub.get_message(timeout=1, **options))
        if message is not None:
            return message
    raise AssertionError("no message")


async def subscriptions(library):
    r = library.client()
    pubsub = r.pubsub()
    await do(pubsub.subscribe("news", "more"))
    await do(pubsub.psubscribe("pattern:*"))
    for _ in range(3):
        say("subscribed", await _next(pubsub))
    say("numsub", await do(r.pubsub_numsub("news", "none")))
    say("numpat", await do(r.pubsub_numpat()))
    say("channels", sorted(await do(r.pubsub_channels())))
    say("publish", await do(r.publish("news", "one")))
    say("publish", await do(r.publish("pattern:x", b"\x7ftwo")))
    say("publish", await do(r.publish("nobody", "three")))
    for _ in range(2):
        say("message", await _next(pubsub))
    await do(pubsub.ping("are you there"))
    say("pong", await _next(pubsub))
    await do(pubsub.unsubscribe("news"))
    await do(pubsub.punsubscribe())
    for _ in range(2):
        say("unsubscribed", await _next(pubsub))
    say("publish", await do(r.publish("news", "nobody hears")))
    say("publish", await do(r.publish("more", "somebody hears")))
    say("message", await _next(pubsub, ignore_subscribe_messages=True))
    await do(pubsub.unsubscribe())
    say("unsubscribed", await _next(pubsub))
    say("over", pubsub.subscribed)
    # The connection of a pubsub goes back to the pool, and has to be good for commands again.
    await do(pubsub.aclose() if library.asyncio else pubsub.close())
    say("usable", await do(r.set("after", 1)))
    say("usable", await do(r.get("after")))


async def handlers(library):
    """Messages reach their handlers, and a reader that is told to look finds what the news is about."""
    r = library.client()
    await do(r.set("subject", "old"))
    say("cached", [await do(r.get("subject")) for _ in range(2)])
    heard = []
    pubsub = r.pubsub()
    await do(pubsub.subscribe(**{"changed": heard.append}))
    say("subscribed", await _next(pubsub))
    writer = library.client()

    async def write():
        await do(writer.set("subject", "new"))
        await do(writer.publish("changed", "subject"))

    writing = library.beside(write)
    while not heard:
        await do(pubsub.get_message(timeout=1))
    say("heard", heard)
    say("looked", await do(r.get("subject")))
    await writing
    await do(pubsub.aclose() if library.asyncio else pubsub.close())


async def keyspace(library):
    """The server's own announcements, and what stands in the cache when they come."""
    r = library.client()
    await do(r.config_set("notify-keyspace-events", "KEA"))
    pubsub = r.pubsub()
    await do(pubsub.psubscribe("__keyspace@0__:noted*"))
    say("subscribed", await _next(pubsub))
    await do(r.set("noted", 1))
    say("set", await _next(pubsub))
    await do(r.incr("noted"))
    say("incr", await _next(pubsub))
    say("get", await do(r.get("noted")))
    await do(r.pexpire("noted", 20))
    say("expire", await _next(pubsub))
    say("expired", await _next(pubsub))
    say("get", await do(r.get("noted")))
    await do(pubsub.aclose() if library.asyncio else pubsub.close())
    await do(r.config_set("notify-keyspace-events", ""))


async def sharded(library):
    r = library.client()
    pubsub = r.pubsub()
    if not hasattr(pubsub, "ssubscribe"):
        return
    await do(pubsub.ssubscribe("shard"))
    say("subscribed", await _next(pubsub))
    say("spublish", await do(r.execute_command("SPUBLISH", "shard", "message")))
    say("message", await _next(pubsub))
    await do(pubsub.sunsubscribe("shard"))
    say("unsubscribed", await _next(pubsub))
    await do(pubsub.aclose() if library.asyncio else pubsub.close())


async def blocking(library):
    r = library.client()
    pusher = library.client()

    def later(write):
        async def step():
            await _somebody_waits(pusher)
            await do(write())

        return library.beside(step)

    await do(r.rpush("queue", "first"))
    say("at once", await do(r.blpop(["queue"], timeout=5)))
    say("cached", [await do(r.lrange("queue", 0, -1)) for _ in range(2)])
    waits = later(lambda: pusher.rpush("queue", "a", "b"))
    say("blpop", await do(r.blpop(["empty", "queue"], timeout=10)))
    await waits
    say("rest", await do(r.lrange("queue", 0, -1)))
    waits = later(lambda: pusher.lpush("stack", "c"))
    say("brpop", await do(r.brpop("stack", timeout=10)))
    await waits
    waits = later(lambda: pusher.rpush("source", "d"))
    say("blmove", await do(r.blmove("source", "target", 10, "LEFT", "RIGHT")))
    await waits
    say("moved", await do(r.lrange("target", 0, -1)))
    waits = later(lambda: pusher.zadd("zqueue", {"m": 1.5}))
    say("bzpopmin", await do(r.bzpopmin("zqueue", timeout=10)))
    await waits
    waits = later(lambda: pusher.rpush("mqueue", "x", "y", "z"))
    say("blmpop", await do(r.blmpop(10, 2, "none", "mqueue", direction="LEFT", count=2)))
    await waits
    say("timeout", await do(r.blpop(["empty"], timeout=0.05)))
    say("usable", await do(r.rpush("queue", "e")))
    # In a transaction nothing blocks.
    say("in multi", await do(r.pipeline().blpop(["queue"], 1).blpop(["empty"], 1).execute()))


async def streams(library):
    r = library.client()
    for number in range(1, 6):
        await do(r.xadd("stream", {"number": number, "raw": b"\x00\x7f"}, id=f"{number}-1"))
    say("xlen", await do(r.xlen("stream")))
    for again in ["cold", "warm"]:
        say(f"{again} xrange", await do(r.xrange("stream")))
        say(f"{again} xrevrange", await do(r.xrevrange("stream", count=2)))
    say("xread", await do(r.xread({"stream": "3-1"}, count=10)))
    say("xread none", await do(r.xread({"stream": "$"})))
    say("group", await do(r.xgroup_create("stream", "group", id="0")))
    say("group made", await do(r.xgroup_create("made", "group", mkstream=True)))
    await error("group again", lambda: r.xgroup_create("stream", "group"))
    say("read", await do(r.xreadgroup("group", "alice", {"stream": ">"}, count=3)))
    say("read bob", await do(r.xreadgroup("group", "bob", {"stream": ">"}, count=1)))
    say("ack", await do(r.xack("stream", "group", "1-1", "9-9")))
    say("pending", await do(r.xpending("stream", "group")))
    detail = await do(r.xpending_range("stream", "group", "-", "+", 10))
    say("pending detail", [(one["message_id"], one["consumer"], one["times_delivered"]) for one in detail])
    say("own history", await do(r.xreadgroup("group", "alice", {"stream": "0"})))
    say("claim", await do(r.xclaim("stream", "group", "bob", 0, ["2-1"])))
    say("autoclaim", await do(r.xautoclaim("stream", "group", "carol", 0, "0-0", count=1)))
    say("consumers", [one["name"] for one in await do(r.xinfo_consumers("stream", "group"))])
    say("groups", await do(r.xinfo_groups("stream")))
    say("info", (await do(r.xinfo_stream("stream")))["length"])
    say("del", await do(r.xdel("stream", "1-1")))
    say("trim", await do(r.xtrim("stream", maxlen=2, approximate=False)))
    say("left", await do(r.xrange("stream")))
    adder = library.client()

    async def add():
        await _somebody_waits(adder)
        await do(adder.xadd("stream", {"late": "yes"}, id="10-1"))

    adding = library.beside(add)
    say("blocked", await do(r.xread({"stream": "$"}, block=10_000)))
    await adding
    say("blocked group", await do(r.xreadgroup("group", "alice", {"stream": ">"}, block=10_000, count=9)))
    say("timeout", await do(r.xread({"stream": "$"}, block=30)))
    say("destroy", await do(r.xgroup_destroy("stream", "group")))


async def monitor(library):
    r = library.client()
    other = library.client()
    watching = r.monitor()
    await do(watching.__aenter__() if library.asyncio else watching.__enter__())
    await do(other.set("monitored", "value"))
    while True:
        seen = await do(watching.next_command())
        if seen["command"].startswith("SET monitored"):
            break
    say("seen", (seen["command"], seen["db"], seen["client_type"]))
    await do(watching.__aexit__() if library.asyncio else watching.__exit__())
    say("usable", await do(r.get("monitored")))


STEPS = [subscriptions, handlers, keyspace, sharded, blocking, streams, monitor]
