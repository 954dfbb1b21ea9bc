"""Measuring: every target of a cell once in each round, in rotating order, and the medians of that.

What a machine does besides, and how warm it is, changes from minute to minute; so figures are compared within a round
only. CPU time is what the kernel says the house's processes were on a core. What connecting costs them is measured
apart and taken off, as is what they do by themselves while nothing is asked.
"""

import time
from dataclasses import dataclass, field
from statistics import median

REST_S = 0.03
REST_PER_CONNECTION_S = 0.0001
# Servers look after themselves some ten times a second.
IDLE_MIN_S = 0.1
# How long a first run goes, to learn the rate; and the least that is a measurement, in pipelines of every connection.
TRIAL_OPERATIONS = 5000
PIPELINES_MIN = 5


@dataclass
class Sample:
    """One target in one round."""

    cpu_ns: float  # for one operation
    run: object
    hit_share: float | None
    idle_share: float  # of a core, that the house takes when nobody asks for anything


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

    def idle_share(self):
        return self.of(lambda sample: sample.idle_share)

    def load_share(self):
        return self.of(lambda sample: sample.run.load_share)

    def ratio(self, other):
        """Median of the ratios of CPU time in the same rounds."""
        return median(mine.cpu_ns / its.cpu_ns for mine, its in zip(self.samples, other.samples))


class Subject:
    """A target in a cell: its house, its load, how many operations make a measurement, and what is taken off."""

    def __init__(self, house, load, seconds):
        self.house, self.load = house, load
        batch = load.connections * load.pipeline
        self.connecting_operations = batch
        trial = load.run(house, batch * (1 + TRIAL_OPERATIONS // batch))
        pipelines = int(trial.operations / trial.seconds * seconds / batch)
        self.operations = batch * max(PIPELINES_MIN, pipelines)
        self.rest()
        before, begun = house.cpu_ns(), time.monotonic()
        time.sleep(max(seconds, IDLE_MIN_S))
        self.idle_share = (house.cpu_ns() - before) / 1e9 / (time.monotonic() - begun)
        self.connecting_ns = min(self.once(batch)[0] for _ in range(2))

    def measure(self):
        hits, lookups = self.house.lookups()
        spent, run = self.once(self.operations)
        hits_after, lookups_after = self.house.lookups()
        share = (hits_after - hits) / (lookups_after - lookups) if lookups_after > lookups else None
        # A quick run can be so short that what is taken off is more than it took.
        spent = max(spent - self.connecting_ns, 1)
        return Sample(spent / (self.operations - self.connecting_operations), run, share, self.idle_share)

    def once(self, operations):
        """Runs the load; returns the CPU time that the house took for it, and the run.

        What the servers do by themselves counts for as long as operations run, and not while clients connect and go.
        """
        self.rest()
        before, begun = self.house.cpu_ns(), time.monotonic()
        run = self.load.run(self.house, operations)
        self.rest()
        spent = self.house.cpu_ns() - before
        around_s = time.monotonic() - begun - run.seconds
        return spent - self.idle_share * around_s * 1e9, run

    def rest(self):
        """Lets the servers have done with connections that were closed."""
        time.sleep(REST_S + self.load.connections * REST_PER_CONNECTION_S)


def interleaved(subjects, rounds):
    """`subjects` by name; returns the series by name."""
    series = {name: Series() for name in subjects}
    names = list(subjects)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            series[name].samples.append(subjects[name].measure())
    return series
