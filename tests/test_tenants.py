"""Tenants at the gateway and on the command line: shares, limits, and who is told to come again."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import openai
import orjson
import pytest
from openai import AsyncOpenAI

from greenscale_worker import Worker
from greenscale_worker.files.store import open_files
from greenscale_worker.gateway.keys import Limits, new_key
from greenscale_worker.gateway.route import SCOPES
from greenscale_worker.job import Job, Output, Usage
from greenscale_worker.queues import TenantLimits
from tests.support.api import Answer, Api, a_gateway
from tests.support.shell import Shell

HELLO: Final[Any] = [{"role": "user", "content": "What is 2+2?"}]
MINUTELY: Final = TenantLimits(requests_per_minute=1)


class Answers:
    """Answers everything at once, for 30 tokens."""

    async def infer(self, _job: Job) -> Output:
        return Output("4", model="m", finish_reason="stop", usage=Usage(20, 10, 30))

    async def ready(self) -> bool:
        return True

    async def aclose(self) -> None: ...


@dataclass
class Tenant:
    """A client with a key of a tenant, and the key."""

    openai: AsyncOpenAI
    headers: dict[str, str]

    async def chat(self, **fields: Any) -> Any:
        return await self.openai.chat.completions.create(model="m", messages=HELLO, **fields)


@pytest.fixture
async def api(redis_url: str) -> AsyncIterator[Api]:
    async with a_gateway(redis_url, files=open_files("memory:")) as api:
        yield api


@asynccontextmanager
async def tenant(api: Api, name: str | None, *scopes: Any, rpm: int | None = None) -> AsyncIterator[Tenant]:
    key_id, token, key = new_key(scopes=scopes or SCOPES, tenant=name, limits=Limits(requests_per_minute=rpm))
    await api.queue.set_key(key_id, key.model_dump_json().encode())
    await api.gateway.keyring.refresh()
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key=token, max_retries=0) as client:
        yield Tenant(client, {"Authorization": f"Bearer {token}"})


@asynccontextmanager
async def two(api: Api, limits: TenantLimits) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """Let a worker run; the tenant `a` has limits, and `b` has none."""
    await api.queue.set_tenant("a", limits)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(Worker(api.worker, Answers(), drain=0))
        yield await stack.enter_async_context(tenant(api, "a")), await stack.enter_async_context(tenant(api, "b"))


async def refused(asked: Any) -> openai.RateLimitError:
    with pytest.raises(openai.RateLimitError) as error:
        await asked
    assert int(error.value.response.headers["retry-after"]) > 1
    return error.value


async def test_who_waits_for_an_answer_is_told_when_to_come_again(api: Api) -> None:
    async with two(api, MINUTELY) as (a, b):
        answers = [await a.chat() for _ in range(2)]
        assert [answer.choices[0].message.content for answer in answers] == ["4", "4"], "one, and one on credit"
        error = await refused(a.chat())
        assert error.response.headers["x-ratelimit-limit-requests"] == "1"
        assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
        assert error.response.headers["x-ratelimit-reset-requests"].endswith("s")
        assert error.param == "requests_per_minute"
        await refused(a.chat(stream=True))
        await refused(a.openai.completions.create(model="m", prompt="x"))
        await refused(a.openai.embeddings.create(model="m", input="x"))
        await refused(a.openai.responses.create(model="m", input="x"))
        assert (await b.chat()).choices[0].message.content == "4", "others are not told"


async def test_a_tenants_limit_that_refuses_is_told_beside_the_keys_and_in_plain_seconds(api: Api) -> None:
    async with two(api, TenantLimits(requests_per_minute=60, tokens_per_minute=1)), tenant(api, "a", rpm=1000) as a:
        await a.chat(user="u" * 4000)
        error = await refused(a.chat())
        told = error.response.headers
        assert (error.param, told["x-ratelimit-limit-tokens"]) == ("tokens_per_minute", "1")
        assert told["x-ratelimit-limit-requests"] == "60", "of the same limits"
        assert re.fullmatch(r"[0-9.]+s", told["x-ratelimit-reset-tokens"]), told["x-ratelimit-reset-tokens"]


async def test_what_is_left_is_told_with_each_answer(api: Api) -> None:
    async with two(api, TenantLimits(requests_per_minute=600, tokens_per_minute=60_000)) as (a, b):
        raw = await a.openai.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        assert raw.headers["x-ratelimit-limit-requests"] == "600"
        assert raw.headers["x-ratelimit-limit-tokens"] == "60000"
        assert 90 <= int(raw.headers["x-ratelimit-remaining-requests"]) <= 100
        assert 9000 <= int(raw.headers["x-ratelimit-remaining-tokens"]) <= 10_000
        other = await b.openai.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        assert not [name for name in other.headers if name.startswith("x-ratelimit")]


async def test_tokens_are_those_that_answers_took(api: Api) -> None:
    async with two(api, TenantLimits(tokens_per_minute=30)) as (a, _):
        await a.chat()
        error = await refused(a.chat())
        assert error.param == "tokens_per_minute"
        assert error.response.headers["x-ratelimit-remaining-tokens"] == "0"


async def test_what_is_handed_in_for_later_waits_in_its_turn(api: Api) -> None:
    async with two(api, MINUTELY) as (a, _):
        for _ in range(2):
            await a.chat()
        response = await a.openai.responses.create(model="m", input="x", background=True)
        assert response.status in {"queued", "in_progress"}
        job = await api.post("/v1/jobs", {"prompt": "x"}, headers=a.headers)
        assert job.status == 202
        (standing,) = await api.queue.tenants()
        assert (standing.waiting, standing.held) == (2, "requests")


async def test_a_job_that_is_there_already_is_answered_whatever_is_left(api: Api) -> None:
    async with two(api, MINUTELY) as (a, _):
        again: Any = {"extra_headers": {"Idempotency-Key": "one"}}
        first = await a.chat(**again)
        await a.chat()
        assert (await a.chat(**again)).id == first.id
        await refused(a.chat(extra_headers={"Idempotency-Key": "two"}))


async def test_a_key_of_no_tenant_sets_and_lists_them(api: Api) -> None:
    async with tenant(api, None) as admin, tenant(api, "a") as a, tenant(api, None, "read", "submit") as reader:

        async def ask(who: Tenant, method: str, path: str = "/v1/tenants", json: Any = None) -> Answer:
            return await api.call(method, path, json=json, headers=who.headers)

        assert (await ask(admin, "GET")).json["data"] == []
        limits = {"weight": 3, "in_flight": 8, "requests_per_minute": 60, "tokens_per_minute": None}
        set_ = await ask(admin, "PUT", "/v1/tenants/a", limits)
        assert (set_.status, set_.json["limits"]) == (200, limits)
        assert (await api.post("/v1/jobs", {"prompt": "x"}, headers=a.headers)).status == 202
        (told,) = (await ask(admin, "GET")).json["data"]
        assert (told["id"], told["waiting"], told["in_flight"], told["held_back"]) == ("a", 1, 0, None)
        for who in (a, reader):
            assert (await ask(who, "GET")).status == 403
            assert (await ask(who, "PUT", "/v1/tenants/a", {})).status == 403
            assert (await ask(who, "DELETE", "/v1/tenants/a")).status == 403
        for name, json in (("A", {}), ("a%7Cb", {}), ("a", {"weight": 0}), ("a", {"wait": 1}), ("a", {"weight": 1001})):
            assert (await ask(admin, "PUT", f"/v1/tenants/{name}", json)).status == 400, (name, json)
        assert (await ask(admin, "DELETE", "/v1/tenants/a")).json["deleted"] is True
        assert (await ask(admin, "DELETE", "/v1/tenants/a")).status == 404
        assert (await ask(admin, "GET")).json["data"][0]["limits"] is None, "its job waits on"


async def test_a_batchs_lines_wait_in_the_line_of_its_tenant(api: Api) -> None:
    await api.queue.set_tenant("a", TenantLimits(weight=2))
    await api.queue.put([("a:batch_1-1", b'{"job_id":"a:batch_1-1","prompt":"x"}')], tenant="a", job_class="background")
    (standing,) = await api.queue.tenants()
    assert standing.waiting == 1
    assert (await api.get("/v1/stats")).json["depth"]["background"] == 1


def test_tenants_are_set_listed_and_deleted(shell: Shell) -> None:
    code, out, err = shell("tenants", "list")
    assert (code, out) == (0, "")
    assert "no tenant" in err
    options = ("--weight", "3", "--in-flight", "8", "--requests-per-minute", "60", "--tokens-per-minute", "60000")
    said = "The tenant a has weight 3, in_flight 8, requests_per_minute 60, tokens_per_minute 60000.\n"
    assert shell("tenants", "set", "a", *options) == (0, said, "")
    assert shell("tenants", "set", "b")[1] == "The tenant b has weight 1.\n"
    code, out, _ = shell("tenants", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["TENANT", "a", "b"]
    assert "weight 3, in_flight 8" in out
    listed = [orjson.loads(line) for line in shell("tenants", "list", "--json")[1].splitlines()]
    assert [(each["name"], each["limits"]["weight"], each["waiting"]) for each in listed] == [("a", 3, 0), ("b", 1, 0)]
    assert shell("tenants", "delete", "a") == (0, "The tenant a has no entry any more.\n", "")
    assert shell("tenants", "delete", "a")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["set", "A|b"], "small letters"),
        (["set", "a", "--weight", "0"], "above 0"),
        (["set", "a", "--weight", "1001"], "1000"),
        (["set", "a", "--in-flight", "many"], "whole number"),
        ([], "set, list, delete"),
    ],
)
def test_a_slip_is_said(shell: Shell, arguments: list[str], word: str) -> None:
    code, out, err = shell("tenants", *arguments)
    assert (code, out) == (2, "")
    assert word in err
