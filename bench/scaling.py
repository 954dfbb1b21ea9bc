"""How the cost of an operation grows with the number of keys and of clients, with the size of values, and with depth.

One of the four at a time, the others held: what is looked for is a cliff, a step at which nearhit becomes dearer than
Redis does.
"""

from dataclasses import replace

import chart
import machine
import report
from marks import Mark
from matrix import BASELINE, KIB, WORKLOADS, Cell
from rounds import Subject, interleaved

# From one point to the next, the ratio to Redis may grow by so much.
STEP_MAX = 1.5
# What a key of 16 bytes with its value of 32 takes in three Redises and one cache, generously.
KEY_BYTES = 3 * 120 + 220
MEMORY_SHARE_MAX = 0.8
# Keys of 64 KiB and more are fewer.
VALUES_BYTES_MAX = 64 * KIB * KIB
ROOM = ["cache.max_entries=0", "cache.max_memory=8GiB"]

TARGETS = {
    BASELINE: lambda house: house.redis(),
    "forwarding": lambda house: house.redis().nearhit("cache.mode=off"),
    "nearhit": lambda house: house.redis().nearhit(*ROOM),
}
PROXIES = [target for target in TARGETS if target != BASELINE]


def get(keys=1000, size=32, connections=50, pipeline=16):
    keys = max(1, min(keys, VALUES_BYTES_MAX // size if size > KIB else keys))
    return Cell(replace(WORKLOADS["GET"], keys=keys), size, connections, pipeline)


def dimensions(options):
    keys, clients = [10**3, 10**4, 10**5, 10**6, 10**7], [1, 10, 100, 1000, 10_000]
    sizes, depths = [16, 256, 4 * KIB, 64 * KIB, 512 * KIB], [1, 4, 16, 64, 256]
    if options.quick:
        keys, clients, sizes, depths = [100, 1000], [5], [64 * KIB], [1]
    room = machine.memory_available() * MEMORY_SHARE_MAX
    return {
        "keys": [(count, get(keys=count)) for count in keys if count * KEY_BYTES < room],
        "clients": [(count, get(connections=count, pipeline=1)) for count in clients],
        "bytes of a value": [(size, get(size=size, pipeline=4)) for size in sizes],
        "requests a round trip": [(depth, get(pipeline=depth)) for depth in depths],
    }


def measure(options, street):
    found = {}
    for name, points in dimensions(options).items():
        if options.only and options.only not in name:
            continue
        found[name] = [(value, measure_point(cell, options, street)) for value, cell in points]
        print(report.table(rows(name, found[name]), options.markdown), end="\n\n", flush=True)
    marks = [mark for name, points in found.items() for mark in steps(name, points)]
    for mark in marks:
        print(mark)
    if options.svg:
        panels = {
            name: {
                target: [(value, series[target].ratio(series[BASELINE])) for value, series in points]
                for target in PROXIES
            }
            for name, points in found.items()
        }
        chart.write_lines(options.svg, panels)
    content = {name: [as_json(*point) for point in points] for name, points in found.items()}
    return {"scaling": content, "marks": [mark.as_json() for mark in marks]}


def as_json(value, series):
    def figures(one):
        return {
            "cpu_us_per_op": one.cpu_us(),
            "ratio": one.ratio(series[BASELINE]),
            "ops_per_s": one.rate(),
            "idle_share": one.idle_share(),
        }

    return {"at": value, "targets": {target: figures(one) for target, one in series.items()}}


def measure_point(cell, options, street):
    subjects = {}
    for name, build in TARGETS.items():
        house = street.house(name, build)
        cell.prepare(house, 1)
        subjects[name] = Subject(house, cell.load(1), options.seconds)
    return interleaved(subjects, options.rounds)


def rows(name, points):
    costs = [f"{target}, us/op" for target in TARGETS]
    ratios = [f"{target}, ratio" for target in PROXIES]
    found = [[name, *costs, *ratios, "nearhit at rest, of a core", ""]]
    for value, series in points:
        costs = [f"{series[target].cpu_us():.3f}" for target in TARGETS]
        ratios = [f"{series[target].ratio(series[BASELINE]):.2f}" for target in PROXIES]
        share = series["nearhit"].hit_share() or 0
        note = "" if share >= WORKLOADS["GET"].hits else f"NO FIGURE: {share:.0%} hits"
        found.append([f"{value:,}", *costs, *ratios, f"{series['nearhit'].idle_share():.1%}", note])
    return found


def steps(name, points):
    """The steepest step of each."""
    for target in PROXIES:
        ratios = [(value, series[target].ratio(series[BASELINE])) for value, series in points]
        grown = [(after / before, f"{low:,} to {high:,}") for (low, before), (high, after) in zip(ratios, ratios[1:])]
        if grown:
            worst, where = max(grown)
            yield Mark(f"{target}: growth of the ratio, at most between two points, {name} {where}", worst, STEP_MAX)
