"""Steps about the connection itself: pools, names, databases, users, the server's account of itself."""

import asyncio

import redis
import redis.connection
from library import do, error
from redis.cache import CacheConfig
from transcript import say

# Longer than any answer takes, and shorter than anybody wants to wait for one that does not come.
POLLS_MAX = 500


async def names(library):
    r = library.client(client_name="workload", lib_name="mine", lib_version="1.2")
    say("getname", await do(r.client_getname()))
    say("setname", await do(r.client_setname("renamed")))
    say("getname", await do(r.client_getname()))
    await error("bad name", lambda: r.client_setname("a name"))
    say("setinfo", await _or_error(lambda: r.client_setinfo("LIB-NAME", "other")))
    info = await do(r.client_info())
    say("info", {key: info[key] for key in ["name", "db", "sub", "psub", "multi", "user"]})
    mine = await do(r.client_id())
    say("id", mine == int(info["id"]))
    say("listed", [one["name"] for one in await do(r.client_list()) if int(one["id"]) == mine])
    say("by id", [one["name"] for one in await do(r.client_list(client_id=[mine]))])
    say("by type", mine in [int(one["id"]) for one in await do(r.client_list(_type="normal"))])
    await error("bad type", lambda: r.execute_command("CLIENT", "LIST", "TYPE", "nonsense"))
    say("no evict", await do(r.client_no_evict("ON")))
    say("no touch", await _or_error(lambda: r.client_no_touch("ON")))
    say("getredir", await do(r.client_getredir()))
    say("tracking", await do(r.client_trackinginfo()))
    await error("unknown", lambda: r.execute_command("CLIENT", "NOSUCH"))
    say("unblock nobody", await do(r.client_unblock(1_000_000)))
    say("pause", (await do(r.client_pause(1)), await do(r.client_unpause())))


async def _or_error(attempt):
    try:
        return await do(attempt())
    except redis.RedisError as failure:
        return failure


async def kills(library):
    """A killed client reconnects by itself, which is all that most programs know of it."""
    r = library.client(client_name="killer")
    victim = library.client(client_name="victim")
    say("set", await do(victim.set("survivor", 1)))
    identity = await do(victim.client_id())
    say("kill", await do(r.client_kill_filter(_id=identity)))
    say("again", await do(r.client_kill_filter(_id=identity)))
    say("reconnects", await do(victim.get("survivor")))
    say("new id", await do(victim.client_id()) > identity)
    say("name stays", await do(victim.client_getname()))
    address = next(one["addr"] for one in await do(r.client_list()) if one["name"] == "victim")
    say("kill by address", await do(r.client_kill(address)))
    await error("nobody there", lambda: r.client_kill("127.0.0.1:1"))
    say("reconnects", await do(victim.get("survivor")))


async def pools(library):
    """More callers than connections, from one pool."""
    options = {"protocol": library.protocol, "decode_responses": library.decode} | library.login
    pool = library.pool_class().from_url(library.url, max_connections=3, timeout=20, **options)
    r = library.client().from_pool(pool)
    await do(r.set("pooled", 0))

    async def worker():
        for _ in range(10):
            await do(r.incr("pooled"))
            await do(r.get("pooled"))

    if library.asyncio:
        await asyncio.gather(*[worker() for _ in range(12)])
    else:
        for running in [library.beside(worker) for _ in range(12)]:
            await running
    say("sum", await do(r.get("pooled")))
    await do(r.aclose() if library.asyncio else r.close())


async def timeouts(library):
    """A client that gives up waiting drops its connection; the next command has a new one."""
    r = library.client(socket_timeout=0.5, retry=library.retry(0))
    say("set", await do(r.set("key", "value")))
    await error("timeout", lambda: r.execute_command("BLPOP", "nothing", 5))
    say("next", await do(r.get("key")))
    # Longer than a handshake takes: redis-py checks within one, too, and then reads the replies of that.
    checked = library.client(health_check_interval=0.5)
    say("checked", await do(checked.get("key")))
    await asyncio.sleep(0.6)
    say("checked", await do(checked.get("key")))


async def databases(library):
    zero = library.client()
    three = library.client(db=3)
    single = library.client(single_connection_client=True)
    await do(zero.set("place", "zero"))
    say("cached", [await do(zero.get("place")) for _ in range(2)])
    say("three", await do(three.get("place")))
    await do(three.set("place", "three"))
    say("each", [await do(one.get("place")) for one in [zero, three, zero, three]])
    say("select", await do(single.select(3)))
    say("selected", await do(single.get("place")))
    say("select", await do(single.select(0)))
    say("selected", await do(single.get("place")))
    say("move", await do(zero.move("place", 5)))
    say("moved", await do(zero.get("place")))
    say("swapdb", await do(zero.swapdb(0, 5)))
    say("swapped", await do(zero.get("place")))
    say("flushdb", await do(three.flushdb()))
    say("each", [await do(one.get("place")) for one in [zero, three]])
    say("keyspace", sorted(key for key in await do(zero.info("keyspace")) if key.startswith("db")))


async def users(library):
    """AUTH in RESP2, HELLO with AUTH in RESP3."""
    r = library.client()
    allowed = {"keys": ["her:*"], "commands": ["+@all", "-@admin", "+acl|whoami", "-lpush"], "channels": ["her:*"]}
    say("setuser", await do(r.acl_setuser("alice", enabled=True, passwords=["+secret"], reset=True, **allowed)))
    alice = library.client(username="alice", password="secret", client_name="alice's")
    say("whoami", await do(alice.acl_whoami()))
    say("name", await do(alice.client_getname()))
    say("own", (await do(alice.set("her:key", 1)), [await do(alice.get("her:key")) for _ in range(3)]))
    await do(r.set("his:key", "secret"))
    say("his", [await do(r.get("his:key")) for _ in range(2)])
    await error("foreign key", lambda: alice.get("his:key"))
    await error("foreign mget", lambda: alice.mget("her:key", "his:key"))
    await error("foreign command", lambda: alice.lpush("her:list", 1))
    await error("admin", lambda: alice.config_get("*"))
    await error("foreign channel", lambda: alice.publish("news", "x"))
    await error("in multi", lambda: alice.pipeline().get("her:key").get("his:key").execute())
    await error("wrong password", lambda: library.client(username="alice", password="guess").get("her:key"))
    await error("nobody", lambda: library.client(username="nobody", password="guess").get("her:key"))
    say("getuser", (await do(r.acl_getuser("alice")))["keys"])
    say("users", sorted(await do(r.acl_users())))
    say("cat", "read" in [str(one).strip("b'") for one in await do(r.acl_cat())])
    say("genpass", len(await do(r.acl_genpass())))
    # What is cached under her name is hers to read no longer.
    say("still", await do(alice.get("her:key")))
    say("changed", await do(r.execute_command("ACL", "SETUSER", "alice", "resetkeys", "~other:*")))
    await error("taken away", lambda: alice.get("her:key"))
    say("deluser", await do(r.acl_deluser("alice")))
    await error("deleted", lambda: alice.get("her:key"))
    say("others", await do(r.get("her:key")))


async def server(library):
    """What monitoring asks."""
    r = library.client()
    say("ping", await do(r.ping()))
    say("echo", await do(r.echo("hello")))
    everything = await do(r.info())
    say("info", [key for key in ["redis_version", "role", "used_memory", "uptime_in_seconds"] if key in everything])
    say("role", (everything["role"], everything["redis_version"]))
    say("section", sorted(await do(r.info("replication"))))
    say("sections", sorted(await do(r.info("cpu", "cluster"))))
    say("role", await do(r.role()))
    say("count", await do(r.command_count()))
    commands = await do(r.command())
    say("command", (len(commands), commands["get"], commands["xreadgroup"]))
    say("getkeys", await do(r.command_getkeys("MSET", "a", 1, "b", 2)))
    say("list", len(await do(r.command_list())))
    say("config", await do(r.config_get("maxmemory*")))
    say("config set", await do(r.config_set("slowlog-max-len", 100)))
    say("time", len(await do(r.time())))
    say("wait", await do(r.wait(0, 10)))
    say("slowlog", isinstance(await do(r.slowlog_get(1)), list))
    say("latency", await do(r.latency_latest()))
    say("touch", await do(r.touch("missing")))
    say("lastsave", await do(r.lastsave()) is not None)
    say("quit", await _or_error(lambda: r.quit()))


async def client_side_caching(library):
    """redis-py's own cache, for the blocking client in RESP3: a tracked connection, told of what others change."""
    if library.asyncio or library.protocol != 3:
        return
    # redis-py asks for 7.4 though what it uses is there from 6.0 on, and the server at hand may be older.
    redis.connection.CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"
    caching = library.client(cache_config=CacheConfig())
    other = library.client()
    await do(other.set("tracked", "old"))
    say("cold", await do(caching.get("tracked")))
    say("warm", await do(caching.get("tracked")))
    say("kept", caching.get_cache().size)
    say("set elsewhere", await do(other.set("tracked", "new")))
    for _ in range(POLLS_MAX):
        if (seen := await do(caching.get("tracked"))) in ("new", b"new"):
            break
        await asyncio.sleep(0.01)
    say("seen", seen)
    say("own", (await do(caching.set("tracked", "own")), await do(caching.get("tracked"))))
    say("mget", await do(caching.mget("tracked", "missing")))
    say("hgetall", await do(caching.hgetall("missing")))
    await do(other.flushall())
    for _ in range(POLLS_MAX):
        if (seen := await do(caching.get("tracked"))) is None:
            break
        await asyncio.sleep(0.01)
    say("flushed", seen)


STEPS = [names, kills, pools, timeouts, databases, users, server, client_side_caching]
