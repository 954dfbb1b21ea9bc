"""What nearhit spares the Redis server: commands, bytes, connections, and a distance of a millisecond.

The clients read and write 100,000 keys by Zipf's law (exponent 0.99, 5 % writes); the cache has room for a tenth of
the keys' bytes, its own bookkeeping included.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import report
from loads import Load
from marks import Mark
from resp import Client

KEYS = 100_000
KEY_BYTES = 16
VALUE_BYTES = 1024
ZIPF = {"workload": "zipf", "exponent": 0.99, "writes": 0.05, "size": VALUE_BYTES}
REQUESTS = 500_000
CLIENTS = 50
CLIENTS_MANY = 1000
# Half of a round trip of 1 ms; whatever is answered sooner has not been asked of Redis.
DELAY_US = 500
# Few enough that nobody waits for a processor.
RATE = 4000
HIT_LATENCY_US_MAX = 100
# Commands that are of clients' requests; whatever else reaches Redis is nearhit's own, or this benchmark's.
OF_CLIENTS = ("get", "set", "pttl")


def measure(options, street):
    keys, requests = KEYS // options.scale, REQUESTS // options.scale
    zipf = dict(ZIPF, keys=keys)
    cache = ["cache.max_entries=0", f"cache.max_memory={keys * (KEY_BYTES + VALUE_BYTES) // 10}"]
    houses = {
        "without": street.house("direct", lambda house: house.redis()),
        "with nearhit": street.house("cached", lambda house: house.redis().nearhit(*cache)),
    }
    for house in houses.values():
        house.fill("string", keys, VALUE_BYTES)
    traffic = {name: count_traffic(house, zipf, requests) for name, house in houses.items()}
    connections = {name: count_connections(house, zipf, options.scale) for name, house in houses.items()}
    print(report.table(traffic_rows(traffic, connections, requests), options.markdown), end="\n\n")

    far = {
        "without": street.house("far", lambda house: house.redis().relay(DELAY_US)),
        "with nearhit": street.house(
            "far, cached", lambda house: house.redis().relay(DELAY_US).nearhit(*cache, upstream_port=house.port)
        ),
    }
    loads = {name: Load(CLIENTS, 1, rate=RATE, split_us=2 * DELAY_US, **zipf) for name in far}
    for house in far.values():
        house.fill("string", keys, VALUE_BYTES)
        Load(CLIENTS, 1, **zipf).run(house, requests // 5)
    waits = {name: [] for name in far}
    for _ in range(options.rounds):
        for name, house in far.items():
            waits[name].append(loads[name].run_raw(house, max(RATE * 2 // options.scale, CLIENTS))[0])
    latencies = {name: {part: quantiles(runs, part) for part in ("all", "near")} for name, runs in waits.items()}
    print(report.table(latency_rows(latencies), options.markdown), end="\n\n")
    hits = latencies["with nearhit"]["near"]
    marks = [
        Mark(f"a hit's latency at {share}", hits[share], HIT_LATENCY_US_MAX, unit=" us") for share in ("p50", "p99")
    ]
    for mark in marks:
        print(mark)
    return {
        "traffic": traffic,
        "connections": connections,
        "latency_us": latencies,
        "marks": [mark.as_json() for mark in marks],
    }


def count_traffic(house, zipf, requests):
    """What Redis counts for the same requests, after as many that have warmed the cache."""
    load = Load(CLIENTS, 1, **zipf)
    load.run(house, requests)
    redis = Client(house.redis_port)
    redis.ask("CONFIG", "RESETSTAT")
    hits, lookups = house.lookups()
    load.run(house, requests)
    hits_after, lookups_after = house.lookups()
    commands, bytes_ = redis.info("commandstats"), redis.info("stats")
    redis.close()
    calls = {name.removeprefix("cmdstat_"): int(text.split(",")[0].split("=")[1]) for name, text in commands.items()}
    found = {name: calls.get(name, 0) for name in OF_CLIENTS}
    found["others"] = sum(calls.values()) - sum(found.values())
    found["bytes in"] = int(bytes_["total_net_input_bytes"])
    found["bytes out"] = int(bytes_["total_net_output_bytes"])
    found["hit share"] = round((hits_after - hits) / max(lookups_after - lookups, 1), 4)
    return found


def count_connections(house, zipf, scale):
    """The most that Redis has had while so many clients were at work."""
    load = Load(CLIENTS_MANY, 1, rate=20_000, **zipf)
    most = 0
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load.run, house, max(60_000 // scale, 4 * CLIENTS_MANY))
        redis = Client(house.redis_port)
        while not running.done():
            # This one is not counted.
            most = max(most, int(redis.info("clients")["connected_clients"]) - 1)
            time.sleep(0.05)
        redis.close()
        running.result()
    return most


def quantiles(runs, part):
    """Medians over the runs."""
    return {name: median(run[part][name] for run in runs) for name in runs[0][part]}


def traffic_rows(traffic, connections, requests):
    without, through = traffic["without"], traffic["with nearhit"]
    names = {
        "get": "GET",
        "set": "SET",
        "pttl": "PTTL, with each miss",
        "others": "others: heartbeat, health check, this benchmark's questions",
        "bytes in": "bytes received",
        "bytes out": "bytes sent",
    }
    rows = [["Redis counts", "without", "with nearhit", "left"]]

    def row(name, before, after):
        rows.append([name, f"{before:,}", f"{after:,}", f"{after / before:.1%}" if before else ""])

    all_commands = (sum(one[name] for name in (*OF_CLIENTS, "others")) for one in (without, through))
    row(f"commands, for {requests:,} requests", *all_commands)
    for name, text in names.items():
        row(text, without[name], through[name])
    row(f"connections, for {CLIENTS_MANY:,} clients", connections["without"], connections["with nearhit"])
    rows.append(["share of reads answered from memory", "", f"{through['hit share']:.1%}", ""])
    return rows


def latency_rows(latencies):
    rows = [[f"Redis {2 * DELAY_US / 1000:g} ms away", "share", "p50 us", "p99 us", "p99.9 us"]]
    for name, parts in latencies.items():
        for part, text in (("all", "all requests"), ("near", "answered from memory")):
            taken = parts[part]
            if taken["count"]:
                share = taken["count"] / parts["all"]["count"]
                figures = (f"{taken[quantile]:,.0f}" for quantile in ("p50", "p99", "p99.9"))
                rows.append([f"{name}: {text}", f"{share:.1%}", *figures])
    return rows
