"""The load generator: how it is run, and what it says of its run."""

import json
import os
import subprocess
from dataclasses import dataclass

# A generator that is on its core for more than this share of the run may be what limits the throughput.
SATURATED = 0.95


@dataclass
class Run:
    operations: int
    seconds: float
    p50: float  # microseconds, as are the next two
    p99: float
    p999: float
    load_share: float  # of a core, that the generator took

    @property
    def is_saturated(self):
        return self.load_share > SATURATED


def run(command, cores, operations):
    """Runs a generator; returns what it said, and the seconds of CPU time it took."""
    cpus = ",".join(map(str, sorted(cores)))
    process = subprocess.Popen(["taskset", "-c", cpus, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = process.stdout.read().decode("latin-1")
    # wait4 rather than wait: its account is of this child alone.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed, {operations} operations:\n{said[-2000:]}")
    return said, usage.ru_utime + usage.ru_stime


class Load:
    """examples/load.rs."""

    def __init__(self, connections, pipeline, **options):
        self.connections, self.pipeline, self.options = connections, pipeline, options
        self.seed = 0

    def run(self, house, operations):
        said, cpu_s = self.run_raw(house, operations)
        taken, seconds = said["all"], said["seconds"]
        # What it says itself is without its preparations.
        busy_s = said["busy_seconds"] or cpu_s
        return Run(operations, seconds, taken["p50"], taken["p99"], taken["p99.9"], busy_s / seconds)

    def run_raw(self, house, operations):
        """What it printed, too."""
        self.seed += 1
        options = dict(self.options, clients=self.connections, pipeline=self.pipeline, seed=self.seed)
        words = [f"{name}={value}" for name, value in options.items()]
        command = [house.programs.load, f"address=127.0.0.1:{house.port}", f"requests={operations}", *words]
        said, cpu_s = run(command, house.cores.load, operations)
        return json.loads(said.splitlines()[-1]), cpu_s
