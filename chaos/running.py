"""One run: faults for a while, then none until all work is done, then the account."""

import asyncio
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import orjson

from chaos import journal
from chaos.account import judge
from chaos.batching import Batching
from chaos.clients import Clients
from chaos.facts import Disturbance, Execution, Facts, Letter, Verdict
from chaos.havoc import Havoc
from chaos.producing import Producers
from chaos.receiver import Receiver
from chaos.schedule import LATE, LEASE, STOOD_STILL, Plan, draw
from chaos.stage import OWN_QUEUES, Stage
from greenscale_worker.queues.redis.keys import Keys

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
    "turns",
    "turns:payload",
)
SAY_EVERY: Final = 30.0
BY_HTTP: Final = 0.3  # of all jobs


@dataclass(frozen=True, slots=True)
class _Work:
    """All who hand in work, and who is told what came of it."""

    producers: Producers
    clients: Clients
    batching: Batching
    receiver: Receiver


async def run(directory: Path, plan: Plan) -> tuple[Verdict, Havoc]:
    """Carry out a plan and judge it. Return the verdict, and the faults that took place."""
    stage = Stage(directory, queue=plan.queue, workers=plan.workers, limit=plan.limit)
    async with stage, Receiver() as receiver:
        producers = Producers(stage, plan.seed, (1 - BY_HTTP) * plan.rate)
        clients = Clients(stage, plan.seed, BY_HTTP * plan.rate)
        work = _Work(producers, clients, Batching(stage, plan.seed, receiver), receiver)
        await work.batching.register()
        havoc = Havoc(stage, draw(plan))
        witness = asyncio.create_task(_witness(havoc.disturbances))
        speaker = asyncio.create_task(_speak(stage, work, havoc))
        producing = [asyncio.create_task(who.run()) for who in (producers, clients)]
        batching = asyncio.create_task(work.batching.run())
        await havoc.run()
        await stage.reconnect()
        producers.calm()
        clients.calm()
        work.batching.stop()
        await asyncio.gather(_poisoned_ended(stage, producers), asyncio.wait([batching], timeout=PATIENCE))
        producers.stop()
        clients.stop()
        batching.cancel()
        await asyncio.gather(*producing)
        speaker.cancel()
        await _drained(stage)
        listed = await work.batching.look_back()
        await stage.dismiss(LAST_SECONDS)
        witness.cancel()
        facts = await _facts(stage, work, havoc, listed)
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
    while (waiting := await stage.waiting()) or not await stage.all_alive():
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


async def _speak(stage: Stage, work: _Work, havoc: Havoc) -> None:
    while True:
        await asyncio.sleep(SAY_EVERY)
        workers, gateways = (sum(slot.generation for slot in slots) for slots in (stage.slots, stage.gateways))
        print(
            f"{len(work.producers.pushes)} pushed, {len(work.clients.requests)} requests, "
            f"{len(work.batching.batches)} batches, {havoc.done.total()} faults, "
            f"{workers} workers and {gateways} gateways ended",
            file=sys.stderr,
            flush=True,
        )


def _by_user(payloads: Iterable[bytes]) -> dict[str, list[bytes]]:
    """Group payloads by the user that they name; lines of batches name it in their body."""
    found = defaultdict[str, list[bytes]](list)
    for payload in payloads:
        fields = orjson.loads(payload)
        found[str(fields.get("body", fields).get("user"))].append(payload)
    return found


def _split(put: Mapping[bytes, int]) -> tuple[Counter[bytes], Counter[str]]:
    """Return how often each payload was put that is no line of a batch, and each line, by the id of its job."""
    others, lines = Counter[bytes](), Counter[str]()
    for payload, times in put.items():
        fields = orjson.loads(payload)
        if "body" in fields:
            lines[fields["job_id"]] += times
        else:
            others[payload] = times
    return others, lines


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
    """Count what is left in the keys of the queue, and of those that gateways have."""
    client, left = stage.client, {"the queue": await stage.waiting()}
    for keys in (stage.keys, *map(Keys, OWN_QUEUES)):
        for key in map(keys.of, PARTS):
            kind = await client.type(key)
            if kind != b"none":
                left[key] = await (client.hlen if kind == b"hash" else client.zcard)(key)
        left[keys.cancel("*")] = len([key async for key in client.scan_iter(keys.cancel("*"), count=1000)])
        if keys is not stage.keys:
            left[keys.of("dead")] = await client.zcard(keys.of("dead"))
    return left


async def _kept(stage: Stage, ids: Sequence[str]) -> dict[str, str]:
    """Return the states of those jobs that have a record, a result or a body."""
    pipe = stage.client.pipeline(transaction=False)
    for job_id in ids:
        pipe.hget(stage.keys.record(job_id), "state").exists(stage.keys.result(job_id), stage.keys.body(job_id))
    found = await pipe.execute()
    return {
        job_id: (state or b"answer without record").decode()
        for job_id, state, answers in zip(ids, found[::2], found[1::2], strict=True)
        if state or answers
    }


async def _facts(stage: Stage, work: _Work, havoc: Havoc, listed: Sequence[str]) -> Facts:
    """Collect the facts. Jobs of gateways are found by the user that their payloads name, and get their ids here."""
    written = await asyncio.to_thread(journal.read, stage.directory / "redis")
    put, (others, lines) = _by_user(written.put), _split(written.put)
    pushes = [*work.producers.pushes, *work.clients.pushes(put)]
    ids = {user: str(orjson.loads(payloads[0])["job_id"]) for user, payloads in put.items()}
    results, records = await _told(stage, sorted({push.job_id for push in pushes}))
    calls = [Execution(**each) for each in await stage.executions()]
    requests = [*work.clients.requests, *work.batching.requests]
    letters = [letter async for letter in stage.admin.dead()]
    return Facts(
        pushes=pushes,
        journal=written.pushed + others,
        written=written.written,
        results=results,
        records=records,
        letters=[Letter(letter.code, letter.payload) for letter in letters if letter.job_id not in lines],
        cancellations=work.producers.cancellations | work.clients.cancellations(ids),
        executions=[replace(call, job=ids.get(call.job, call.job)) for call in calls],
        disturbances=[*havoc.disturbances, *_late_beats(written.beats, stage.names)],
        left=await _left(stage),
        exits=stage.ended,
        requests=[replace(each, job_id=ids.get(each.job_id, each.job_id)) for each in requests],
        batches=work.batching.batches,
        listed=listed,
        lines=lines,
        lines_kept=await _kept(stage, sorted(lines)),
        lines_buried=[letter.job_id for letter in letters if letter.job_id in lines],
        events=work.receiver.events,
    )
