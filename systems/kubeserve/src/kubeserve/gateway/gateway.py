"""Asks a door, and once more another one; else the call becomes a job."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final, TypeVar

import orjson

from kubeserve.domain import Deployment
from kubeserve.gateway.connection import BrokenError, Connections, Reply, UnreachableError
from kubeserve.gateway.doors import Address, Doors
from kubeserve.predictions import Answer
from kubeserve.queueing import LARGEST_BODY

ATTEMPTS: Final = 2
MOST_CALLS: Final = 256  # at once: each has a connection
MOST_OF_FREE: Final = 4  # times as many as are free may be one owner's: a flood leaves room for others
MOST_ADDRESSES: Final = 1000
SHUNNED_SECONDS: Final = 5.0  # a door that could not be reached
JOB_BYTES: Final = 1024  # what a job has beside its rows
Counted = TypeVar("Counted")
ANSWERED, REFUSED = 200, frozenset({422, 502})


class Gateway:
    """Asks whichever of a deployment's doors has the fewest of this gateway's calls."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._connections = Connections()
        self._calls = Counter[Address]()
        self._owners = Counter[str]()  # of calls
        self._shunned: dict[Address, float] = {}
        self._closed = False

    async def ask(self, deployment: Deployment, rows: list[Any], seconds: float) -> Answer | None:
        """Return the answer of a door, or its refusal. None: nothing came of it within `seconds`; make it a job."""
        try:
            body = orjson.dumps(rows)
        except orjson.JSONEncodeError:  # nested too deep: the queue says so
            return None
        if self._closed or len(body) > LARGEST_BODY - JOB_BYTES or not self._has_room(deployment.owner_id):
            return None
        with _counted(self._owners, deployment.owner_id):
            try:
                async with asyncio.timeout(seconds):
                    for address in self._chosen(await self._doors.of(deployment)):
                        answer = await self._ask(address, deployment.id, body, len(rows))
                        if answer is not None or self._closed:
                            return answer
            except TimeoutError:
                pass
        return None

    async def aclose(self) -> None:
        """Ask nobody any more; calls that run become jobs."""
        self._closed = True
        await self._connections.aclose()
        self._doors.close()

    def _has_room(self, owner_id: str) -> bool:
        return self._owners[owner_id] < MOST_OF_FREE * (MOST_CALLS - self._owners.total())

    def _chosen(self, doors: Sequence[Address]) -> Sequence[Address]:
        if len(doors) < ATTEMPTS:
            return doors
        now = monotonic()
        good = [door for door in doors if self._shunned.get(door, 0.0) < now]
        random.shuffle(good)
        return sorted(good, key=self._calls.__getitem__)[:ATTEMPTS]

    async def _ask(self, address: Address, deployment_id: str, body: bytes, count: int) -> Answer | None:
        try:
            with _counted(self._calls, address):
                reply = await self._connections.ask(address, f"/predict/{deployment_id}", body)
        except UnreachableError:
            self._shun(address)
            return None
        except BrokenError:
            return None
        return _read(reply, count)

    def _shun(self, address: Address) -> None:
        """Ask others first: its name may be told for a while after it is gone, and each attempt takes a second."""
        if len(self._shunned) >= MOST_ADDRESSES:
            self._shunned.clear()
        self._shunned[address] = monotonic() + SHUNNED_SECONDS


@contextmanager
def _counted(counts: Counter[Counted], one: Counted) -> Iterator[None]:
    counts[one] += 1
    try:
        yield
    finally:
        counts[one] -= 1
        if not counts[one]:
            del counts[one]


def _read(reply: Reply, count: int) -> Answer | None:
    """Return what a door answered; None if it is no end, or none that a door would tell."""
    try:
        told = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return None
    match told:
        case {"predictions": list(given), "revision": int(), "version": str()} if reply.status == ANSWERED:
            return Answer(None, "succeeded", answer=told) if len(given) == count else None
        case {"error": {"code": str(code), "message": str(message)}} if reply.status in REFUSED:
            return Answer(None, "failed", error=(code, message))
    return None
