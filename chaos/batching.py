"""Clients that upload files of requests and have them answered as batches, as OpenAI's client does; some cancel."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import orjson

from chaos.clients import AGAIN_SECONDS, BROKEN, ERROR, PATIENCE, UNREACHED
from chaos.endpoint import POISON
from chaos.facts import Batch, Line, Request
from chaos.producing import poisoned_code
from chaos.receiver import Receiver
from chaos.stage import MODELS, Stage

EVERY: Final = (4.0, 8.0)  # seconds between two batches
LINES: Final = (20, 40, 80, 200)
SHARES: Final = {"plain": 96, "poisoned": 2, "refused": 2}  # percent, of lines
OF_BATCHES: Final = {"plain": 65, "cancelled": 25, "faulty": 10}  # percent
POISONS: Final = ("flagged", "refused")  # of those that end a job soon, so that its batch can end
KEYED: Final = 0.5
FINAL: Final = {"completed", "failed", "cancelled", "expired"}
CANCELLED_AFTER: Final = (0.0, 6.0)  # seconds
READ_AFTER: Final = (1.0, 5.0)
POLL_SECONDS: Final = 1.0
CHAT: Final = "/v1/chat/completions"
PAGE: Final = 100


class RefusedError(Exception):
    """A gateway refused a request. The account says so."""


class Batching:
    """Make batches until stopped, and go on until each has ended. `batches` are those that were accepted."""

    def __init__(self, stage: Stage, seed: int, receiver: Receiver) -> None:
        self.batches: list[Batch] = []
        self.requests: list[Request] = []
        self._stage = stage
        self._receiver = receiver
        self._random = random.Random(f"{seed} batches")  # noqa: S311  a seeded generator makes a run repeatable
        self._stopping = asyncio.Event()
        self._numbers = itertools.count(1)

    def stop(self) -> None:
        """Make no more batches."""
        self._stopping.set()

    async def run(self) -> None:
        """Make batches until `stop`; return when all have ended."""
        async with self._connected(), asyncio.TaskGroup() as group:
            while not self._stopping.is_set():
                group.create_task(self._live(next(self._numbers)))
                try:
                    async with asyncio.timeout(self._random.uniform(*EVERY)):
                        await self._stopping.wait()
                except TimeoutError:
                    continue

    async def register(self) -> None:
        """Let the receiver be told of batches and jobs."""
        async with self._connected():
            made = await self._insist("POST", "/v1/webhook_endpoints", json=self._receiver.endpoint)
        self._receiver.secret = orjson.loads(made)["signing_secret"]

    async def look_back(self) -> list[str]:
        """Ask for each batch once more, and return the ids of all batches that there are."""
        found, after = list[str](), ""
        async with self._connected():
            for batch in self.batches:
                batch.again = orjson.loads(await self._insist("GET", f"/v1/batches/{batch.id}"))
            while True:
                page = orjson.loads(await self._insist("GET", f"/v1/batches?limit={PAGE}{after}"))
                found += [each["id"] for each in page["data"]]
                if not page["has_more"]:
                    return found
                after = f"&after={page['last_id']}"

    def _connected(self) -> aiohttp.ClientSession:
        """Open a session. Each request has its own connection: one that breaks concerns no other."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE))
        return self._http

    async def _live(self, number: int) -> None:
        """Make a batch, go with it to its end, and read what came of it."""
        try:
            await self._go(number)
        except* RefusedError:
            pass

    async def _go(self, number: int) -> None:
        rnd = random.Random(f"{self._random.random()} {number}")  # noqa: S311  as above
        (what,) = rnd.choices([*OF_BATCHES], [*OF_BATCHES.values()])
        lines, content = _drawn(rnd, f"b{number}", is_faulty=what == "faulty")
        batch = await self._make(lines, content, key=f"b{number}" if rnd.random() < KEYED else None)
        batch.refused = "duplicate_custom_id" if what == "faulty" else ""
        self.batches.append(batch)
        async with asyncio.TaskGroup() as group:
            if what == "cancelled":
                group.create_task(self._cancel(batch, rnd.uniform(*CANCELLED_AFTER)))
            group.create_task(self._read_early(batch, rnd.uniform(*READ_AFTER)))
            group.create_task(self._await_end(batch))
        for name in ("output", "errors"):
            file_id = batch.told.get(f"{name.removesuffix('s')}_file_id")
            if file_id is not None:
                setattr(batch, name, await self._insist("GET", f"/v1/files/{file_id}/content"))

    async def _make(self, lines: Sequence[Line], content: bytes, key: str | None) -> Batch:
        def form() -> aiohttp.FormData:
            data = aiohttp.FormData({"purpose": "batch"})
            data.add_field("file", content, filename="lines.jsonl")
            return data

        file = orjson.loads(await self._insist("POST", "/v1/files", form=form))
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        headers = {} if key is None else {"Idempotency-Key": key}
        made = orjson.loads(await self._insist("POST", "/v1/batches", json=asked, headers=headers))
        return Batch(id=made["id"], lines=lines)

    async def _cancel(self, batch: Batch, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._insist("POST", f"/v1/batches/{batch.id}/cancel")
        batch.cancelled = True

    async def _read_early(self, batch: Batch, seconds: float) -> None:
        await asyncio.sleep(seconds)
        batch.partial = await self._insist("GET", f"/v1/batches/{batch.id}/output")

    async def _await_end(self, batch: Batch) -> None:
        while batch.told.get("status") not in FINAL:
            await asyncio.sleep(POLL_SECONDS)
            batch.told = orjson.loads(await self._insist("GET", f"/v1/batches/{batch.id}"))

    async def _insist(self, method: str, path: str, *, form: Any = None, headers: Any = None, **options: Any) -> bytes:
        """Ask each gateway in turn until one answers clearly, as the client says that it repeats itself.

        Raises RefusedError.
        """
        first = self._random.randrange(len(self._stage.gateways))
        for tries in itertools.count():
            retries = {"x-stainless-retry-count": str(tries)} | (headers or {})
            data = options if form is None else {"data": form()}
            status, body = await self._ask(method, path, first + tries, headers=retries, **data)
            if 0 < status < ERROR:
                return body
            if ERROR <= status < BROKEN:
                raise RefusedError(body)
            await asyncio.sleep(AGAIN_SECONDS)
        raise AssertionError

    async def _ask(self, method: str, path: str, gateway: int, **options: Any) -> tuple[int, bytes]:
        """Send a request to one of the gateways, and record what comes of it."""
        slot = self._stage.gateways[gateway % len(self._stage.gateways)]
        name, began = slot.name, time.monotonic()
        status, body, said, unclear = 0, b"", {}, ""
        try:
            async with self._http.request(method, f"http://127.0.0.1:{slot.port}{path}", **options) as response:
                body = await response.read()
            status = response.status
            if response.content_type != "application/octet-stream":
                said = orjson.loads(body)
        except orjson.JSONDecodeError:
            unclear = repr(body[:200])
        except UNREACHED:
            pass
        asked = f"{method} {path}"
        self.requests.append(Request(asked, name, began, time.monotonic(), status, (200,), said, unclear))
        return status, body


def _drawn(rnd: random.Random, name: str, *, is_faulty: bool) -> tuple[list[Line], bytes]:
    """Draw the lines of a file, and write them. A file that is faulty has a name twice."""
    count = round(rnd.choice(LINES) * rnd.uniform(0.7, 1.0))
    lines, written = list[Line](), list[bytes]()
    for number in range(1, count + 1):
        line_name, (what,) = f"{name}-{number}", rnd.choices([*SHARES], [*SHARES.values()])
        prompt, line = line_name, Line(line_name)
        if what == "poisoned":
            poison = rnd.choice(POISONS)
            prompt, line = f"{POISON}{poison} {line_name}", Line(line_name, poisoned_code(poison), poisoned=True)
        body: dict[str, Any] = {"model": rnd.choice(MODELS), "user": line_name}
        if what == "refused":
            line = Line(line_name, "bad_request")
        else:
            body["messages"] = [{"role": "user", "content": prompt}]
        lines.append(line)
        written.append(orjson.dumps({"custom_id": line_name, "method": "POST", "url": CHAT, "body": body}))
    if is_faulty:
        written.append(written[0])
    return lines, b"\n".join(written)
