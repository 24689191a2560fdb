"""Carries out the faults of a schedule on a stage."""

import asyncio
import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

import aiohttp
import redis

from chaos.facts import Disturbance, Exit
from chaos.schedule import (
    ALL_ILL,
    FILES_AWAY,
    GATEWAY,
    GATEWAY_ENDED,
    GATEWAY_KILLED,
    GATEWAY_STOPPED,
    ILLNESSES,
    KILL,
    LEASE,
    MODEL_ILL,
    SEAT_KILLED,
    SEAT_STARVED,
    SEAT_STOPPED,
    Fault,
)
from chaos.stage import MODELS, Slot, Stage
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.queues.redis.keys import IDLE
from greenscale_worker.simulator import Faults
from harness.eventually import eventually
from harness.tcp_proxy import Trap

RATE: Final = 0.15  # of calls, for each way in which the endpoint fails
SLOW_SECONDS: Final = 1.5 * LEASE  # of a good answer: only heartbeats keep the lease that long
TRAPS: Final = {"claim": b":claim:", "settle": b"succeeded", "put": b'"prompt"'}
RATES: Final = {
    "endpoint 429": "rate_429",
    "endpoint 5xx": "rate_5xx",
    "endpoint hangs": "rate_hang",
    "endpoint cuts": "rate_cut",
    "endpoint malformed": "rate_malformed",
    "endpoint slow": "rate_slow",
}
AWAY: Final = (redis.RedisError, OSError, QueueUnavailableError, aiohttp.ClientError)
AGAIN_SECONDS: Final = 0.1
START_SECONDS: Final = 15.0
END_SECONDS: Final = 120.0  # for a drain of 5 s; a worker that takes longer hangs
LETTERS: Final = 3


class Havoc:
    """Carries out a schedule. `done` counts the faults that took place, `disturbances` has times and whom they hit."""

    def __init__(self, stage: Stage, schedule: Sequence[Fault]) -> None:
        self.done: Counter[str] = Counter()
        self.void: Counter[str] = Counter()
        self.disturbances: list[Disturbance] = []
        self._stage = stage
        self._schedule = schedule
        self._endpoint: Counter[str] = Counter()
        self._pauses = 0
        self._killing = asyncio.Lock()
        self._ailing = asyncio.Lock()
        self._illnesses = itertools.cycle(ILLNESSES)
        self._random = random.Random(0)  # noqa: S311  which dead letters are replayed

    async def run(self) -> None:
        """Start every fault at its time; return when the last has ended."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self._schedule:
                await asyncio.sleep(began + fault.at - time.monotonic())
                group.create_task(self._happen(fault))

    async def _happen(self, fault: Fault) -> None:
        gateways = self._stage.gateways
        slot = gateways[fault.slot % len(gateways)] if fault.kind.startswith(GATEWAY) else self._stage.slots[fault.slot]
        method, personal = self.METHODS[fault.kind]
        trace = Disturbance(fault.kind, slot.name if personal else None, time.monotonic(), float("inf"))
        if fault.kind not in {KILL, SEAT_KILLED, SEAT_STOPPED, SEAT_STARVED}:  # these choose their worker first
            self.disturbances.append(trace)
        try:
            took_place = await method(self, fault, slot)
        except AWAY:
            took_place = False
        trace.ended = time.monotonic()
        (self.done if took_place is not False else self.void)[fault.kind] += 1

    async def _kill(self, fault: Fault, slot: Slot) -> bool:
        """Kill a worker with calls in flight, the scheduled one or the next: a fresh one has nothing to lose."""
        async with self._killing:
            ends = time.monotonic() + START_SECONDS
            while (victim := await self._at_work(slot)) is None and time.monotonic() < ends:  # noqa: ASYNC110  asked
                await asyncio.sleep(AGAIN_SECONDS)
            victim = victim or slot
            await asyncio.sleep(fault.lasts)
            return self._kill_now(victim)

    def _kill_now(self, victim: Slot) -> bool:
        if not victim.process.alive:
            return False
        victim.asked = "SIGKILL"
        now = time.monotonic()
        self.disturbances.append(Disturbance(KILL, victim.name, now, now))
        victim.process.signal(signal.SIGKILL)
        return True

    async def _hit_seat(self, fault: Fault, _: Slot) -> bool:
        """Kill, stop or stall a worker that has a seat."""
        pids = [
            int(owner.split(b":")[-2]) for owner in await self._stage.client.zrange(self._stage.keys.of(IDLE), 0, 1)
        ]
        victim = next((each for each in self._stage.slots if each.process.pid in pids and each.process.alive), None)
        if victim is None:
            return False
        if fault.kind == SEAT_KILLED:
            return self._kill_now(victim)
        now = time.monotonic()
        trace = Disturbance(fault.kind, victim.name, now, now + fault.lasts)
        self.disturbances.append(trace)
        return await (self._stop if fault.kind == SEAT_STOPPED else self._stall)(fault, victim) is not False

    async def _at_work(self, slot: Slot) -> Slot | None:
        slots, busy = self._stage.slots, await self._stage.busy()
        turn = (*slots[slot.number :], *slots[: slot.number])
        return next((each for each in turn if each.name in busy and each.process.alive), None)

    async def _term(self, _: Fault, slot: Slot) -> bool:
        process = slot.process
        if not process.alive or slot.asked:
            return False
        slot.asked = "SIGTERM"
        process.terminate()
        try:
            await eventually(lambda: not process.alive, END_SECONDS)
        except TimeoutError:
            self._stage.ended.append(Exit(slot.name, None, "SIGTERM", f"still there after {END_SECONDS:g} s"))
        return True

    async def _end_gateway(self, fault: Fault, slot: Slot) -> bool:
        """Kill a gateway, or end it by SIGTERM; return when its successor answers."""
        took_place = True
        if fault.kind == GATEWAY_ENDED:
            took_place = await self._term(fault, slot)
        elif slot.process.alive:
            slot.asked = "SIGKILL"
            slot.process.signal(signal.SIGKILL)
        else:
            took_place = False
        await self._stage.serves(slot)
        return took_place

    async def _stop(self, fault: Fault, slot: Slot) -> bool:
        process = slot.process
        if not process.alive:
            return False
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.lasts)
        process.signal(signal.SIGCONT)
        return True

    async def _cut(self, _: Fault, slot: Slot) -> bool:
        before = slot.proxy.cuts
        slot.proxy.cut()
        return slot.proxy.cuts > before

    async def _stall(self, fault: Fault, slot: Slot) -> None:
        slot.proxy.stall()
        await asyncio.sleep(fault.lasts)
        slot.proxy.flow()

    async def _trap(self, fault: Fault, slot: Slot) -> bool:
        """Truncate the answer to the next claim or settle, or a gateway's next put, and cut or stall the connection."""
        what, how = fault.kind.split()[-2:]
        trap = Trap(TRAPS[what], keep=2 if how == "truncated" else 0, cut=how == "truncated")
        slot.proxy.set(trap)
        await asyncio.sleep(fault.lasts or 1.0)
        trap.armed = False
        trap.opened.set()
        return trap.sprung.is_set()

    async def _kill_redis(self, fault: Fault, _: Slot) -> None:
        async with self._stage.redis_lock:
            await asyncio.to_thread(self._stage.server.kill)
            await asyncio.sleep(fault.lasts)
            await asyncio.to_thread(self._stage.server.start)

    async def _fill_redis(self, fault: Fault, _: Slot) -> None:
        async with self._stage.redis_lock:
            await self._stage.client.config_set("maxmemory", 1)
            await asyncio.sleep(fault.lasts)
            await _insist(lambda: self._stage.client.config_set("maxmemory", 0))

    async def _client_kill(self, _: Fault, __: Slot) -> bool:
        killed = [await self._stage.client.client_kill_filter(_type=kind, skipme=True) for kind in ("normal", "pubsub")]
        return any(killed)

    async def _client_pause(self, fault: Fault, _: Slot) -> None:
        await self._stage.client.client_pause(int(1000 * fault.lasts))
        await asyncio.sleep(fault.lasts)

    async def _debug_sleep(self, fault: Fault, _: Slot) -> None:
        await self._stage.client.execute_command("DEBUG", "SLEEP", fault.lasts)

    async def _endpoint_fails(self, fault: Fault, _: Slot) -> None:
        self._endpoint[fault.kind] += 1
        await self._tell_endpoint()
        await asyncio.sleep(fault.lasts)
        self._endpoint[fault.kind] -= 1
        await self._tell_endpoint()

    async def _tell_endpoint(self) -> None:
        rates: Any = {RATES[kind]: RATE for kind, times in self._endpoint.items() if times}
        await self._stage.break_endpoint(Faults(slow_seconds=SLOW_SECONDS, **rates))

    async def _fall_ill(self, fault: Fault, _: Slot) -> None:
        """Make every call fail in the same way, or those of one model with 500; one illness at a time."""
        async with self._ailing:
            model = {"model": MODELS[-1]} if fault.kind == MODEL_ILL else {}
            how = "500" if model else next(self._illnesses)
            trace = Disturbance(f"{fault.kind}: {how}", None, time.monotonic(), float("inf"))
            self.disturbances.append(trace)
            await self._stage.fall_ill(how=how, **model)
            await asyncio.sleep(fault.lasts)
            await self._stage.fall_ill()
            trace.ended = time.monotonic()

    async def _pause(self, fault: Fault, _: Slot) -> None:
        self._pauses += 1
        try:
            await self._stage.admin.pause()
            await asyncio.sleep(fault.lasts)
        finally:
            self._pauses -= 1
            if not self._pauses:
                await _insist(self._stage.admin.resume)

    async def _hide_files(self, fault: Fault, _: Slot) -> None:
        await self._stage.hide_files(fault.lasts)

    async def _replay(self, _: Fault, __: Slot) -> bool:
        letters = sorted([letter.id async for letter in self._stage.admin.dead()])
        for letter in self._random.sample(letters, min(LETTERS, len(letters))):
            await self._stage.admin.replay(letter)
        return bool(letters)

    METHODS: ClassVar[Mapping[str, tuple[Callable[["Havoc", Fault, Slot], Awaitable[Any]], bool]]] = {
        KILL: (_kill, True),
        SEAT_KILLED: (_hit_seat, True),
        SEAT_STOPPED: (_hit_seat, True),
        SEAT_STARVED: (_hit_seat, True),
        "SIGTERM": (_term, True),
        "SIGSTOP": (_stop, True),
        "connections cut": (_cut, True),
        "connections half-open": (_stall, True),
        "claim truncated": (_trap, True),
        "claim unanswered": (_trap, True),
        "settle truncated": (_trap, True),
        "settle unanswered": (_trap, True),
        "Redis killed": (_kill_redis, False),
        "Redis full": (_fill_redis, False),
        "CLIENT KILL": (_client_kill, False),
        "CLIENT PAUSE": (_client_pause, False),
        "DEBUG SLEEP": (_debug_sleep, False),
        **dict.fromkeys(RATES, (_endpoint_fails, False)),
        ALL_ILL: (_fall_ill, False),
        MODEL_ILL: (_fall_ill, False),
        "queue paused": (_pause, False),
        "dead letters replayed": (_replay, False),
        FILES_AWAY: (_hide_files, False),
        GATEWAY_KILLED: (_end_gateway, True),
        GATEWAY_ENDED: (_end_gateway, True),
        GATEWAY_STOPPED: (_stop, True),
        f"{GATEWAY}connections cut": (_cut, True),
        f"{GATEWAY}connections half-open": (_stall, True),
        f"{GATEWAY}put truncated": (_trap, True),
        f"{GATEWAY}put unanswered": (_trap, True),
    }  # the method of each, and whether it hits only one worker or gateway


async def _insist(call: Callable[[], Awaitable[Any]]) -> None:
    """Repeat a call until it is answered."""
    while True:
        with suppress(*AWAY):
            await call()
            return
        await asyncio.sleep(AGAIN_SECONDS)
