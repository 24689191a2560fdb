"""Producers that push jobs, some twice, malformed or poisoned, cancel some, and record the replies."""

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import orjson
import redis

from chaos.endpoint import CUT, POISON, POISONS
from chaos.facts import Push
from chaos.stage import MODELS, NAME, TENANTS, Stage
from greenscale_worker.errors import ConfigError, QueueUnavailableError

PRODUCERS: Final = 2
TENANTS_REST: Final = 4  # how much slower than a producer each tenant is
RUBBISH: Final = {
    "not_json": b'{"job_id":"%b","prompt":"What is',
    "bad_job_id": b'{"job_id":"/%b","prompt":"What is 2+2?"}',
    "bad_request": b'{"job_id":"%b","prompt":4}',
    "bad_field": b'{"job_id":"%b","prompt":"What is 2+2?","deadline":4}',
}
SHARES: Final = {"plain": 82, "twice": 4, "conflict": 4, "rubbish": 4, "cancelled": 4, "poisoned": 2}  # percent


class Producers:
    """Push `rate` jobs per second until stopped. `cancellations` has the reply to each, by job id."""

    def __init__(self, stage: Stage, seed: int, rate: float) -> None:
        self.pushes: list[Push] = []
        self.cancellations: dict[str, str] = {}
        self._stage = stage
        self._seed = seed
        self._rest = PRODUCERS / rate
        self._stopping = asyncio.Event()
        self._calm = False

    def calm(self) -> None:
        """From now on, push only good jobs."""
        self._calm = True

    def stop(self) -> None:
        """Stop pushing."""
        self._stopping.set()

    async def run(self) -> None:
        """Push until `stop`."""
        async with asyncio.TaskGroup() as group:
            for number in range(PRODUCERS):
                group.create_task(self._produce(number))
            if self._stage.limit:
                for tenant in TENANTS:
                    group.create_task(self._put_for(tenant))

    async def _produce(self, number: int) -> None:
        """Run one producer. What it pushes is drawn from the seed."""
        rnd = random.Random(f"{self._seed} {number}")  # noqa: S311  a seeded generator makes a run repeatable
        client, count = self._stage.connect(), 0
        async with asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                count += 1
                job_id, (what,) = f"p{number}-{count}", rnd.choices([*SHARES], [*SHARES.values()])
                what = "plain" if self._calm else what
                if what == "rubbish":
                    code = rnd.choice([*RUBBISH])
                    push = Push(job_id, RUBBISH[code] % job_id.encode(), number, code=code)
                elif what == "poisoned":
                    push = _poisoned(job_id, number, rnd.choice([*POISONS]))
                else:
                    push = _plain(job_id, number, model=rnd.choice(MODELS))
                accepted, wait = await self._push(client, push), rnd.choice([0.0, 0.5, 2.0])
                if what in {"twice", "conflict"}:
                    again = _plain(job_id, number, seed=1) if what == "conflict" else push
                    group.create_task(self._later(wait, client, replace(again, producer=None)))
                elif what == "cancelled" and accepted:
                    group.create_task(self._cancel(wait, job_id))
                await asyncio.sleep(self._rest)
        await client.aclose()

    async def _later(self, seconds: float, client: Any, push: Push) -> None:
        await asyncio.sleep(seconds)
        await self._push(client, push)

    async def _push(self, client: Any, push: Push) -> bool:
        """Push as any program would; return whether it was accepted. Without an answer, it may have been, too."""
        try:
            if self._stage.queue == "stream":
                await client.xadd(NAME, {"job": push.payload})
            else:
                await client.lpush(NAME, push.payload)
        except redis.OutOfMemoryError:
            return False
        except (redis.RedisError, OSError):
            push = replace(push, told=False)
        self.pushes.append(push)
        return push.told

    async def _put_for(self, tenant: str) -> None:
        """Put jobs into a tenant's line. Without an answer, one may have been put, too; it is not put again."""
        count = 0
        while not self._stopping.is_set():
            count += 1
            job_id = f"{tenant}-{count}"
            push = replace(_plain(job_id, 0), producer=None, once=True)
            try:
                await self._stage.admin.put([(job_id, push.payload)], tenant=tenant)
            except (QueueUnavailableError, ConfigError):
                push = replace(push, told=False)
            self.pushes.append(push)
            await asyncio.sleep(TENANTS_REST * self._rest)

    async def _cancel(self, seconds: float, job_id: str) -> None:
        await asyncio.sleep(seconds)
        self.cancellations[job_id] = "unknown"
        with suppress(QueueUnavailableError):
            self.cancellations[job_id] = await self._stage.admin.cancel(job_id)


def _plain(job_id: str, producer: int, **fields: Any) -> Push:
    return Push(job_id, orjson.dumps({"job_id": job_id, "prompt": job_id, "user": job_id, **fields}), producer)


def _poisoned(job_id: str, producer: int, poison: str) -> Push:
    """Return a job that the endpoint always refuses; its prompt says how."""
    payload = {"job_id": job_id, "prompt": f"{POISON}{poison} {job_id}", "user": job_id}
    return Push(job_id, orjson.dumps(payload), producer, code=poisoned_code(poison), poisoned=True)


def poisoned_code(poison: str) -> str:
    """Return the code with which a poisoned job fails."""
    how, _ = POISONS[poison]
    return "connection_cut" if how == CUT else f"http_{how}"
