"""Measuring: every target of a cell once in each round, in rotating order, and the medians of that.

What a machine does besides, and how warm it is, changes from minute to minute; so figures are compared within a round
only. CPU time is what the kernel says the house's processes were on a core. What connecting costs them is measured
apart and taken off.
"""

from dataclasses import dataclass, field
from statistics import median

from loads import settle

# For how many pipelines of every connection a first run goes, to learn the rate.
TRIAL_PIPELINES = 20
OPERATIONS_MIN_PIPELINES = 10


@dataclass
class Sample:
    """One target in one round."""

    cpu_ns: float  # for one operation
    run: object
    hit_share: float | None


@dataclass
class Series:
    """One target in all rounds."""

    samples: list = field(default_factory=list)

    def of(self, figure):
        return median(figure(sample) for sample in self.samples)

    def cpu_us(self):
        return self.of(lambda sample: sample.cpu_ns) / 1e3

    def rate(self):
        return self.of(lambda sample: sample.run.operations / sample.run.seconds)

    def latency(self, name):
        return self.of(lambda sample: getattr(sample.run, name))

    def hit_share(self):
        shares = [sample.hit_share for sample in self.samples if sample.hit_share is not None]
        return median(shares) if shares else None

    def load_share(self):
        return self.of(lambda sample: sample.run.load_share)

    def ratio(self, other):
        """Median of the ratios of CPU time in the same rounds."""
        return median(mine.cpu_ns / its.cpu_ns for mine, its in zip(self.samples, other.samples))


def once(house, load, operations):
    """Runs a load; returns the CPU time of the house, the run, and the share of hits."""
    hits, lookups = house.lookups()
    before = settle(house)
    run = load.run(house, operations)
    spent = settle(house) - before
    hits_after, lookups_after = house.lookups()
    share = (hits_after - hits) / (lookups_after - lookups) if lookups_after > lookups else None
    return spent, run, share


class Subject:
    """A target in a cell: its house, its load, how many operations make a measurement, and what connecting costs."""

    def __init__(self, house, load, seconds):
        self.house, self.load = house, load
        batch = load.connections * load.pipeline
        self.connecting_operations = batch
        trial = load.run(house, TRIAL_PIPELINES * batch)
        pipelines = int(trial.operations / trial.seconds * seconds / batch)
        self.operations = batch * max(OPERATIONS_MIN_PIPELINES, pipelines)
        self.connecting_ns = min(once(house, load, batch)[0] for _ in range(2))

    def measure(self):
        spent, run, share = once(self.house, self.load, self.operations)
        spent -= self.connecting_ns
        return Sample(spent / (self.operations - self.connecting_operations), run, share)


def interleaved(subjects, rounds):
    """`subjects` by name; returns the series by name."""
    series = {name: Series() for name in subjects}
    names = list(subjects)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            series[name].samples.append(subjects[name].measure())
    return series
