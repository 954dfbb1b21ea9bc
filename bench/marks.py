"""The marks: what must hold, said of cells by name, and whether it does."""

from dataclasses import dataclass

from matrix import BASELINE

GET = "GET 32 B c=50 P={}"
SET = "SET 32 B c=50 P={}"
DEPTHS = (1, 16, 64)
HIT = (0.97, 0.74, 0.47)
HIT_AIM = (0.95, 0.70, 0.42)
FORWARDED = (1.10, 1.15, 1.20)
FILLED = (1.3, 1.4, 1.7)
WRITTEN = 1.25
MIXED = 1.0


@dataclass
class Mark:
    what: str
    figure: float
    most: float
    aim: float | None = None
    unit: str = ""

    @property
    def is_met(self):
        return self.figure <= self.most

    def __str__(self):
        verdict = "met" if self.is_met else f"MISSED by {self.figure - self.most:.2f}{self.unit}"
        if self.is_met and self.aim is not None:
            verdict += ", and the aim" if self.figure <= self.aim else f", the aim {self.aim:.2f} not"
        return f"{self.what}: {self.figure:.2f}{self.unit}, at most {self.most:.2f}{self.unit}: {verdict}"

    def as_json(self):
        return {
            "what": self.what,
            "figure": round(self.figure, 4),
            "most": self.most,
            "aim": self.aim,
            "met": self.is_met,
        }


def of(results):
    """`results`: series by target, by the name of the cell. Yields the marks of those cells that were measured."""

    def ratio(cell, target, other):
        measured = results.get(cell, {})
        if target in measured and other in measured:
            return measured[target].ratio(measured[other])
        return None

    def mark(what, cell, target, other, most, aim=None):
        figure = ratio(cell, target, other)
        if figure is not None:
            yield Mark(f"{what}, {cell}", figure, most, aim)

    for name in (GET, "HGETALL 32 B c=50 P={}", "LRANGE 32 B c=50 P={}", "MGET 32 B c=50 P={}"):
        for depth, most, aim in zip(DEPTHS, HIT, HIT_AIM):
            yield from mark("hit to Redis", name.format(depth), "nearhit", BASELINE, most, aim)
    for name in (GET, SET):
        for depth, most in zip(DEPTHS, FORWARDED):
            yield from mark("forwarding to Redis", name.format(depth), "forwarding", BASELINE, most)
    for other in ("haproxy", "nutcracker"):
        figures = [(ratio(cell, "forwarding", other), cell) for cell in results]
        figures = [found for found in figures if found[0] is not None]
        if figures:
            worst, cell = max(figures)
            yield Mark(f"forwarding to {other}, the dearest of {len(figures)} cells ({cell})", worst, 1.0)
    for depth, most in zip(DEPTHS, FILLED):
        yield from mark("miss with fill to forwarding", f"GET miss 32 B c=50 P={depth}", "nearhit", "forwarding", most)
    for depth in DEPTHS:
        what = "SET to forwarding with a listener on Redis"
        yield from mark(what, SET.format(depth), "nearhit", "forwarding, listener", WRITTEN)
    for depth in DEPTHS[1:]:
        what = "90 % hits, 10 % misses and writes to forwarding"
        yield from mark(what, f"mixture 32 B c=50 P={depth}", "nearhit", "forwarding", MIXED)
    yield from latency(results.get("GET 32 B c=1 P=1", {}))


def latency(measured):
    """What a forwarded command waits longer than Redis alone lets it, against nutcracker."""
    if {"forwarding", "nutcracker", BASELINE} <= measured.keys():
        direct, ours, theirs = (measured[name].latency("p50") for name in (BASELINE, "forwarding", "nutcracker"))
        what = "added latency of a forwarded GET at p50, one connection, against nutcracker's"
        yield Mark(what, ours - direct, theirs - direct, unit=" us")
