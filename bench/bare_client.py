"""Sends requests to an endpoint with N lanes and no queue, and prints their ends: `python -m bench.bare_client`.

It reads a JSON object from stdin: `url`, `lanes`, and `bodies`, the requests. It prints the monotonic times of the
answers, in order, as JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import aiohttp


async def lane(http: aiohttp.ClientSession, url: str, bodies: Iterator[Any], ends: list[float]) -> None:
    for body in bodies:
        async with http.post(url, json=body) as response:
            response.raise_for_status()
            await response.json()
        ends.append(time.monotonic())


async def main() -> None:
    task = json.load(sys.stdin)
    bodies, ends = iter(task["bodies"]), list[float]()
    connector = aiohttp.TCPConnector(limit=task["lanes"])
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as http:
        await asyncio.gather(*(lane(http, task["url"], bodies, ends) for _ in range(task["lanes"])))
    print(json.dumps(ends))


if __name__ == "__main__":
    asyncio.run(main())
