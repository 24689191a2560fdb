"""A gateway on a real queue, and a caller that compares every answer with the gateway's own OpenAPI document."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from jsonschema import Draft202012Validator

from greenscale_worker import Metrics, Queue, QueueOptions, RedisOptions, open_client, open_queue
from greenscale_worker.files import Files
from greenscale_worker.gateway.app import serving
from greenscale_worker.gateway.core import Gateway, GatewayOptions
from greenscale_worker.gateway.openapi import document
from greenscale_worker.gateway.table import ROUTES
from greenscale_worker.queues import QueueClient
from greenscale_worker.webhooks.sender import Sender
from greenscale_worker.webhooks.service import Webhooks

DOCUMENT: Final = document(ROUTES)
NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem."""
        return str(self.json["error"]["code"])


@dataclass
class Api:
    """Calls a gateway at `url`."""

    session: aiohttp.ClientSession
    url: str
    gateway: Gateway
    queue: QueueClient
    worker: Queue
    webhooks: Webhooks

    async def call(
        self, method: str, path: str, *, json: Any = None, data: Any = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        """Call, and compare the answer with the document."""
        if json is not None:
            data, headers = orjson.dumps(json), {"Content-Type": "application/json", **headers}
        async with self.session.request(
            method, self.url + path, data=data, headers=dict(headers), allow_redirects=False
        ) as response:
            answer = Answer(response.status, response.headers.copy(), await response.read())
        conforms(method, path, answer)
        return answer

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> Answer:
        return await self.call("POST", path, json=json, **options)

    async def submit(self, **fields: Any) -> str:
        """Submit a job, and return its id."""
        answer = await self.post("/v1/jobs", {"prompt": "What is 2+2?", **fields})
        assert answer.status == 202, answer
        return str(answer.json["id"])


def conforms(method: str, path: str, answer: Answer) -> None:
    """Fail unless the document says that this path may answer so."""
    operation = _operation(method, path.partition("?")[0])
    media = answer.headers.get("Content-Type", "").partition(";")[0]
    if operation is None or (answer.status >= 400 and media == "application/problem+json"):
        assert media == "application/problem+json", answer
        schema: Any = {"$ref": "#/components/schemas/ProblemObject"}
        assert answer.json["status"] == answer.status
    else:
        told = operation["responses"][str(answer.status)]
        if "content" not in told:
            assert answer.body == b""
            return
        schema = told["content"][media]["schema"]
        if media != "application/json":
            return
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(answer.json)


def _operation(method: str, path: str) -> Any:
    words = path.split("/")
    for known, operations in DOCUMENT["paths"].items():
        pattern = known.split("/")
        fits = len(words) == len(pattern) and all(a in (b, "{id}") for a, b in zip(pattern, words, strict=True))
        if fits and method.lower() in operations:
            return operations[method.lower()]
    return None


def own_options(name: str, part: str) -> QueueOptions:
    """A queue of the gateways' own, such as that of webhooks, beside a list."""
    own = f"{name}:{part}" if "{" in name else f"{{{name}}}:{part}"
    return QueueOptions(name=own, result_prefix=f"{part}:")


@asynccontextmanager
async def a_gateway(
    url: str,
    kind: str = "list",
    options: GatewayOptions | None = None,
    files: Files | None = None,
    *,
    sender: Sender | None = None,
    **queue: Any,
) -> AsyncIterator[Api]:
    """Serve a queue in this process, with a worker's side that the test plays.

    Nobody delivers webhooks or feeds batches.
    """
    redis, chosen = RedisOptions(url=url), QueueOptions(**queue)
    async with AsyncExitStack() as stack:
        client = await open_client(kind, redis, chosen)
        await stack.enter_async_context(aclosing(client))
        worker = await open_queue(kind, redis, chosen, Metrics())
        await stack.enter_async_context(aclosing(worker))
        own = await open_client("list", redis, own_options(chosen.name, "webhooks"))
        await stack.enter_async_context(aclosing(own))
        webhooks = Webhooks(own, sender=sender or Sender(allow_private=True))
        await stack.enter_async_context(aclosing(webhooks))
        batch_jobs = await open_client("list", redis, own_options(chosen.name, "batches"))
        await stack.enter_async_context(aclosing(batch_jobs))
        options = options or GatewayOptions(queue=chosen.name)
        gateway = Gateway(client, options, files, webhooks=webhooks, batch_jobs=batch_jobs)
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        port = await stack.enter_async_context(serving(gateway, "127.0.0.1", 0))
        yield Api(session, f"http://127.0.0.1:{port}", gateway, client, worker, webhooks)
