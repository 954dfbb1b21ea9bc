"""The benchmark:  python3 bench [saved|scaling] --nearhit PROGRAM --tools DIRECTORY [OPTIONS]

scripts/bench builds and installs what this needs, and runs it; docs/BENCHMARKS.md says how it measures.
"""

import argparse
import fnmatch
import os
import signal
import sys
import time

import chart
import machine
import marks
import matrix
import report
import saved
import scaling
from rounds import Subject, interleaved
from servers import Programs, Street


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="What nearhit costs, as a ratio to Redis.")
    parser.add_argument("what", nargs="?", choices=["matrix", "saved", "scaling"], default="matrix")
    parser.add_argument("--nearhit", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--tools", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--all", action="store_true", help="every size, number of clients and depth (about an hour)")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--only", metavar="PATTERN", help="cells whose name begins so, such as 'GET 32 B*P=16'")
    parser.add_argument("--rounds", type=int, help="how often each target is measured (7)")
    parser.add_argument("--seconds", type=float, help="how long each time (0.3)")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    parser.add_argument("--json", metavar="FILE", help="everything, round by round")
    parser.add_argument("--svg", metavar="FILE", help="a chart")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 7)
    options.seconds = options.seconds or (0.02 if options.quick else 0.3)
    if options.svg and options.what == "saved":
        parser.error("saved has no chart")
    # By how much less there is of everything.
    options.scale = 100 if options.quick else 1
    return options


def main():
    options = arguments()
    # Servers must not outlive this, however it ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine.raise_open_files()
    cores = machine.Cores()
    about = machine.description()
    # Whatever runs here, the relay and the listeners too, is not to disturb the servers.
    os.sched_setaffinity(0, cores.load)
    programs = Programs(options.nearhit, options.tools)
    about |= {"cores": str(cores), "rounds": options.rounds, "versions": programs.versions()}
    print(f"{about['processor']}, {cores}; {options.rounds} rounds", end="\n\n", flush=True)
    with Street(programs, cores) as street:
        measure = {"matrix": measure_matrix, "saved": saved.measure, "scaling": scaling.measure}[options.what]
        found = measure(options, street)
    if options.json:
        report.write_json(options.json, {"machine": about, **found})


def say(text):
    """For who waits; what is meant to be kept goes to standard output."""
    print(text, file=sys.stderr, flush=True)


def measure_matrix(options, street):
    cells = matrix.quick() if options.quick else matrix.whole() if options.all else matrix.usual()
    if options.only:
        cells = [cell for cell in cells if fnmatch.fnmatchcase(cell.name, f"{options.only}*")]
    left_out = [cell for cell in cells if cell.in_flight_bytes > matrix.IN_FLIGHT_BYTES_MAX]
    cells = [cell for cell in cells if cell not in left_out]
    for program in {program for program in matrix.PROGRAMS if program not in cell_targets(cells)}:
        say(f"{program} is not installed, and left out")
    results, begun = {}, time.monotonic()
    try:
        for number, cell in enumerate(cells):
            say(f"[{time.monotonic() - begun:4.0f} s] {number + 1} of {len(cells)}: {cell.name}")
            results[cell.name] = measure_cell(cell, options, street)
    except KeyboardInterrupt:
        say("stopped: what has been measured follows")
        cells = cells[: len(results)]
    print(report.table(report.summary(cells, results), options.markdown), end="\n\n")
    rows = [row for cell in cells for row in report.details(cell, results[cell.name])]
    print(report.table([report.COLUMNS, *rows], options.markdown), end="\n\n")
    for cell in left_out:
        print(f"left out: {cell.name}, {cell.in_flight_bytes >> 20} MiB in flight")
    found = list(marks.of(results))
    for mark in found:
        print(mark)
    if options.svg:
        chart.write_bars(options.svg, results)
    return {
        "cells": [report.as_json(cell, results[cell.name]) for cell in cells],
        "left_out": [cell.name for cell in left_out],
        "marks": [mark.as_json() for mark in found],
    }


def cell_targets(cells):
    return {target for cell in cells for target in cell.targets()}


def measure_cell(cell, options, street):
    subjects = {}
    for name in cell.targets():
        house = street.house(name, matrix.TARGETS[name])
        cell.prepare(house, options.scale)
        subjects[name] = Subject(house, cell.load(options.scale), options.seconds)
    return interleaved(subjects, options.rounds)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
