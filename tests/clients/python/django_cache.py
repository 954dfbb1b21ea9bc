"""Django's cache in Redis, by django-redis and by Django's own backend, and what Django builds on it: sessions, whole
pages, fragments of templates."""

import django
from django.conf import settings
from django.core.signals import request_finished
from django.http import HttpResponse
from django.urls import path
from server import lose, run, until, url_of
from transcript import say

HOT_PASSES = 60
# What Django's connections are called.
NAME = "site"


def _cache(backend, database, **options):
    return {"BACKEND": backend, "LOCATION": url_of(NAME, database), "KEY_PREFIX": "site", "TIMEOUT": 300} | options


THEIRS, OWN = "django_redis.cache.RedisCache", "django.core.cache.backends.redis.RedisCache"
settings.configure(
    SECRET_KEY="a secret of nobody",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    CACHES={
        "default": _cache(THEIRS, 1),
        "compressed": _cache(THEIRS, 2, OPTIONS={
            "COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor",
            "SERIALIZER": "django_redis.serializers.json.JSONSerializer",
        }),
        "herd": _cache(THEIRS, 3, OPTIONS={"CLIENT_CLASS": "django_redis.client.HerdClient"}),
        "own": _cache(OWN, 4),
    },
)
django.setup()

from django.core.cache import caches  # noqa: E402
from django.template import engines  # noqa: E402
from django.test import Client  # noqa: E402
from django.views.decorators.cache import cache_page  # noqa: E402

rendered = 0


@cache_page(60)
def page(request):
    global rendered
    rendered += 1
    return HttpResponse(f"rendered {rendered} times")


def counter(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))


def leave(request):
    request.session.flush()
    return HttpResponse("left")


urlpatterns = [path("page", page), path("counter", counter), path("leave", leave)]


def _basics(cache):
    """What every backend of Django's has."""
    say("set", cache.set("key", {"a": [1, 2.5, None], "b": "text"}))
    for again in ["cold", "warm", "warmer"]:
        say(again, cache.get("key"))
    say("missing", (cache.get("missing"), cache.get("missing", "default"), cache.get("missing", "default")))
    say("add", (cache.add("key", 1), cache.add("added", 1), cache.get("added")))
    say("none", (cache.set("none", None), cache.get("none", "default"), "none" in cache, cache.has_key("missing")))
    say("counter", (cache.set("n", 5), cache.incr("n"), cache.incr("n", 10), cache.decr("n", 3), cache.get("n")))
    try:
        cache.incr("missing")
    except ValueError as raised:
        say("incr of nothing", str(raised).replace(":1:", ":"))
    say("many", cache.set_many({f"many:{number}": number for number in range(50)}))
    for again in ["cold", "warm"]:
        say(f"{again} many", cache.get_many([f"many:{number}" for number in range(55)]))
    say("delete", (cache.delete("many:1"), cache.delete("many:1"), cache.delete_many(["many:2", "many:3"])))
    say("after", cache.get_many(["many:1", "many:2", "many:4"]))
    say("get or set", [cache.get_or_set("computed", lambda: "computed once") for _ in range(3)])
    say("versions", (cache.set("v", "one", version=1), cache.set("v", "two", version=2), cache.get("v", version=2)))
    say("incr version", (cache.incr_version("v", 5), cache.get("v", version=6), cache.get("v")))
    say("touch", (cache.touch("key", 100), cache.touch("missing")))
    say("short", cache.set("short", "v", timeout=1))
    say("expires", until("it expires", lambda: cache.get("short") is None))
    say("never stored", (cache.set("zero", "v", timeout=0), cache.get("zero")))
    say("for ever", (cache.set("ever", "v", timeout=None), cache.get("ever")))
    say("large", (cache.set("large", "x" * 2_000_000), len(cache.get("large")), len(cache.get("large"))))
    say("bytes", (cache.set("bytes", {"raw": "ключ 🎉"}), cache.get("bytes")))
    for version in [1, 2]:
        cache.set("hot", version)
        say("hot", {cache.get("hot") for _ in range(HOT_PASSES)})
    say("clear", (cache.clear(), cache.get("key")))


def own():
    _basics(caches["own"])


def default():
    _basics(caches["default"])


def compressed():
    cache = caches["compressed"]
    say("set", cache.set("large", ["text"] * 10_000))
    say("get", [len(cache.get("large")) for _ in range(3)])
    _basics(cache)


def herd():
    cache = caches["herd"]
    say("set", cache.set("key", "value", timeout=60))
    say("get", [cache.get("key") for _ in range(3)])
    say("many", (cache.set_many({"a": 1, "b": 2}), cache.get_many(["a", "b", "c"]), cache.get_many(["a", "b", "c"])))


def extensions():
    """What django-redis adds."""
    cache = caches["default"]
    cache.set_many({f"p:{number}": number for number in range(20)}, timeout=100)
    say("ttl", 95 < cache.ttl("p:1") <= 100)
    say("ttls", (cache.ttl("missing"), cache.persist("p:2"), cache.ttl("p:2"), cache.expire("p:2", 50), cache.pttl("p:2") > 0))
    say("keys", sorted(cache.keys("p:*")))
    say("iter", sorted(cache.iter_keys("p:1*", itersize=5)))
    say("nx", (cache.set("nx", 1, nx=True), cache.set("nx", 2, nx=True), cache.get("nx")))
    say("delete pattern", (cache.delete_pattern("p:1*"), cache.get("p:1"), cache.get("p:5")))
    with cache.lock("lock", timeout=10):
        say("held", cache.lock("lock", timeout=10, blocking_timeout=0.05).acquire())
    say("free", cache.lock("lock", timeout=10, blocking_timeout=0.05).acquire())
    say("sadd", (cache.sadd("set", "a", "b"), cache.smembers("set"), cache.smembers("set"), cache.scard("set")))
    say("hset", (cache.hset("hash", "f", [1]), cache.hkeys("hash"), cache.hexists("hash", "f"), cache.hlen("hash")))
    raw = cache.client.get_client()
    say("raw", (raw.ping(), sorted(raw.scan_iter(match="site:1:p:*"))))


def pages():
    global rendered
    rendered = 0
    visitor = Client()
    say("page", [visitor.get("/page").content for _ in range(5)])
    other = Client(HTTP_ACCEPT_LANGUAGE="fi")
    say("another", other.get("/page").content)
    say("query", [visitor.get("/page?q=1").content for _ in range(2)])
    caches["default"].clear()
    say("cleared", visitor.get("/page").content)


def sessions():
    visitors = [Client(), Client()]
    say("counts", [[visitor.get("/counter").content for _ in range(10)] for visitor in visitors])
    say("cookie", bool(visitors[0].cookies["sessionid"].value))
    say("leaves", (visitors[0].get("/leave").content, visitors[0].get("/counter").content))
    say("other", visitors[1].get("/counter").content)


def fragments():
    template = engines["django"].from_string("{% load cache %}{% cache 100 part who %}{{ what }}{% endcache %}")
    say("fragments", [template.render({"who": who, "what": what}) for who, what in [(1, "a"), (1, "b"), (2, "c"), (2, "d")]])


def finish():
    """At the end of a request Django closes what it has opened, if it is told to; it dials anew by itself."""
    cache = caches["default"]
    cache.set("kept", 1)
    request_finished.send(sender=None)
    cache.close()
    say("anew", cache.get("kept"))
    lose(NAME)
    say("after a loss", (cache.get("kept"), caches["own"].get("kept")))


run([own, default, compressed, herd, extensions, pages, sessions, fragments, finish])
