"""One run: faults for a while, then none until all work is done, then the account."""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import orjson

from chaos import journal
from chaos.account import judge
from chaos.clients import Clients
from chaos.facts import Disturbance, Execution, Facts, Letter, Verdict
from chaos.havoc import Havoc
from chaos.producing import Producers
from chaos.schedule import LATE, LEASE, STOOD_STILL, Plan, draw
from chaos.stage import Stage

PATIENCE: Final = 120.0  # seconds without progress, and without faults, after which work counts as stuck
LAST_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.2
WAITING_MOST: Final = 2000
TICK: Final = 0.1
STALL: Final = 0.5  # seconds; if our tick is this late, the machine stood still, for workers as well
PARTS: Final = (
    "ready",
    "suspect",
    "delayed",
    "held",
    "lease",
    "meta",
    "bound",
    "workers",
    "class",
    "later",
    "later:payload",
)
SAY_EVERY: Final = 30.0
BY_HTTP: Final = 0.3  # of all jobs


async def run(directory: Path, plan: Plan) -> tuple[Verdict, Havoc]:
    """Carry out a plan and judge it. Return the verdict, and the faults that took place."""
    async with Stage(directory, queue=plan.queue, workers=plan.workers) as stage:
        producers = Producers(stage, plan.seed, (1 - BY_HTTP) * plan.rate)
        clients, havoc = Clients(stage, plan.seed, BY_HTTP * plan.rate), Havoc(stage, draw(plan))
        witness = asyncio.create_task(_witness(havoc.disturbances))
        speaker = asyncio.create_task(_speak(stage, producers, clients, havoc))
        producing = [asyncio.create_task(who.run()) for who in (producers, clients)]
        await havoc.run()
        await stage.reconnect()
        producers.calm()
        clients.calm()
        await _poisoned_ended(stage, producers)
        producers.stop()
        clients.stop()
        await asyncio.gather(*producing)
        speaker.cancel()
        await _drained(stage)
        await stage.dismiss(LAST_SECONDS)
        witness.cancel()
        facts = await _facts(stage, producers, clients, havoc)
    return await asyncio.to_thread(judge, facts), havoc


async def _poisoned_ended(stage: Stage, producers: Producers) -> None:
    """Wait until poisoned jobs are dead letters; good jobs still come, as only their answers prove the job at fault."""
    alive = {push.job_id for push in producers.pushes if push.poisoned and push.told}
    since = time.monotonic()
    while alive and time.monotonic() - since < PATIENCE:
        for job_id in sorted(alive):
            if await stage.client.hget(stage.keys.record(job_id), "state") == b"failed":
                alive.remove(job_id)
                since = time.monotonic()
        await asyncio.sleep(LOOK_SECONDS)


async def _drained(stage: Stage) -> None:
    """Wait, without faults, until all jobs have ended and dead workers are removed, or progress stops."""
    least, since = sys.maxsize, time.monotonic()
    while (waiting := await stage.waiting()) or await stage.client.zcard(stage.keys.of("workers")) != stage.workers:
        if waiting < least:
            least, since = waiting, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _witness(disturbances: list[Disturbance]) -> None:
    """Record when the machine stands still: then a lease may expire without any other fault."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(TICK)
        if (now := time.monotonic()) - before > TICK + STALL:
            disturbances.append(Disturbance(STOOD_STILL, None, before, now))


def _late_beats(beats: Mapping[int, Sequence[int]], names: Mapping[int, str]) -> list[Disturbance]:
    """Return the times when a worker was silent for longer than a lease: then others may take its jobs."""
    since = time.monotonic() - time.time()
    return [
        Disturbance(LATE, names[pid], before / 1000 + since, after / 1000 + since)
        for pid, times in beats.items()
        for before, after in pairwise(times)
        if after - before >= 1000 * LEASE
    ]


async def _speak(stage: Stage, producers: Producers, clients: Clients, havoc: Havoc) -> None:
    while True:
        await asyncio.sleep(SAY_EVERY)
        workers, gateways = (sum(slot.generation for slot in slots) for slots in (stage.slots, stage.gateways))
        print(
            f"{len(producers.pushes)} pushed, {len(clients.requests)} requests, {havoc.done.total()} faults, "
            f"{workers} workers and {gateways} gateways ended",
            file=sys.stderr,
            flush=True,
        )


def _by_user(payloads: Iterable[bytes]) -> dict[str, list[bytes]]:
    """Group payloads by the user that they name."""
    found = defaultdict[str, list[bytes]](list)
    for payload in payloads:
        found[str(orjson.loads(payload).get("user"))].append(payload)
    return found


async def _told(stage: Stage, ids: Sequence[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Read results and records, as readers do."""
    results, records = {}, {}
    for start in range(0, len(ids), 500):
        chunk, pipe = ids[start : start + 500], stage.client.pipeline(transaction=False)
        for job_id in chunk:
            pipe.get(stage.keys.result(job_id)).hgetall(stage.keys.record(job_id))
        found = await pipe.execute()
        for job_id, result, record in zip(chunk, found[::2], found[1::2], strict=True):
            records[job_id] = {name.decode(): value.decode(errors="replace") for name, value in record.items()}
            if result is not None:
                results[job_id] = result.decode()
    return results, records


async def _left(stage: Stage) -> dict[str, int]:
    """Count what is left in the keys of the queue."""
    client, keys = stage.client, stage.keys
    left = {"the queue": await stage.waiting()}
    for part in PARTS:
        kind = await client.type(keys.of(part))
        if kind != b"none":
            left[part] = await (client.hlen if kind == b"hash" else client.zcard)(keys.of(part))
    left["tombstones"] = len([key async for key in client.scan_iter(keys.cancel("*"), count=1000)])
    return left


async def _facts(stage: Stage, producers: Producers, clients: Clients, havoc: Havoc) -> Facts:
    """Collect the facts. Jobs of gateways are found by the user that their payloads name, and get their ids here."""
    written = await asyncio.to_thread(journal.read, stage.directory / "redis")
    put = _by_user(written.put)
    pushes = [*producers.pushes, *clients.pushes(put)]
    ids = {user: str(orjson.loads(payloads[0])["job_id"]) for user, payloads in put.items()}
    results, records = await _told(stage, sorted({push.job_id for push in pushes}))
    calls = [Execution(**each) for each in await stage.executions()]
    return Facts(
        pushes=pushes,
        journal=written.pushed + written.put,
        written=written.written,
        results=results,
        records=records,
        letters=[Letter(letter.code, letter.payload) async for letter in stage.admin.dead()],
        cancellations=producers.cancellations | clients.cancellations(ids),
        executions=[replace(call, job=ids.get(call.job, call.job)) for call in calls],
        disturbances=[*havoc.disturbances, *_late_beats(written.beats, stage.names)],
        left=await _left(stage),
        exits=stage.ended,
        requests=[replace(each, job_id=ids.get(each.job_id, each.job_id)) for each in clients.requests],
    )
