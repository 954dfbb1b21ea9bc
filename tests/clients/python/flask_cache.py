"""Flask-Caching in Redis: views, memoized functions, and the cache by hand."""

import os

from flask import Flask, request
from flask_caching import Cache
from server import run, until, url_of
from transcript import say

HOT_PASSES = 60
READS = 10

app = Flask(__name__)
cache = Cache(app, config={
    "CACHE_TYPE": "RedisCache",
    "CACHE_REDIS_URL": url_of("site", 2),
    "CACHE_KEY_PREFIX": "site:",
    "CACHE_DEFAULT_TIMEOUT": 300,
})
calls = {"view": 0, "memoized": 0, "method": 0}


@app.route("/view")
@cache.cached(timeout=60, query_string=True)
def view():
    calls["view"] += 1
    return f"computed {calls['view']} times for {request.args.get('q')}"


@cache.memoize(timeout=60)
def memoized(a, b=1):
    calls["memoized"] += 1
    return {"sum": a + b, "call": calls["memoized"]}


class Thing:
    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"Thing({self.name})"

    @cache.memoize(60)
    def method(self, number):
        calls["method"] += 1
        return f"{self.name} {number} {calls['method']}"


def views():
    visitor = app.test_client()
    for address in ["/view", "/view?q=1", "/view?q=2", "/view"]:
        say(address, [visitor.get(address).data for _ in range(3)])
    with app.test_request_context():
        say("clear", cache.clear())
    say("cleared", visitor.get("/view").data)


def memoizing():
    say("calls", [memoized(1, 2), memoized(1, 2), memoized(1, b=2), memoized(2), memoized(2)])
    say("forget one", (cache.delete_memoized(memoized, 1, 2), memoized(1, 2), memoized(2)))
    say("forget all", (cache.delete_memoized(memoized), memoized(1, 2), memoized(2)))
    thing, other = Thing("a"), Thing("b")
    say("methods", [thing.method(1), thing.method(1), other.method(1), thing.method(2), other.method(1)])
    say("forget a method", (cache.delete_memoized(Thing.method), thing.method(1)))


def by_hand():
    say("set", cache.set("key", {"a": [1, 2]}))
    for again in ["cold", "warm"]:
        say(again, (cache.get("key"), cache.get("missing"), cache.has("key")))
    say("add", (cache.add("key", 1), cache.add("new", 1), cache.get("new")))
    say("many", cache.set_many({f"m{number}": number for number in range(20)}) is not None)
    for again in ["cold", "warm"]:
        say(f"{again} many", (cache.get_many("m1", "m2", "none"), cache.get_dict("m1", "none")))
    say("delete", (cache.delete("m1"), cache.delete("m1"), sorted(cache.delete_many("m2", "m3", "none") or [])))
    say("counter", (cache.set("n", 1), cache.cache.inc("n", 5), cache.cache.dec("n"), cache.get("n")))
    say("short", (cache.set("short", 1, timeout=1), until("it expires", lambda: cache.get("short") is None)))
    say("for ever", (cache.set("ever", 1, timeout=0), cache.get("ever")))
    say("unlink", (cache.unlink("ever"), cache.get("ever")))
    for version in [1, 2]:
        cache.set("hot", os.fsencode("v") * version)
        say("hot", {cache.get("hot") for _ in range(HOT_PASSES * READS)})


def clean():
    calls.update(dict.fromkeys(calls, 0))


run([views, memoizing, by_hand], clean)
