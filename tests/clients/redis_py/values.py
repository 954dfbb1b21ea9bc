"""Steps about data: every type, what is large, binary, about to expire, or the wrong type."""

import asyncio

from library import do, error
from transcript import say

HOT_PASSES = 8


async def hot(library):
    """What a cache is for: the same few reads, again and again, by two programs. And then a change."""
    r = library.client()
    other = library.client()

    async def write(version):
        pipe = r.pipeline(transaction=False)
        pipe.mset({f"hot:{number}": f"{version}:{number}" for number in range(10)})
        pipe.hset("hot:hash", mapping={"field": version, "other": "value"})
        pipe.delete("hot:list").rpush("hot:list", version, "b", "c")
        pipe.zadd("hot:zset", {"member": version})
        pipe.sadd("hot:set", version)
        return await do(pipe.execute())

    async def reads(client):
        return [
            *[await do(client.get(f"hot:{number}")) for number in range(10)],
            await do(client.get("hot:missing")),
            await do(client.mget([f"hot:{number}" for number in range(10)])),
            await do(client.hgetall("hot:hash")),
            await do(client.hget("hot:hash", "field")),
            await do(client.lrange("hot:list", 0, -1)),
            await do(client.zrange("hot:zset", 0, -1, withscores=True)),
            await do(client.zscore("hot:zset", "member")),
            await do(client.scard("hot:set")),
            await do(client.strlen("hot:1")),
            await do(client.exists("hot:1")),
        ]

    for version in [1, 2]:
        say("write", await write(version))
        say("read", first := await reads(r))
        again = [await reads(client) for client in [r, other] * HOT_PASSES]
        say("the same", [passed == first for passed in again].count(False))


async def strings(library):
    r = library.client()
    say("set", await do(r.set("greeting", "hello")))
    for again in ["cold", "warm", "warmer"]:
        say(again, await do(r.get("greeting")))
    say("nil", await do(r.get("missing")))
    say("set nx", await do(r.set("greeting", "other", nx=True)))
    say("set get", await do(r.set("greeting", "newer", get=True)))
    say("read your write", await do(r.get("greeting")))
    say("append", await do(r.append("greeting", "!")))
    say("strlen", await do(r.strlen("greeting")))
    say("getrange", await do(r.getrange("greeting", 1, 3)))
    say("mset", await do(r.mset({f"many:{number}": number for number in range(100)})))
    for again in ["mget", "mget again"]:
        say(again, await do(r.mget([f"many:{number}" for number in range(110)])))
    say("incr", [await do(r.incr("counter")) for _ in range(5)])
    say("incrbyfloat", await do(r.incrbyfloat("float", 1.5)))
    say("setbit", await do(r.setbit("bits", 9, 1)))
    say("bitfield", await do(r.bitfield("bits").set("u8", 0, 200).get("u8", 0).execute()))
    say("getdel", await do(r.getdel("greeting")))
    say("exists", await do(r.exists("greeting", "counter", "counter")))
    say("type", [await do(r.type(key)) for key in ["counter", "missing"]])
    say("rename", await do(r.rename("counter", "renamed")))
    say("copy", await do(r.copy("renamed", "copied")))
    say("renamed", await do(r.mget("counter", "renamed", "copied")))
    say("dump", dumped := await do(r.execute_command("DUMP", "copied", NEVER_DECODE=True)))
    say("restore", await do(r.restore("restored", 0, dumped)))
    say("restored", await do(r.get("restored")))
    say("delete", await do(r.delete("renamed", "copied", "missing")))
    say("deleted", await do(r.get("renamed")))


async def collections(library):
    r = library.client()
    say("hset", await do(r.hset("hash", mapping={"name": "Ada", "born": 1815, "pi": 3.14})))
    for again in ["cold", "warm"]:
        say(f"{again} hgetall", await do(r.hgetall("hash")))
        say(f"{again} hget", await do(r.hget("hash", "name")))
        say(f"{again} hmget", await do(r.hmget("hash", ["name", "missing"])))
        say(f"{again} missing", await do(r.hgetall("missing")))
    say("hincrby", await do(r.hincrby("hash", "born", 1)))
    say("hash after", await do(r.hgetall("hash")))
    say("hrandfield", len(await do(r.hrandfield("hash", 2, True))))
    say("rpush", await do(r.rpush("list", *"abcde")))
    for again in ["cold", "warm"]:
        say(f"{again} lrange", await do(r.lrange("list", 0, -1)))
        say(f"{again} lindex", await do(r.lindex("list", 1)))
        say(f"{again} llen", await do(r.llen("list")))
    say("lmove", await do(r.lmove("list", "other", "LEFT", "RIGHT")))
    say("lpop", await do(r.lpop("list", 2)))
    say("lpos", await do(r.lpos("list", "e")))
    say("list after", await do(r.lrange("list", 0, -1)))
    say("sadd", await do(r.sadd("set", "a", "b", "c")))
    say("sadd", await do(r.sadd("set2", "b", "c", "d")))
    for again in ["cold", "warm"]:
        say(f"{again} smembers", set(await do(r.smembers("set"))))
        say(f"{again} sismember", await do(r.sismember("set", "a")))
        say(f"{again} smismember", await do(r.smismember("set", ["a", "z"])))
        say(f"{again} sinter", set(await do(r.sinter("set", "set2"))))
    say("sunionstore", await do(r.sunionstore("set", ["set", "set2"])))
    say("set after", set(await do(r.smembers("set"))))
    say("zadd", await do(r.zadd("zset", {"one": 1, "two": 2, "half": 0.5})))
    for again in ["cold", "warm"]:
        say(f"{again} zrange", await do(r.zrange("zset", 0, -1)))
        say(f"{again} withscores", await do(r.zrange("zset", 0, -1, withscores=True)))
        say(f"{again} zscore", await do(r.zscore("zset", "half")))
        say(f"{again} zmscore", await do(r.zmscore("zset", ["one", "none"])))
        say(f"{again} zrank", await do(r.zrank("zset", "two")))
    say("zincrby", await do(r.zincrby("zset", 10, "one")))
    say("zpopmin", await do(r.zpopmin("zset")))
    say("zset after", await do(r.zrange("zset", 0, -1, desc=True, withscores=True)))
    say("geoadd", await do(r.geoadd("geo", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"))))
    say("geosearch", await do(r.geosearch("geo", member="Palermo", radius=200, unit="km", withdist=True)))
    say("geopos", await do(r.geopos("geo", "Palermo", "missing")))
    say("pfadd", await do(r.pfadd("hll", *"abc")))
    say("pfcount", await do(r.pfcount("hll")))
    say("sort", await do(r.sort("list", alpha=True, desc=True)))
    say("encoding", await do(r.object("encoding", "list")))
    say("memory", await do(r.memory_usage("list")) > 0)


async def large(library):
    """Single values over every buffer, and many small ones."""
    r = library.client()
    text = "0123456789abcdef" * 200_000
    say("set", await do(r.set("large", text)))
    for again in ["cold", "warm", "warmer"]:
        say(again, await do(r.get("large")) in (text, text.encode()))
    say("hset", await do(r.hset("large:hash", mapping={f"field:{n}": "v" * (n % 50) for n in range(5_000)})))
    for again in ["cold", "warm"]:
        got = await do(r.hgetall("large:hash"))
        say(f"{again} hash", (len(got), sum(map(len, got.values()))))
    say("rpush", await do(r.rpush("large:list", *range(5_000))))
    for again in ["cold", "warm"]:
        say(f"{again} list", await do(r.lrange("large:list", 0, -1)))
    pipe = r.pipeline(transaction=False)
    for number in range(1_000):
        pipe.set(f"large:{number}", "x" * (number % 200))
        pipe.get(f"large:{number}")
    say("pipeline", await do(pipe.execute()))
    say("mget", await do(r.mget([f"large:{number}" for number in range(1_000)])))
    say("unlink", await do(r.unlink("large", "large:hash", "large:list")))
    say("gone", await do(r.get("large")))


async def binary(library):
    """Bytes are bytes: in keys, values and fields. Asked to decode what is no UTF-8, the client raises."""
    every = bytes(range(256))
    raw = library.client(decode_responses=False)
    key = b"key \r\n\x00\xff*$" + every
    say("set", await do(raw.set(key, every)))
    for again in ["cold", "warm"]:
        say(again, await do(raw.get(key)))
    say("hset", await do(raw.hset(b"\x00hash", mapping={every: every})))
    say("hash", await do(raw.hgetall(b"\x00hash")))
    say("keys", await do(raw.keys(b"key*")))
    r = library.client()
    await error("decoded", lambda: r.get(key))
    say("usable", await do(r.ping()))
    lenient = library.client(encoding_errors="replace")
    say("replaced", await do(lenient.get(key)))
    latin = library.client(encoding="latin-1")
    say("latin", await do(latin.set("latin", "Grüße")))
    say("latin", await do(latin.get("latin")))
    say("latin raw", await do(raw.get("latin")))
    say("unicode", await do(r.set("ключ", "値 🎉")))
    say("unicode", await do(r.get("ключ")))
    say("empty", await do(r.set("", "")))
    say("empty", await do(r.get("")))


async def expiry(library):
    r = library.client()
    say("set ex", await do(r.set("ex", "v", ex=100)))
    say("ttl", 0 < await do(r.ttl("ex")) <= 100)
    say("get", [await do(r.get("ex")) for _ in range(2)])
    say("expireat", await do(r.expireat("ex", 4_000_000_000)))
    say("expiretime", await do(r.expiretime("ex")))
    say("persist", await do(r.persist("ex")))
    say("ttl", [await do(r.ttl(key)) for key in ["ex", "missing"]])
    say("set px", await do(r.set("px", "v", px=60)))
    await do(r.get("px"))
    await asyncio.sleep(0.1)
    say("expired", [await do(r.get("px")) for _ in range(2)])
    say("set", await do(r.set("later", "v")))
    say("get", [await do(r.get("later")) for _ in range(2)])
    say("pexpire", await do(r.pexpire("later", 30)))
    await asyncio.sleep(0.06)
    say("expired", await do(r.get("later")))
    say("set past", await do(r.set("past", "v", exat=1)))
    say("past", await do(r.get("past")))
    say("getex", (await do(r.set("getex", "v")), await do(r.getex("getex", ex=50)), await do(r.ttl("getex")) > 0))


async def scans(library):
    r = library.client()
    await do(r.mset({f"scan:{number}": number for number in range(250)}))
    await do(r.hset("scanned:hash", mapping={f"f{number}": number for number in range(600)}))
    await do(r.sadd("scanned:set", *range(600)))
    await do(r.zadd("scanned:zset", {f"m{number}": number for number in range(300)}))
    say("scan", sorted(await library.items(r.scan_iter(match="scan:*", count=20))))
    say("scan type", sorted(await library.items(r.scan_iter(match="scanned:*", _type="hash"))))
    say("hscan", sorted(await library.items(r.hscan_iter("scanned:hash", match="f1*"))))
    say("sscan", sorted(await library.items(r.sscan_iter("scanned:set", count=50))))
    say("zscan", sorted(await library.items(r.zscan_iter("scanned:zset"))))
    say("keys", sorted(await do(r.keys("scan:1?"))))
    say("dbsize", await do(r.dbsize()) > 250)
    # It may be the binary one, which is no text.
    say("randomkey", await do(r.execute_command("RANDOMKEY", NEVER_DECODE=True)) is not None)


async def errors(library):
    """The class that redis-py makes of an error depends on its first words."""
    r = library.client()
    await do(r.set("string", "text"))
    await do(r.get("string"))
    await error("wrong type", lambda: r.lpush("string", "x"))
    await error("wrong type read", lambda: r.hgetall("string"))
    await error("wrong type read again", lambda: r.hgetall("string"))
    await error("not a number", lambda: r.incr("string"))
    await error("arguments", lambda: r.execute_command("GET"))
    await error("too many", lambda: r.execute_command("GET", "a", "b"))
    await error("unknown", lambda: r.execute_command("NOSUCH", "a", "b"))
    await error("unknown subcommand", lambda: r.execute_command("CONFIG", "NOSUCH"))
    await error("syntax", lambda: r.execute_command("SET", "string", "v", "NOSUCH"))
    await error("no script", lambda: r.evalsha("0" * 40, 0))
    await error("script", lambda: r.eval("return redis.error_reply('MY own words')", 0))
    await error("script fails", lambda: r.eval("return nil + 1", 0))
    await error("no such key", lambda: r.rename("missing", "other"))
    await error("no module", lambda: r.execute_command("JSON.GET", "string"))
    await error("data", lambda: r.set("string", None))
    await error("database", lambda: r.execute_command("SELECT", 99))
    await error("busy key", lambda: r.restore("string", 0, b"nonsense"))
    await error("stream id", lambda: r.xadd("stream", {"f": "v"}, id="0-0"))
    await error("no group", lambda: r.xreadgroup("group", "me", {"stream": ">"}))
    say("usable", await do(r.get("string")))


STEPS = [hot, strings, collections, large, binary, expiry, scans, errors]
