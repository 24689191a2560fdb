"""Measures the cost of a call's timeout: asyncio's and ours (docs/adr/0021). `python -m bench.cancel_scope`."""

import asyncio
from time import perf_counter
from typing import Final

from greenscale_worker.cancel_scope import CancelScope, Timeouts

CALLS: Final = 200_000
LIMIT: Final = 300.0  # seconds; never reached
TURNS: Final = 5


async def nothing() -> None:
    """Stand for a call."""


async def asyncio_timeout() -> None:
    for _ in range(CALLS):
        async with asyncio.timeout(LIMIT):
            await nothing()


async def cancel_scope() -> None:
    timeouts = Timeouts()
    for _ in range(CALLS):
        scope = CancelScope()
        timeouts.add(scope, LIMIT)
        try:
            with scope:
                await nothing()
        finally:
            timeouts.discard(scope)


async def main() -> None:
    for _ in range(TURNS):
        for way in (asyncio_timeout, cancel_scope):
            began = perf_counter()
            await way()
            print(f"{way.__name__}: {(perf_counter() - began) / CALLS * 1e6:.2f} µs", end="   ")
        print()


if __name__ == "__main__":
    asyncio.run(main())
