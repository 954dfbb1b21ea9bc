"""Runs redis-py against the server at a URL, and prints a transcript that is the same whenever the answers are.

    python workload redis://127.0.0.1:6379 --interface blocking|asyncio --protocol 2|3 --parser python|hiredis

tests/clients.rs runs it against Redis and against nearhit, and compares. It flushes the server, so give it one that
nobody needs. Each round is the whole workload over, on emptied databases but the same server, so that a later round
meets whatever an earlier one left in a cache between. The last line is `done`.
"""

import argparse
import asyncio
import sys

arguments = argparse.ArgumentParser()
arguments.add_argument("url")
arguments.add_argument("--interface", choices=["blocking", "asyncio"], required=True)
arguments.add_argument("--protocol", type=int, choices=[2, 3], required=True)
arguments.add_argument("--parser", choices=["python", "hiredis"], required=True)
arguments.add_argument("--user", help="NAME:PASSWORD to log in with, instead of not logging in")
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
from library import SAID, Library, do  # noqa: E402

STEPS = values.STEPS + transactions.STEPS + messages.STEPS + connections.STEPS


async def main():
    assert redis.utils.HIREDIS_AVAILABLE == (options.parser == "hiredis"), "the wrong parser"
    for number in range(options.rounds):
        # What goes over the wire is the same for both, so one round of each is enough.
        decode = number % 2 == 1
        library = Library(options.url, options.interface, options.protocol, decode, options.user)
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
