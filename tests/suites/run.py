"""Runs Redis's Tcl suite and hiredis's test program against Redis and through nearhit, and compares.

    run.py DIRECTORY NEARHIT [UNIT...]

DIRECTORY holds the sources (scripts/test-suites puts them there) and gets the results. Every unit has a Redis and a
nearhit of its own, so that none can trip over what another has left behind. A test that passes with Redis asked
directly must pass through nearhit, with the cache on and off, unless differences.txt lists it.
"""

import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Those of whose tests some can be run against a server that is there already.
UNITS = """
    type/string type/incr type/hash type/list type/list-2 type/set type/zset type/stream type/stream-cgroups
    keyspace scan expire sort dump multi pubsub scripting functions tracking protocol introspection introspection-2
    info-command querybuf replybufsize bitops bitfield geo hyperloglog other quit pause lazyfree latency-monitor
    slowlog violations integration/redis-cli hiredis
""".split()
# Scripts of the suite take seconds, on a busy machine more than nearhit waits for by default.
PATIENT = ["--set", "upstream.command_timeout=60s"]
# How a unit is run: straight to Redis, and through nearhit with these settings.
MODES = {"direct": None, "cached": PATIENT, "uncached": [*PATIENT, "--set", "cache.mode=off"]}

# Tests that no run is to wait for: a stalled Redis, and a minute without a word, are theirs alone.
SKIPPED = [
    "SRANDMEMBER with a dict containing long chain",
    "Fuzzing dense/sparse encoding: Redis should always detect errors",
]
# A unit may say nothing for so long; then the test that it is at has failed, and the rest goes on without it.
STALLED_S = 40
UNIT_MAX_S = 400
# A unit in which something has failed that should not have is run again: the suite has tests that go by the clock.
TRIES = 3
JOBS = 2
# Each run of the suite starts servers of its own on a hundred ports from one of these on, below the ephemeral ones.
SERVER_PORTS = itertools.cycle(range(21_100, 30_000, 100))
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for_port(port):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nobody listens on port {port}")


class House:
    """A Redis, and a nearhit before it unless it is asked directly."""

    def __init__(self, nearhit, settings):
        self.directory = tempfile.mkdtemp(prefix="nearhit-suite-")
        self.redis_port = self.port = free_port()
        redis = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", ""]
        redis += ["--enable-debug-command", "yes", "--enable-protected-configs", "yes"]
        self.processes = [self.start(redis)]
        wait_for_port(self.redis_port)
        if settings is not None:
            self.port = free_port()
            listen = f'server.listen=["127.0.0.1:{self.port}"]'
            url = f"upstream.url=redis://127.0.0.1:{self.redis_port}"
            self.processes.append(self.start([nearhit, "--set", listen, "--set", url, *settings]))
            wait_for_port(self.port)

    def start(self, command):
        with open(f"{self.directory}/{Path(command[0]).name}.log", "w") as log:
            return subprocess.Popen(command, cwd=self.directory, stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def run(command, seconds, **options):
    """What it said, and that it was stopped if it was. Nothing that it started is left."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **options
    )
    try:
        said = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0] + f"\n[exception]: stopped after {seconds} s\n".encode()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return ANSI.sub("", said.decode("latin-1"))


class Results(dict):
    """What each test of a unit came to: "ok", or why not. The second of a name is called "name #2"."""

    def put(self, name, result):
        number, unique = 1, name
        while unique in self:
            number += 1
            unique = f"{name} #{number}"
        self[unique] = result


def run_tcl(unit, house, sources, log):
    results, done, deadline = Results(), [], time.monotonic() + UNIT_MAX_S
    while time.monotonic() < deadline:
        skip_file = f"{house.directory}/skip"
        Path(skip_file).write_text("\n".join(SKIPPED + done) + "\n")
        path = unit if unit.startswith("integration/") else f"unit/{unit}"
        command = ["tclsh", "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", str(house.port)]
        command += ["--single", path, "--durable", "--timeout", str(STALLED_S), "--skipfile", skip_file]
        command += ["--baseport", str(next(SERVER_PORTS)), "--portcount", "60"]
        environment = dict(os.environ, REPLICATION_PORT=str(house.redis_port))
        said = run(command, deadline - time.monotonic(), cwd=sources, env=environment)
        log.write(said)
        stalled, aborted = read_tcl(said, results, done)
        if not stalled:
            if aborted:
                results.put("(the unit was aborted)", aborted)
            break
        results.put(stalled, f"no word for {STALLED_S} s")
        done.append(stalled)
    return results


def read_tcl(said, results, done):
    """Takes down what a run of the unit came to; returns the test at which it stalled, and why it was aborted."""
    stalled = aborted = None
    lines = said.split("\n")
    for number, line in enumerate(lines):
        if "!!! WARNING" in line:
            # The errors once more.
            break
        if found := re.match(r"\[ok\]: (.*) \(\d+ ms\)$", line):
            results.put(found[1], "ok")
            done.append(found[1])
        elif found := re.match(r"\[err\]: (.*?)( in tests/.*)?$", line):
            name = found[1] if found[2] else "(outside a test)"
            results.put(name, " | ".join(text.strip() for text in lines[number + 1 : number + 3]))
            done.append(name)
        elif found := re.match(r"\[exception\]: (.*)$", line):
            aborted = found[1]
    if "[TIMEOUT]" in said and (found := re.search(r"\(IN PROGRESS\) (.*)$", said, re.MULTILINE)):
        stalled = found[1]
    return stalled, aborted


def run_hiredis(house, sources, log):
    # The half that speaks through a Unix socket gets there by a bridge: a Redis has none by default.
    path = f"{house.directory}/socket"
    with subprocess.Popen(["python3", __file__, "--bridge", path, str(house.port)]) as bridge:
        while not os.path.exists(path):
            time.sleep(0.05)
        command = ["stdbuf", "-oL", "./hiredis-test", "--skip-throughput", "-h", "127.0.0.1"]
        command += ["-p", str(house.port), "-s", path]
        said = run(command, UNIT_MAX_S, cwd=sources, env=dict(os.environ, LD_LIBRARY_PATH="."))
        bridge.kill()
    log.write(said)
    results, through = Results(), ""
    for line in said.split("\n"):
        if found := re.match(r"Testing against (.*?)( connection)? \(", line):
            through = found[1]
        elif found := re.match(r"#\d+ (.*?):? ?(PASSED|FAILED)?$", line):
            results.put(f"{through}: {found[1].strip()}", "ok" if found[2] == "PASSED" else "failed")
    return results


def bridge(path, port):
    """Joins every connection to a Unix socket with one to the port, for ever."""

    def copy(source, target):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    with ThreadPoolExecutor(64) as threads:
        while True:
            client = listener.accept()[0]
            server = socket.create_connection(("127.0.0.1", port))
            threads.submit(copy, client, server)
            threads.submit(copy, server, client)


def read_differences():
    """The tests that may differ. The file says why, block by block."""
    lines = (Path(__file__).parent / "differences.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


class Comparison:
    def __init__(self, directory, nearhit):
        self.directory, self.nearhit = Path(directory).resolve(), Path(nearhit).resolve()
        self.differences = read_differences()
        self.counts = {mode: 0 for mode in MODES}
        self.unexpected, self.seen = [], set()

    def attempt(self, unit, mode):
        path = self.directory / "results" / mode / f"{unit.replace('/', '-')}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with House(self.nearhit, MODES[mode]) as house, open(path, "w", encoding="latin-1") as log:
            if unit == "hiredis":
                return run_hiredis(house, self.directory / "hiredis", log)
            return run_tcl(unit, house, self.directory / "redis", log)

    def compare(self, unit):
        direct = self.attempt(unit, "direct")
        passed = [name for name, result in direct.items() if result == "ok"]
        if not passed:
            sys.exit(f"{unit}: nothing passes with Redis itself: see {self.directory}/results/direct")
        self.counts["direct"] += len(passed)
        for mode in list(MODES)[1:]:
            failed = {name: "it was not reached" for name in passed}
            allowed = {name for name in failed if f"{unit} :: {name}" in self.differences}
            for _ in range(TRIES):
                results = self.attempt(unit, mode)
                # What has passed once passes: a proxy that is wrong is wrong each time.
                failed = {
                    name: results.get(name, f"it was not reached: {results.get('(the unit was aborted)', 'no word')}")
                    for name in failed
                    if results.get(name) != "ok"
                }
                if failed.keys() <= allowed:
                    break
            self.counts[mode] += len(passed) - len(failed)
            self.seen |= {f"{unit} :: {name}" for name in failed.keys() & allowed}
            for name in failed.keys() - allowed:
                self.unexpected.append(f"{mode}: {unit} :: {name}: {failed[name]}")
                print(f"  {self.unexpected[-1]}", flush=True)
        print(f"{unit}: {len(passed)} tests pass with Redis itself", flush=True)

    def report(self):
        print("\npassed: " + ", ".join(f"{count} {mode}" for mode, count in self.counts.items()))
        print(f"differences that are listed, and were seen: {len(self.seen)} of {len(self.differences)}")
        if self.unexpected:
            sys.exit("\n".join(["differences that are not listed:", *self.unexpected]))


def main(directory, nearhit, *units):
    # Attaching a replication stream is how the suite looks at what Redis does to its data; no proxy forwards SYNC.
    helper = Path(directory, "redis/tests/test_helper.tcl")
    text = helper.read_text(encoding="latin-1")
    attached = 'set s [socket [srv 0 "host"] [srv 0 "port"]]\n    }\n    fconfigure $s -translation binary\n'
    apart = attached.replace('[srv 0 "port"]', "$::env(REPLICATION_PORT)")
    assert attached in text or apart in text, f"{helper} is not as it was"
    helper.write_text(text.replace(attached, apart), encoding="latin-1")

    comparison = Comparison(directory, nearhit)
    with ThreadPoolExecutor(JOBS) as threads:
        for done in [threads.submit(comparison.compare, unit) for unit in units or UNITS]:
            done.result()
    comparison.report()


if __name__ == "__main__":
    if sys.argv[1] == "--bridge":
        bridge(sys.argv[2], int(sys.argv[3]))
    else:
        main(*sys.argv[1:])
