"""One way to write a step for both of redis-py's interfaces, the blocking one and asyncio's.

The two have the same names and differ in what has to be awaited. Steps are coroutines that await through `do`, and the
blocking client simply answers at once. What runs beside a step is a thread for the one and a task for the other, since
a blocking client holds its thread. Nothing here stands between a step and the client: it calls redis-py as
applications do.
"""

import asyncio
import inspect
import threading

import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from transcript import say

# A reply that takes longer is lost: the step fails with redis-py's TimeoutError instead of hanging.
SOCKET_TIMEOUT_S = 20
# A connection that the server closed is dialled again, which the two interfaces do by default in different ways.
RETRIES = 3
RETRY_AFTER_S = 0.01


async def do(result):
    """What the client answered, whichever of the two it is. Not for what merely queues on a pipeline."""
    return await result if inspect.isawaitable(result) else result


class Library:
    """redis-py as one run of the workload uses it."""

    def __init__(self, variables, interface, decode):
        self.url = f"redis://{variables['REDIS_HOST']}:{variables['REDIS_PORT']}"
        login = {name: variables.get(f"REDIS_{name.upper()}") for name in ["username", "password"]}
        self.login = login if all(login.values()) else {}
        self.asyncio = interface == "asyncio"
        self.protocol = int(variables["REDIS_PROTOCOL"])
        self.decode = decode
        self._clients = []

    def client(self, **options):
        """A client with a pool of its own; it is closed at the end of the step."""
        options = self.login | {
            "protocol": self.protocol,
            "decode_responses": self.decode,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "retry": self.retry(RETRIES),
        } | options
        made = (redis.asyncio if self.asyncio else redis).Redis.from_url(self.url, **options)
        self._clients.append(made)
        return made

    def retry(self, times):
        kind = redis.asyncio.retry.Retry if self.asyncio else redis.retry.Retry
        return kind(ConstantBackoff(RETRY_AFTER_S), times)

    async def close(self):
        """Closes what the last step opened."""
        for client in self._clients:
            await do(client.aclose() if self.asyncio else client.close())
        self._clients.clear()

    def pool_class(self):
        return redis.asyncio.BlockingConnectionPool if self.asyncio else redis.BlockingConnectionPool

    async def items(self, iterator):
        """Everything that an iterator of either kind yields."""
        if hasattr(iterator, "__aiter__"):
            return [item async for item in iterator]
        return list(iterator)

    def beside(self, step):
        """Runs a coroutine function beside the caller; `await` what this returns to wait for its end."""
        if self.asyncio:
            return asyncio.ensure_future(step())
        return _Thread(step).join()


class _Thread:
    def __init__(self, step):
        self._error = None
        self._step = step
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            asyncio.run(self._step())
        except BaseException as error:  # told to whoever joins
            self._error = error

    async def join(self):
        self._thread.join(timeout=60)
        if self._thread.is_alive():
            raise AssertionError("what runs beside the step does not end")
        if self._error:
            raise self._error


async def error(what, attempt):
    """Says what a call raised: the class is as much a part of the answer as the text. An attempt that is a function is
    called here, since a blocking client raises in the call."""
    try:
        value = await do(attempt())
    except Exception as raised:
        say(what, raised)
    else:
        say(what, ("no error", value))
