"""Which core runs what, the kernel's account of CPU time, and what else there is of the machine."""

import os
import platform
import random
import resource
import socket
import sys
from pathlib import Path

# Below the ephemeral ports, so that no outgoing connection takes one before its server does.
PORTS = (10_000, 32_000)


class Cores:
    """Servers on one core, load on another, so that neither takes time from the other.

    A proxy and its Redis share a core: then the time that both take is what an operation costs, whatever waits for
    what. A proxy of two workers gets a second core: of its own if there are three or more, else the load's.
    """

    def __init__(self):
        allowed = sorted(os.sched_getaffinity(0))
        cores = one_a_core(allowed)
        self.are_threads = len(cores) == 1 < len(allowed)
        if self.are_threads:
            cores = allowed
        self.servers = {cores[0]}
        self.load = {cores[-1]}
        self.two_workers = {cores[0], cores[1] if len(cores) > 1 else cores[0]}

    def __str__(self):
        if self.servers == self.load:
            return "one core for all: the load takes time from the servers, and batches are smaller than they would be"
        text = f"servers on CPU {named(self.servers)}, load on CPU {named(self.load)}"
        text += f", the proxy of two workers on CPUs {named(self.two_workers)}"
        if self.are_threads:
            text += "; these are threads of one core, which slow each other down: ratios hold, microseconds do not"
        if self.two_workers & self.load:
            text += " (which is the load's, too: its figures are the least sure)"
        return text


def one_a_core(cpus):
    """Of CPUs that are threads of one core, the first."""
    chosen, taken = [], set()
    for cpu in cpus:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text().strip() if siblings.exists() else str(cpu)
        if core not in taken:
            chosen.append(cpu)
            taken.add(core)
    return chosen


def named(cpus):
    return "+".join(map(str, sorted(cpus)))


def cpu_ns(pids):
    """Nanoseconds that all threads of these processes have been on a CPU."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def free_port():
    while True:
        port = random.randint(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def raise_open_files():
    """To the hard limit, which children inherit; returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def memory_available():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def description():
    if not Path("/proc/self/schedstat").exists():
        sys.exit("this kernel keeps no /proc/PID/schedstat, by which CPU time is measured")
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
            break
    return {"processor": model, "cpus": os.cpu_count(), "kernel": platform.release()}
