"""Clients that hand in jobs over HTTP: some wait, repeat a request with its key at the other gateway, or cancel."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson
from pydantic import ValidationError

from chaos.facts import Push, Request
from chaos.stage import MODELS, Stage
from greenscale_worker.gateway.schemas import JobObject, ProblemObject

CLIENTS: Final = 2
SHARES: Final = {"plain": 74, "again": 8, "reuse": 4, "rubbish": 4, "cancelled": 10}  # percent
BURST: Final = 5  # jobs of one class, one after the other: so that several wait, and their order shows
CLASSES: Final = {"interactive": 30, "standard": 40, "background": 30}
AFTERWARDS: Final = {"again", "reuse", "cancelled"}
KEYED: Final = 0.4
NAMED: Final = 0.5  # of the others: the client chooses the id
WAITING: Final = 0.3
LATER: Final = 0.1
NOTIFY: Final = 0.1
AHEAD: Final = (1.0, 2.0)  # seconds
WAIT: Final = 10  # seconds, of `Prefer: wait`
PATIENCE: Final = 40.0  # seconds beyond that; a gateway gives Redis up after some 15
TRIES: Final = 100
AGAIN_SECONDS: Final = 0.3
ERROR: Final = 400
BROKEN: Final = 500
UNREACHED: Final = (aiohttp.ClientError, TimeoutError, OSError)
RUBBISH: Final = (
    b'{"prompt":"What is',
    b'{"prompt":4}',
    b'{"prompt":"What is 2+2?","class":"best"}',
    b'{"prompt":"What is 2+2?","job_id":"/"}',
    b'{"prompt":"What is 2+2?","not_before":"tomorrow"}',
)


@dataclass(slots=True, kw_only=True)
class Job:
    """A job that a client hands in; `name` is the user that the endpoint sees. `line`: see `Push.producer`.

    `told`, `refused`: a gateway said that it is accepted, or that it never will be.
    """

    name: str
    body: Mapping[str, Any] | bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    line: str | None = None
    due: float = float("-inf")
    wanted: Sequence[int] = (200, 202)
    told: bool = False
    refused: bool = False


class Clients:
    """Hand in `rate` jobs per second until stopped."""

    def __init__(self, stage: Stage, seed: int, rate: float) -> None:
        self.requests: list[Request] = []  # with the names of jobs, as their ids may not be known
        self._cancellations: dict[str, str] = {}
        self._jobs: list[Job] = []
        self._stage = stage
        self._seed = seed
        self._rest = CLIENTS / rate
        self._stopping = asyncio.Event()
        self._calm = False

    def calm(self) -> None:
        """From now on, hand in only good jobs."""
        self._calm = True

    def stop(self) -> None:
        """Stop."""
        self._stopping.set()

    async def run(self) -> None:
        """Hand in jobs until `stop`. Each request has its own connection: one that breaks concerns no other."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=WAIT + PATIENCE)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as self._http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(CLIENTS):
                group.create_task(self._hand_in(number))

    def pushes(self, put: Mapping[str, Sequence[bytes]]) -> list[Push]:
        """Return the jobs that were handed in and not refused. `put`: payloads in Redis' journal by user."""
        return [
            Push(job_id, payload, job.line, told=job.told, once=True, due=job.due, notify=notify)
            for job in self._jobs
            if job.told or not job.refused
            for payload in put.get(job.name, [orjson.dumps({"job_id": job.name})])  # the latter is in no journal
            for job_id, notify in [_known(payload)]
        ]

    def cancellations(self, ids: Mapping[str, str]) -> dict[str, str]:
        """Return what was answered to cancellations, by job id. `ids`: job ids by user."""
        return {ids[name]: answer for name, answer in self._cancellations.items() if name in ids}

    async def _hand_in(self, number: int) -> None:
        """Run one client. What it does is drawn from the seed."""
        rnd = random.Random(f"{self._seed} client {number}")  # noqa: S311  a seeded generator makes a run repeatable
        count, job_class = 0, ""
        async with asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                if count % BURST == 0:
                    (job_class,) = rnd.choices([*CLASSES], [*CLASSES.values()])
                count += 1
                (what,) = rnd.choices([*SHARES], [*SHARES.values()])
                what = "plain" if self._calm else what
                job = _drawn(rnd, what, f"h{number}-{count}", job_class, line=f"client {number}, {job_class}")
                handing = group.create_task(self._submit(job, number + count))
                if job.line is not None:
                    await handing
                rest = rnd.choice([0.0, 0.5, 2.0])
                if what in AFTERWARDS:
                    group.create_task(self._go_on(handing, job, what, number + count + 1, rest))
                if count % BURST == 0:
                    await asyncio.sleep(BURST * self._rest)

    async def _submit(self, job: Job, gateway: int) -> None:
        """Hand in a job; with a key, to each gateway in turn until there is a clear answer."""
        self._jobs.append(job)
        for tries in range(TRIES if "Idempotency-Key" in job.headers else 1):
            status = await self._post(job, gateway + tries)
            if 0 < status < BROKEN:
                break
            await asyncio.sleep(AGAIN_SECONDS)

    async def _go_on(self, handing: asyncio.Task[None], job: Job, what: str, gateway: int, rest: float) -> None:
        """Do what is to be done with a job that was accepted, at the other gateway."""
        await handing
        if not job.told:
            return
        await asyncio.sleep(rest)
        match what:
            case "again":
                await self._post(job, gateway)
            case "reuse":
                name = f"{job.name}-other"
                other = Job(name=name, body=_fields(name), headers=job.headers, wanted=(422,))
                self._jobs.append(other)
                await self._post(other, gateway)
            case "cancelled":
                await self._cancel(job, gateway)

    async def _post(self, job: Job, gateway: int) -> int:
        body = job.body if isinstance(job.body, bytes) else orjson.dumps(job.body)
        request = await self._ask("POST", "/v1/jobs", job, gateway, data=body, headers=job.headers)
        job.told = job.told or 0 < request.status < ERROR
        job.refused = job.refused or ERROR <= request.status < BROKEN
        return request.status

    async def _cancel(self, job: Job, gateway: int) -> None:
        answered = next(each for each in self.requests if each.job_id == job.name and each.status in job.wanted)
        request = await self._ask("DELETE", f"/v1/jobs/{answered.said.get('id')}", job, gateway)
        state = str(request.said.get("state"))
        told = {200: "cancelled" if state == "cancelled" else "finished", 202: "will_be_cancelled"}
        self._cancellations[job.name] = told.get(request.status, "unknown")

    async def _ask(self, method: str, path: str, job: Job, gateway: int, **options: Any) -> Request:
        """Send a request to one of the gateways, and record what comes of it."""
        slot = self._stage.gateways[gateway % len(self._stage.gateways)]
        name, began = slot.name, time.monotonic()
        status, said, unclear = 0, {}, ""
        try:
            async with self._http.request(method, f"http://127.0.0.1:{slot.port}{path}", **options) as response:
                body = await response.read()
            status, (said, unclear) = response.status, _read(response, body)
        except UNREACHED:
            pass
        request = Request(job.name, name, began, time.monotonic(), status, job.wanted, said, unclear)
        self.requests.append(request)
        return request


def _drawn(rnd: random.Random, what: str, name: str, job_class: str, *, line: str) -> Job:
    """Draw a job. It stays in line if its request is answered at once, and not repeated."""
    keyed, named, waits, later, notify = (rnd.random() < share for share in (KEYED, NAMED, WAITING, LATER, NOTIFY))
    ahead, model, rubbish = rnd.uniform(*AHEAD), rnd.choice(MODELS), rnd.choice(RUBBISH)
    if what == "rubbish":
        return Job(name=name, body=rubbish, wanted=(400,))
    keyed = keyed or what in {"again", "reuse"}
    headers, fields = {}, _fields(name, model=model)
    if job_class != "standard" or named:
        fields["class"] = job_class
    if keyed:
        headers["Idempotency-Key"] = f"key of {name}"
    elif named:
        fields["job_id"] = name
    if waits:
        headers["Prefer"] = f"wait={WAIT}"
    if later:
        fields["not_before"] = time.time() + ahead
    if notify:
        fields["notify"] = True
    due = time.monotonic() + ahead if later else float("-inf")
    in_line = not (keyed or waits or later)
    return Job(name=name, body=fields, headers=headers, line=line if in_line else None, due=due)


def _fields(name: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": name, "user": name, **fields}


def _known(payload: bytes) -> tuple[str, bool]:
    """Return the id of a job, and whether its end is told."""
    fields = orjson.loads(payload)
    return str(fields["job_id"]), bool(fields.get("notify"))


def _read(response: aiohttp.ClientResponse, body: bytes) -> tuple[dict[str, Any], str]:
    """Return the object in an answer, and what is wrong with its form."""
    model, media = (
        (JobObject, "application/json") if response.status < ERROR else (ProblemObject, "application/problem+json")
    )
    try:
        said = model.model_validate_json(body).model_dump(mode="json", by_alias=True)
    except ValidationError as error:
        return {}, f"{body[:200]!r}: {error.errors(include_url=False, include_input=False)[0]}"
    if response.content_type != media:
        return said, f"its type is {response.content_type}, not {media}"
    if response.status >= ERROR and said["status"] != response.status:
        return said, f"its status is {response.status}, not {said['status']}"
    if response.method == "POST" and response.status < ERROR:
        if response.headers.get("Location") != said["links"]["self"]:
            return said, f"its Location is {response.headers.get('Location')}"
        if "Prefer" in response.request_info.headers and said["state"] == "succeeded" and said.get("result") is None:
            return said, "its result is missing"
    return said, ""
