"""What is measured: the targets, the workloads, and the cells, which are workloads of some size, clients and depth."""

import shutil
from dataclasses import dataclass

from loads import Load

KIB = 1024
# Requests and replies of a cell that may be under way at once; more would measure the machine's memory.
IN_FLIGHT_BYTES_MAX = 256 * KIB * KIB

# How each target is built. All nearhits run with the defaults: coherence, limits and counters are on.
TARGETS = {
    "redis": lambda house: house.redis(),
    "redis, listener": lambda house: house.redis().listener(),
    "haproxy": lambda house: house.redis().haproxy(),
    "nutcracker": lambda house: house.redis().nutcracker(),
    "forwarding": lambda house: house.redis().nearhit("cache.mode=off"),
    "forwarding, listener": lambda house: house.redis().listener().nearhit("cache.mode=off"),
    "nearhit": lambda house: house.redis().nearhit(),
    "nearhit, 2 workers": lambda house: house.redis().nearhit(workers=2),
}
# What Debian calls the program of a target, where it may be missing.
PROGRAMS = {"haproxy": "haproxy", "nutcracker": "nutcracker"}

BASELINE = "redis"
PROXIES = ["haproxy", "nutcracker", "forwarding"]
HIT_TARGETS = [BASELINE, *PROXIES, "nearhit", "nearhit, 2 workers"]
WRITE_TARGETS = [BASELINE, "redis, listener", *PROXIES, "forwarding, listener", "nearhit"]
CACHE_TARGETS = [BASELINE, "forwarding", "nearhit"]


@dataclass(frozen=True)
class Workload:
    name: str
    words: tuple  # of the request; "{value}" is a value of the cell's size
    kind: str = "string"  # of the keys
    keys: int = 1000
    targets: tuple = tuple(CACHE_TARGETS)
    hits: float | None = None  # the share that nearhit must answer from memory, or the figure is none
    is_warm: bool = True
    values: int = 1  # in a reply


# Each number of a key is drawn anew.
KEY = "key:{}"
WORKLOADS = {
    one.name: one
    for one in [
        Workload("GET", ("GET", KEY), targets=tuple(HIT_TARGETS), hits=0.98),
        Workload("SET", ("SET", KEY, "{value}"), targets=tuple(WRITE_TARGETS), is_warm=False),
        # A hundred keys for each that the cache has room for: reads are misses, fill, and evict another.
        Workload("GET miss", ("GET", KEY), keys=1_000_000, is_warm=False),
        Workload("HGETALL", ("HGETALL", "hash:{}"), kind="hash", hits=0.98, values=10),
        Workload("LRANGE", ("LRANGE", "list:{}", "0", "-1"), kind="list", hits=0.98, values=10),
        Workload("MGET", ("MGET", *[KEY] * 10), hits=0.98, values=10),
        # 90 % reads of 1,000 hot keys, 5 % reads and 5 % writes of 200,000 cold ones, shuffled in one pipeline.
        Workload("mixture", (), keys=201_000, hits=0.85),
    ]
}
MIXTURE_HOT, MIXTURE_COLD = 1000, 200_000


@dataclass(frozen=True)
class Cell:
    workload: Workload
    size: int
    connections: int
    pipeline: int

    @property
    def name(self):
        return f"{self.workload.name} {bytes_text(self.size)} c={self.connections} P={self.pipeline}"

    @property
    def in_flight_bytes(self):
        return self.connections * self.pipeline * self.size * self.workload.values

    def targets(self):
        names = [name for name in self.workload.targets if shutil.which(PROGRAMS.get(name, "taskset"))]
        # One client has one worker.
        return [name for name in names if self.connections > 1 or name != "nearhit, 2 workers"]

    def load(self, scale):
        """A generator for one target of the cell."""
        if self.workload.words:
            options = {"workload": "same", "request": " ".join(self.workload.words), "keys": self.keys(scale)}
            return Load(self.connections, self.pipeline, size=self.size, **options)
        hot, cold = max(MIXTURE_HOT // scale, 1), max(MIXTURE_COLD // scale, 1)
        options = {"workload": "mixture", "size": self.size, "hot": hot, "cold": cold}
        return Load(self.connections, self.pipeline, **options)

    def keys(self, scale):
        return max(self.workload.keys // scale, 1)

    def prepare(self, house, scale):
        house.fill(self.workload.kind, self.keys(scale), self.size)
        if self.workload.name == "mixture":
            house.warm("string", max(MIXTURE_HOT // scale, 1))
        elif self.workload.is_warm:
            house.warm(self.workload.kind, self.keys(scale))


def bytes_text(count):
    return f"{count // KIB} KiB" if count >= KIB else f"{count} B"


def cells(workloads, sizes, connections, pipelines):
    return [
        Cell(WORKLOADS[workload], size, clients, pipeline)
        for workload in workloads
        for size in sizes
        for clients in connections
        for pipeline in pipelines
    ]


def usual():
    """The README's table, and all that has a mark."""
    return [
        *cells(["GET", "SET"], [32], [50], [1, 16, 64]),
        *cells(["GET"], [32], [1], [1]),
        *cells(["GET miss"], [32], [50], [1, 16, 64]),
        *cells(["HGETALL", "LRANGE", "MGET"], [32], [50], [1, 16, 64]),
        *cells(["mixture"], [32], [50], [16, 64]),
    ]


def whole():
    """Every combination. Misses of 64 KiB are none of them: what the cache has room for would be all keys there are."""
    sizes, connections, pipelines = [32, KIB, 64 * KIB], [1, 50, 1000], [1, 16, 64]
    return [
        *cells(["GET", "SET"], sizes, connections, pipelines),
        *cells(["GET miss"], sizes[:1], connections, pipelines),
        *cells(["HGETALL", "LRANGE", "MGET"], sizes[:2], connections, pipelines),
        *cells(["mixture"], sizes[:2], [50, 1000], pipelines[1:]),
    ]


def quick():
    """Something of everything, to see that it works."""
    return cells(["GET", "SET", "LRANGE", "mixture"], [32], [5], [16])
