"""Batches over HTTP: real gateways and workers as processes, driven by the `openai` client as it is."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types import Batch

from greenscale_worker.files.by_obstore import in_directory
from greenscale_worker.gateway.keys import new_key
from greenscale_worker.queues import JobFilter, QueueOptions, RedisOptions
from greenscale_worker.queues.registry import open_client
from greenscale_worker.worker import LANES
from harness.eventually import PATIENCE
from harness.redis_server import RedisServer, free_port
from harness.s3_server import BUCKET, S3Server
from harness.tcp_proxy import TcpProxy, Trap
from tests.support.api import Api, a_gateway
from tests.support.front import Front, a_front, client_of

ENDED = {"completed", "failed", "expired", "cancelled"}


def lines_of(names: list[str], **body: Any) -> bytes:
    """An input file; the simulated endpoint answers by `user`."""
    lines = []
    for name in names:
        asked = {"model": "m", "user": name, "messages": [{"role": "user", "content": "What is 2+2?"}], **body}
        line = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": asked}
        lines.append(orjson.dumps(line) + b"\n")
    return b"".join(lines)


async def started(client: AsyncOpenAI, data: bytes, **options: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", data), purpose="batch")
    given: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **options}
    return await client.batches.create(input_file_id=file.id, **given)


async def ended(client: AsyncOpenAI, batch_id: str, seconds: float = PATIENCE) -> Batch:
    """Wait for the end of a batch; errors of gateways that are away are no end."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                batch = await client.batches.retrieve(batch_id)
            except openai.APIError:
                batch = None
            if batch is not None and batch.status in ENDED:
                return batch
            await asyncio.sleep(0.1)


async def content(client: AsyncOpenAI, file_id: str | None) -> list[Any]:
    if file_id is None:
        return []
    return [orjson.loads(line) for line in (await client.files.content(file_id)).content.splitlines()]


async def names_in(client: AsyncOpenAI, batch: Batch) -> tuple[Counter[str], Counter[str]]:
    """How often each custom_id is in the output, and in the errors."""
    good, bad = await content(client, batch.output_file_id), await content(client, batch.error_file_id)
    return Counter(line["custom_id"] for line in good), Counter(line["custom_id"] for line in bad)


@asynccontextmanager
async def fronts(
    tmp_path: Path, redis_url: str, *, gateways: int = 1, workers: int = 1, **endpoint: Any
) -> AsyncIterator[Front]:
    async with a_front(tmp_path, redis_url, **endpoint) as front:
        for _ in range(gateways):
            await front.gateway(**_settings(tmp_path))
        for _ in range(workers):
            front.worker(GREENSCALE_LEASE_SECONDS=2)
        yield front


def _settings(tmp_path: Path) -> dict[str, Any]:
    return {"GREENSCALE_FILES": tmp_path / "files", "GREENSCALE_LEASE_SECONDS": 2}


async def test_a_batch_by_the_client_as_it_is(tmp_path: Path, redis_url: str) -> None:
    names = [f"n{number}" for number in range(600)]
    async with fronts(tmp_path, redis_url) as front, client_of(front.doors[0].port) as client:
        batch = await started(client, lines_of(names), metadata={"team": "a"})
        Batch.model_validate(batch.model_dump())
        assert (batch.status in {"validating", "in_progress"}, batch.metadata) == (True, {"team": "a"})
        batch = await ended(client, batch.id)
        assert batch.status == "completed"
        assert (await names_in(client, batch)) == (Counter(names), Counter())
        assert batch.request_counts is not None
        assert batch.request_counts.model_dump() == {"total": 600, "completed": 600, "failed": 0}
        lines = await content(client, batch.output_file_id)
        assert {line["response"]["status_code"] for line in lines} == {200}
        assert batch.usage is not None
        assert batch.usage.total_tokens == sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines)
        assert batch.model == "m"
        assert batch.output_file_id is not None
        assert (await client.files.retrieve(batch.output_file_id)).purpose == "batch_output"
        assert await front.calls(names) == {1}
        await front.doors[0].process.stop()


async def test_batches_are_listed_page_by_page_and_those_of_others_are_not_there(
    tmp_path: Path, redis_url: str
) -> None:
    async with a_gateway(redis_url, files=in_directory(str(tmp_path))) as api, client_of(_port(api)) as client:
        made = [(await started(client, lines_of([f"n{number}"]))).id for number in range(5)]
        listed = [batch.id async for batch in client.batches.list(limit=2)]
        assert sorted(listed) == sorted(made)
        page = await client.batches.list(limit=2)
        assert page.has_more
        for wrong in ("batch_none", "batch_" + "0" * 24):
            with pytest.raises(openai.NotFoundError):
                await client.batches.retrieve(wrong)


async def test_a_batch_of_another_tenant_is_not_there(tmp_path: Path, redis_url: str) -> None:
    async with a_gateway(redis_url, files=in_directory(str(tmp_path))) as api:
        tokens = {}
        for tenant in ("a", "b"):
            key_id, tokens[tenant], key = new_key(scopes=("batch",), tenant=tenant)
            await api.queue.set_key(key_id, key.model_dump_json().encode())
        await api.gateway.keyring.refresh()
        async with (
            AsyncOpenAI(base_url=f"{api.url}/v1", api_key=tokens["a"]) as ours,
            AsyncOpenAI(base_url=f"{api.url}/v1", api_key=tokens["b"]) as theirs,
        ):
            batch = await started(ours, lines_of(["a"]))
            assert [each.id async for each in ours.batches.list()] == [batch.id]
            assert [each.id async for each in theirs.batches.list()] == []
            for call in (theirs.batches.retrieve, theirs.batches.cancel):
                with pytest.raises(openai.NotFoundError):
                    await call(batch.id)
            for path in ("output", "errors", "resubmit"):
                headers = {"Authorization": f"Bearer {tokens['b']}"}
                method = "POST" if path == "resubmit" else "GET"
                assert (await api.call(method, f"/v1/batches/{batch.id}/{path}", headers=headers)).status == 404
            with pytest.raises(openai.BadRequestError):
                await theirs.batches.create(
                    input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
                )


async def test_what_is_no_batch_is_refused_with_the_field(tmp_path: Path, redis_url: str) -> None:
    async with a_gateway(redis_url, files=in_directory(str(tmp_path))) as api, client_of(_port(api)) as client:
        file = await client.files.create(file=("in.jsonl", lines_of(["a"])), purpose="batch")
        good: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        for wrong, param in (
            ({"input_file_id": "file-none"}, "input_file_id"),
            ({"endpoint": "/v1/responses"}, "endpoint"),
            ({"completion_window": "14m"}, "completion_window"),
            ({"completion_window": "8d"}, "completion_window"),
            ({"metadata": {"a" * 65: "b"}}, "metadata"),
            ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after"),
            ({"extra_body": {"class": "interactive"}}, "class"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await client.batches.create(**{**good, **wrong})
            assert str(caught.value.param).startswith(param)
        batch = await client.batches.create(**{**good, "completion_window": "15m"})
        assert batch.expires_at == batch.created_at + 900


async def test_a_retried_create_makes_one_batch(tmp_path: Path, redis_url: str) -> None:
    async with (
        a_gateway(redis_url, files=in_directory(str(tmp_path))) as api,
        TcpProxy(_port(api)) as proxy,
        client_of(proxy.port, max_retries=2) as client,
    ):
        file = await client.files.create(file=("in.jsonl", lines_of(["a"])), purpose="batch")
        given: Any = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        proxy.set(trap := Trap(b"POST /v1/batches"))
        await client.batches.create(**given)
        assert trap.sprung.is_set()
        assert len((await client.batches.list()).data) == 1
        await client.batches.create(**given)  # it is asked for again, and no retry
        assert len((await client.batches.list()).data) == 2
        key = {"Idempotency-Key": "k"}
        ids = {(await client.batches.create(**given, extra_headers=key)).id for _ in range(3)}
        assert len(ids) == 1
        with pytest.raises(openai.UnprocessableEntityError):
            await client.batches.create(**{**given, "completion_window": "1h"}, extra_headers=key)


async def test_lines_that_fail_are_resubmitted(tmp_path: Path, redis_url: str) -> None:
    names = ["a", "b", "c"]
    async with fronts(tmp_path, redis_url) as front, client_of(front.doors[0].port) as client:
        data = lines_of(names) + lines_of(["bad"], stream=True)
        batch = await ended(client, (await started(client, data)).id)
        assert (await names_in(client, batch)) == (Counter(names), Counter(["bad"]))
        assert batch.request_counts is not None
        assert batch.request_counts.failed == 1
        (error,) = await content(client, batch.error_file_id)
        assert (error["response"], error["error"]["code"]) == (None, "bad_request")
        async with front.session.post(f"{front.doors[0].url}/v1/batches/{batch.id}/resubmit") as response:
            again = await response.json()
        assert response.status == 200
        second = await ended(client, again["id"])
        assert (await names_in(client, second)) == (Counter(), Counter(["bad"]))
        async with front.session.get(f"{front.doors[0].url}/v1/dead") as response:
            assert (await response.json())["data"] == []


async def test_a_cancelled_batch_ends_with_what_it_has(tmp_path: Path, redis_url: str) -> None:
    names = [f"n{number}" for number in range(200)]
    async with fronts(tmp_path, redis_url, ttft=0.3) as front, client_of(front.doors[0].port) as client:
        batch = await started(client, lines_of(names))
        await front.until_running(1)
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        batch = await ended(client, batch.id)
        assert batch.status == "cancelled"
        good, bad = await names_in(client, batch)
        assert good + bad == Counter(names)
        assert (await client.batches.cancel(batch.id)).status == "cancelled"


@pytest.mark.parametrize(
    ("number", "call_seconds", "away_seconds"),
    [(600, 0.5, 3.0), pytest.param(50_000, 0.2, 60.0, marks=pytest.mark.long)],
)
async def test_a_batch_survives_all_that_runs_it(
    tmp_path: Path, number: int, call_seconds: float, away_seconds: float
) -> None:
    """Each part is killed, or away, once: each line is once in the output, and paid twice only if its call was cut."""
    names = [f"n{each}" for each in range(number)]
    patience = 4 * PATIENCE + away_seconds + number * call_seconds / 4
    (tmp_path / "s3").mkdir()
    redis = RedisServer(tmp_path / "redis", "appendonly yes", "appendfsync always")
    redis.start()
    with closing(redis), S3Server(tmp_path / "s3") as s3:
        async with TcpProxy(s3.port) as proxy, a_front(tmp_path, f"{redis.url}/0", ttft=call_seconds) as front:
            settings = {"GREENSCALE_FILES": f"s3://{BUCKET}/x", "GREENSCALE_LEASE_SECONDS": 2}
            settings |= s3.environment(proxy.port)
            for _ in range(2):
                await front.gateway(**settings)
            workers = [front.worker(GREENSCALE_LEASE_SECONDS=10) for _ in range(2)]

            async def a_gateway_ends(*, feeds: bool) -> None:
                pid = await _feeding(redis.url)
                (door,) = (each for each in front.doors if (each.process.pid == pid) == feeds)
                front.doors.remove(door)
                door.process.kill()
                await front.gateway(**settings)

            async def redis_restarts() -> None:
                redis.kill()
                redis.start()

            async def a_worker_ends() -> None:
                workers.pop(0).kill()
                workers.append(front.worker(GREENSCALE_LEASE_SECONDS=10))

            async def s3_is_away() -> None:
                proxy.target = free_port()
                proxy.cut()
                await asyncio.sleep(away_seconds)
                proxy.target = s3.port

            async with client_of(front.doors[0].port) as client:
                batch = await started(client, lines_of(names))
            blows: list[Callable[[], Awaitable[None]]] = [
                lambda: a_gateway_ends(feeds=True),
                redis_restarts,
                a_worker_ends,
                lambda: a_gateway_ends(feeds=False),
                s3_is_away,  # last: once it is back, the batch may end at once, and nobody feeds it any more
            ]
            for turn, blow in enumerate(blows, start=1):
                await _until(front, batch.id, turn * number // (len(blows) + 2), patience)
                await blow()
            async with client_of(front.doors[0].port) as client:
                batch = await ended(client, batch.id, patience)
                assert (await names_in(client, batch)) == (Counter(names), Counter())
            assert batch.request_counts is not None
            assert batch.request_counts.model_dump() == {"total": number, "completed": number, "failed": 0}
            asked = (await front.stats())["jobs"]
            # One worker's lanes were cut off with it, those of both when Redis was killed; nothing else costs a call.
            assert sum(asked[name] - 1 for name in names) <= 3 * LANES


async def _feeding(redis_url: str) -> int:
    """Wait until a gateway runs the batch, and return its process."""
    options = QueueOptions(name="{jobs}:batches", result_prefix="batches:")
    async with aclosing(await open_client("list", RedisOptions(url=redis_url), options)) as queue:
        async with asyncio.timeout(PATIENCE):
            while True:
                async for job in queue.jobs(JobFilter(state="running")):
                    if job.worker is not None:
                        return int(job.worker.split(":")[1])
                await asyncio.sleep(0.02)


async def _progress(front: Front, batch_id: str) -> int:
    """How many lines are done; -1 while nobody can say."""
    async with front.session.get(f"{front.doors[0].url}/v1/batches/{batch_id}") as response:
        return int((await response.json())["request_counts"]["completed"]) if response.status == 200 else -1


async def _until(front: Front, batch_id: str, number: int, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while await _progress(front, batch_id) < number:  # noqa: ASYNC110  it is asked over HTTP
            await asyncio.sleep(0.05)


def _port(api: Api) -> int:
    return int(api.url.rpartition(":")[2])
