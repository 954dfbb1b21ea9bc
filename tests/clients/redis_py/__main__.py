"""Runs redis-py, and prints a transcript that is the same whenever the answers are.

    REDIS_HOST=127.0.0.1 REDIS_PORT=6379 REDIS_PROTOCOL=2|3 python redis_py --interface blocking|asyncio \\
        --parser python|hiredis

tests/clients/ecosystem.rs says what a workload is. It flushes the server, so give it one that nobody needs.
"""

import argparse
import asyncio
import os
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("--interface", choices=["blocking", "asyncio"], required=True)
arguments.add_argument("--parser", choices=["python", "hiredis"], required=True)
arguments.add_argument("--rounds", type=int, default=2)
arguments.add_argument("--step", action="append", help="only this one, for looking into a failure")
options = arguments.parse_args()
if options.parser == "python":
    # redis-py takes hiredis wherever it can be imported, and has no switch.
    sys.modules["hiredis"] = None

import connections  # noqa: E402
import messages  # noqa: E402
import redis.utils  # noqa: E402
import transactions  # noqa: E402
import values  # noqa: E402
from library import Library, do  # noqa: E402
from transcript import SAID  # noqa: E402

STEPS = values.STEPS + transactions.STEPS + messages.STEPS + connections.STEPS


async def main():
    assert redis.utils.HIREDIS_AVAILABLE == (options.parser == "hiredis"), "the wrong parser"
    for number in range(options.rounds):
        # What goes over the wire is the same for both, so one round of each is enough.
        decode = number % 2 == 1
        library = Library(os.environ, options.interface, decode)
        cleaner = library.client()
        for clean in [cleaner.flushall, cleaner.script_flush, cleaner.function_flush]:
            await do(clean())
        await library.close()
        for step in STEPS:
            if options.step and step.__name__ not in options.step:
                continue
            SAID.step = f"{number}/{'text' if decode else 'bytes'}/{step.__name__}"
            await step(library)
            await library.close()
    print("done")


asyncio.run(main())
