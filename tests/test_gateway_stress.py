"""The gateway under stress: a client gets the answer or a clear error, nothing is lost, and nothing runs twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from greenscale_worker import Worker
from greenscale_worker.backends import ChatOptions, open_backend
from greenscale_worker.errors import QueueUnavailableError
from greenscale_worker.gateway import attending, waiting
from greenscale_worker.gateway.keys import new_key
from greenscale_worker.simulator import CHAT_PATH, SimulatorOptions, running
from harness.eventually import PATIENCE, eventually
from harness.tcp_proxy import TcpProxy, Trap
from tests.support.api import Api, a_gateway
from tests.support.front import client_of

LONGER: Final[Any] = [{"role": "user", "content": "Tell me something"}]
PATHS: Final = ("chat", "completions", "embeddings")


@dataclass
class Place:
    """A gateway and its worker in this process, an endpoint, and a proxy before the gateway and before its Redis."""

    api: Api
    proxy: TcpProxy
    redis: TcpProxy
    client: AsyncOpenAI
    endpoint: str

    async def calls(self) -> dict[str, int]:
        """How often the endpoint was asked, by the `user` of a request."""
        async with self.api.session.get(f"{self.endpoint}/stats") as response:
            jobs: dict[str, int] = (await response.json())["jobs"]
            return jobs

    async def ask(self, name: str = "me", **options: Any) -> str:
        """Ask for a chat, whole or as a stream. Return its text."""
        answer = await self.client.chat.completions.create(model="m", messages=LONGER, user=name, **options)
        if not options.get("stream"):
            return str(answer.choices[0].message.content)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])


@pytest.fixture
def endpoint() -> SimulatorOptions:
    return SimulatorOptions(ttft=0.4, per_token=0.02)


@pytest.fixture
async def place(redis_url: str, endpoint: SimulatorOptions, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(waiting, "HELD_SECONDS", 0.2)
    monkeypatch.setattr(waiting, "BLANK_SECONDS", 0.05)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(endpoint))
        backend = open_backend("chat", ChatOptions(url=url + CHAT_PATH, model="m"))
        stack.push_async_callback(backend.aclose)
        host, _, database = redis_url.rpartition(":")[2].partition("/")
        redis = await stack.enter_async_context(TcpProxy(int(host)))
        api = await stack.enter_async_context(a_gateway(f"redis://127.0.0.1:{redis.port}/{database}"))
        await stack.enter_async_context(Worker(api.worker, backend, drain=0))
        proxy = await stack.enter_async_context(TcpProxy(int(api.url.rpartition(":")[2])))
        client = await stack.enter_async_context(client_of(proxy.port))
        yield Place(api, proxy, redis, client, url)


AT: Final = {
    "before the request is whole": Trap(b"POST ", half=True),
    "before the answer": Trap(b"POST "),
    "within the headers": Trap(b"POST ", keep=40),
    "amid blank lines": Trap(b"POST ", keep=400),
}


@pytest.mark.parametrize(
    ("path", "at"),
    [*(("chat", at) for at in AT), ("completions", "amid blank lines"), ("embeddings", "amid blank lines")],
)
async def test_a_connection_that_is_cut_runs_nothing_twice(place: Place, path: str, at: str) -> None:
    trap = Trap(b"POST ", keep=AT[at].keep, half=AT[at].half)
    place.proxy.set(trap)
    match path:
        case "chat":
            assert (await place.ask()).startswith("This is a simulated answer")
        case "completions":
            whole = await place.client.completions.create(model="m", prompt="x", user="me")
            assert whole.choices[0].text.startswith("This is a simulated answer")
        case "embeddings":
            assert (await place.client.embeddings.create(model="m", input="x", user="me")).data[0].embedding
    assert trap.sprung.is_set()
    assert await place.calls() == {"me": 1}


async def test_a_stream_that_is_cut_off_is_an_error_and_its_job_is_cancelled(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 0.1)
    stream = await place.client.chat.completions.create(model="m", messages=LONGER, user="me", stream=True)
    with pytest.raises(openai.APIConnectionError):  # noqa: PT012  it is raised amid the stream
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                place.proxy.cut()
    await becomes(place.api, stream.response.headers["x-request-id"], "cancelled")
    assert await place.calls() == {"me": 1}


async def becomes(api: Api, job_id: str, state: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await api.get(f"/v1/jobs/{job_id}")).json["state"] != state:  # noqa: ASYNC110  over HTTP
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_retry_that_comes_after_its_job_was_cancelled_runs_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    monkeypatch.setattr(attending, "PATIENCE_SECONDS", 0.05)
    call = asyncio.create_task(place.ask(stream=stream))
    await eventually(lambda: place.proxy.connected)
    async with asyncio.timeout(PATIENCE):
        while not await place.calls():  # noqa: ASYNC110  over HTTP
            await asyncio.sleep(0.01)
    place.proxy.cut()  # the client tries again after half a second
    assert (await call).startswith("This is a simulated answer")
    assert await place.calls() == {"me": 2}
    states = sorted(job["state"] for job in (await place.api.get("/v1/jobs")).json["data"])
    assert states == ["cancelled", "succeeded"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_that_may_have_been_accepted_is_not_submitted_twice(place: Place, *, stream: bool) -> None:
    """The connection to Redis breaks after the job was put, before that is known."""
    trap = Trap(b"Tell me something")
    place.redis.set(trap)
    assert (await place.ask(stream=stream)).startswith("This is a simulated answer")
    assert trap.sprung.is_set()
    assert await place.calls() == {"me": 1}


@pytest.mark.parametrize(("held", "stream"), [(0.0, False), (30.0, False), (0.0, True)])
async def test_an_answer_that_cannot_be_read_is_a_clear_error_and_the_retry_reads_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, *, held: float, stream: bool
) -> None:
    monkeypatch.setattr(waiting, "HELD_SECONDS", held)
    read, away = place.api.gateway.queue.body, [True]

    async def body(job_id: str) -> bytes | None:
        if away.pop() if away else False:
            raise QueueUnavailableError("it is away")
        return await read(job_id)

    monkeypatch.setattr(place.api.gateway.queue, "body", body)
    if not stream:
        assert (await place.ask(stream=stream)).startswith("This is a simulated answer")
    else:
        with pytest.raises(openai.APIError, match="the queue does not answer") as raised:
            await place.ask(stream=True)
        assert raised.value.code == "queue_unavailable"
    assert await place.calls() == {"me": 1}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/jobs/x/events"])
async def test_a_fault_after_the_headers_breaks_the_answer_off(
    place: Place, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    await place.api.submit(job_id="x")
    monkeypatch.setattr(place.api.gateway.queue, "body", broken)
    monkeypatch.setattr(place.api.gateway.queue, "read_tokens", broken)
    body = {"model": "m", "messages": LONGER, "stream": True}
    method, json = ("GET", None) if path.endswith("events") else ("POST", body)
    async with place.api.session.request(method, place.api.url + path, json=json) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_equal_requests_of_two_tenants_are_two_jobs_whatever_they_say_of_themselves(place: Place) -> None:
    api, headers = place.api, dict[str, dict[str, str]]()
    for tenant in ("a", "b"):
        key_id, token, key = new_key(scopes=("submit", "read", "cancel"), tenant=tenant)
        await api.queue.set_key(key_id, key.model_dump_json().encode())
        headers[tenant] = {"Authorization": f"Bearer {token}"}
    await api.gateway.keyring.refresh()
    body = {"model": "m", "messages": LONGER}
    for extra in ({}, {"x-stainless-retry-count": "1"}, {"Idempotency-Key": "same"}):
        ids = {}
        for tenant in ("a", "b"):  # a's has been answered, and its connection is gone: a retry of a's would join it
            answer = await api.post(CHAT_PATH, body, headers={**headers[tenant], **extra, "Connection": "close"})
            assert answer.status == 200
            ids[tenant] = answer.headers["x-request-id"]
        for tenant, other in (("a", "b"), ("b", "a")):
            for name in (ids[other], f"{other}:{ids[other]}", f"{tenant}:{other}:{ids[other]}"):
                for path in ("", "/result", "/events"):
                    seen = await api.get(f"/v1/jobs/{name}{path}", headers=headers[tenant])
                    assert seen.status == 404 or (name == ids[tenant] and path != "/events"), (extra, name, path)
    for tenant in ("a", "b"):
        listed = (await api.get("/v1/jobs?limit=100", headers=headers[tenant])).json["data"]
        assert {job["tenant"] for job in listed} == {tenant}
        assert len(listed) == 2, "of a tenant, the retry has joined the first"
    assert len({job["id"] for job in listed}) == 2
