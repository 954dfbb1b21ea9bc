"""The servers under measure. Each target is a house: what clients connect to, and all processes that its cost is of.

Every house has a Redis of its own, since an invalidation link, or a listener, changes what a write costs its Redis.
"""

import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import machine
from resp import Client, listen_to_broadcasts

START_MAX_S = 10
FILES_RESERVED = 200
# Keys made by one script: it blocks Redis, and whoever listens, for some milliseconds.
FILL_KEYS = 10_000

FILL = {
    "string": "redis.call('SET', string.format('key:%012d', i), ARGV[3])",
    "hash": "for f = 0, 9 do redis.call('HSET', string.format('hash:%012d', i), 'field:' .. f, ARGV[3]) end",
    "list": "for f = 0, 9 do redis.call('RPUSH', string.format('list:%012d', i), ARGV[3]) end",
}
# How a cache is filled with each kind, key by key.
READ = {"string": "GET key:{}", "hash": "HGETALL hash:{}", "list": "LRANGE list:{} 0 -1"}


class Programs:
    """Where the programs are."""

    def __init__(self, nearhit, tools):
        self.nearhit = str(Path(nearhit).resolve())
        self.load = str(Path(tools, "load").resolve())
        self.relay = str(Path(tools, "relay").resolve())

    def versions(self):
        def first_line(*command):
            if not shutil.which(command[0]):
                return "not installed"
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            return done.stdout.strip().split("\n")[0]

        return {
            "redis": first_line("redis-server", "--version"),
            "haproxy": first_line("haproxy", "-v"),
            "nutcracker": first_line("nutcracker", "--version"),
            "nearhit": first_line(self.nearhit, "--version"),
        }


class House:
    """Started servers, and what is in them."""

    def __init__(self, street, name):
        self.name, self.programs, self.cores = name, street.programs, street.cores
        self.directory = tempfile.mkdtemp(prefix="nearhit-bench-")
        self.processes, self.clients = [], []
        self.port = self.redis_port = None
        self.is_nearhit = self.caches = False
        self.dataset = None

    # Starting

    def start(self, command, port, cores=None, is_counted=True):
        """Starts a server on its cores, and waits until it accepts connections."""
        log = Path(self.directory, f"{Path(command[0]).name}.log")
        cpus = ",".join(map(str, sorted(cores or self.cores.servers)))
        with open(log, "w") as file:
            process = subprocess.Popen(
                ["taskset", "-c", cpus, *command], cwd=self.directory, stdout=file, stderr=subprocess.STDOUT
            )
        self.processes.append((process, is_counted))
        deadline = time.monotonic() + START_MAX_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                Client(port, 1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"{command[0]} does not start:\n{log.read_text()}")

    def redis(self):
        self.port = self.redis_port = machine.free_port()
        clients_max = os_files_max() - FILES_RESERVED
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        return self.start([*command, "--maxclients", str(clients_max), "--tcp-backlog", "4096"], self.port)

    def listener(self):
        listen_to_broadcasts(self.redis_port)
        return self

    def nearhit(self, *settings, workers=1, upstream_port=None):
        self.port = machine.free_port()
        self.is_nearhit = True
        self.caches = "cache.mode=off" not in settings
        command = [self.programs.nearhit]
        for setting in [
            f'server.listen=["127.0.0.1:{self.port}"]',
            f"server.workers={workers}",
            f"server.max_clients={os_files_max() - FILES_RESERVED}",
            f"upstream.url=redis://127.0.0.1:{upstream_port or self.redis_port}",
            *settings,
        ]:
            command += ["--set", setting]
        self.start(command, self.port, self.cores.servers if workers == 1 else self.cores.two_workers)
        if self.caches:
            self.wait_live()
        return self

    def relay(self, delay_us):
        """Puts Redis so far away, in each direction."""
        cpus = ",".join(map(str, self.cores.load))
        command = ["taskset", "-c", cpus, self.programs.relay, str(self.port), str(delay_us)]
        process = subprocess.Popen(command, cwd=self.directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.processes.append((process, False))
        self.port = int(process.stdout.readline())
        return self

    def haproxy(self):
        self.port = machine.free_port()
        config = Path(self.directory, "haproxy.cfg")
        config.write_text(
            "global\n  nbthread 1\n  maxconn 5000\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n"
            f"listen bench\n  bind 127.0.0.1:{self.port}\n  server redis 127.0.0.1:{self.redis_port}\n"
        )
        return self.start(["haproxy", "-db", "-f", str(config)], self.port)

    def nutcracker(self):
        self.port = machine.free_port()
        config = Path(self.directory, "nutcracker.yml")
        config.write_text(
            f"bench:\n  listen: 127.0.0.1:{self.port}\n  redis: true\n  backlog: 4096\n"
            f"  servers:\n   - 127.0.0.1:{self.redis_port}:1\n"
        )
        # Its page of statistics would be on a well-known port of all addresses.
        statistics = ["-a", "127.0.0.1", "-s", str(machine.free_port())]
        return self.start(["nutcracker", "-c", str(config), *statistics], self.port)

    def wait_live(self):
        deadline = time.monotonic() + START_MAX_S
        while self.ask_nearhit()["nearhit_link_state"] != "live":
            if time.monotonic() > deadline:
                raise RuntimeError("nearhit's link does not become live")
            time.sleep(0.02)

    # What is in them

    def fill(self, kind, keys, size):
        """Puts keys with values of that size into Redis, unless they are there."""
        if self.dataset == (kind, keys, size):
            return
        redis = Client(self.redis_port)
        redis.ask("FLUSHALL", "SYNC")
        script = f"for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do {FILL[kind]} end"
        for first in range(0, keys, FILL_KEYS):
            last = min(first + FILL_KEYS, keys) - 1
            redis.ask("EVAL", script, "0", first, last, "x" * size)
        redis.close()
        self.dataset = (kind, keys, size)

    def warm(self, kind, keys):
        """Reads every key once, so that what the cache has room for is in it."""
        if self.caches:
            self.run_load(requests=keys, pipeline=min(keys, 500), workload="sweep", request=READ[kind])

    def run_load(self, **options):
        words = [f"{name}={value}" for name, value in options.items()]
        command = [self.programs.load, f"address=127.0.0.1:{self.port}", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    # Looking

    def cpu_ns(self):
        return machine.cpu_ns(process.pid for process, is_counted in self.processes if is_counted)

    def ask_nearhit(self):
        client = Client(self.port)
        try:
            return client.info("nearhit")
        finally:
            client.close()

    def lookups(self):
        """How many reads were answered from memory, and how many could have been."""
        if not self.caches:
            return 0, 0
        figures = self.ask_nearhit()
        hits, misses, joins = (int(figures[f"nearhit_{name}"]) for name in ("hits", "misses", "joins"))
        return hits, hits + misses + joins

    def close(self):
        for process, _ in reversed(self.processes):
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Street:
    """All houses, started when first asked for, gone in the end."""

    def __init__(self, programs, cores):
        self.programs, self.cores, self.houses = programs, cores, {}

    def house(self, name, build):
        if name not in self.houses:
            house = self.houses[name] = House(self, name)
            build(house)
        return self.houses[name]

    def leave(self, name):
        self.houses.pop(name).close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.houses):
            self.leave(name)


def os_files_max():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
