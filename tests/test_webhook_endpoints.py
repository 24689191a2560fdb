"""`/v1/webhook_endpoints` as the `openai` client calls it, and what tenants see of each other's."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import openai
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types.webhooks import (
    DeletedWebhookEndpoint,
    WebhookEndpoint,
    WebhookEndpointTestResult,
    WebhookEndpointWithSecret,
    WebhookEventTypeList,
)

from greenscale_worker import Metrics, RedisOptions, Worker, open_queue
from greenscale_worker.errors import PermanentError
from greenscale_worker.files.store import open_files
from greenscale_worker.gateway import webhooks as routes
from greenscale_worker.job import Job, Output
from greenscale_worker.queues import DeadLetter
from greenscale_worker.webhooks import delivery as deliveries
from greenscale_worker.webhooks.delivery import POLICY
from greenscale_worker.webhooks.events import EVENT_TYPES, Delivery, event_of
from greenscale_worker.webhooks.sender import Sender
from harness.eventually import eventually
from harness.redis_server import free_port
from tests.support.api import Api, a_gateway, own_options
from tests.support.endpoint import Endpoint, Reply, completion
from tests.support.hooks import event_in
from tests.test_gateway_keys import Holder, holder

NEW: Final[dict[str, Any]] = {"event_types": ["batch.completed"], "name": "mine"}
HTTPS: Final = "https://example.org/hook?token=s3cret"


@pytest.fixture
async def api(redis_url: str) -> AsyncIterator[Api]:
    async with a_gateway(redis_url) as api:
        yield api


@asynccontextmanager
async def client_of(api: Api, **options: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", **options) as client:
        yield client


@asynccontextmanager
async def delivering(api: Api, url: str) -> AsyncIterator[None]:
    queue = await open_queue("list", RedisOptions(url=url), own_options("jobs", "webhooks"), Metrics())
    async with Worker(queue, api.webhooks.deliveries, drain=0.5, policy=POLICY):
        yield


async def test_the_openai_client_manages_endpoints(api: Api) -> None:
    async with client_of(api) as client, Endpoint(default=Reply(status=418)) as receiver:
        made = await client.webhooks.create(**NEW, url=receiver.url)
        assert isinstance(made, WebhookEndpointWithSecret)
        WebhookEndpointWithSecret.model_validate(made.model_dump(), strict=True)
        assert made.signing_secret.startswith("whsec_")

        shown = await client.webhooks.retrieve(made.id)
        WebhookEndpoint.model_validate(shown.model_dump(), strict=True)
        assert "signing_secret" not in shown.model_dump()
        assert made.signing_secret not in shown.model_dump_json()
        assert shown.signing_secret_hint == f"whsec_…{made.signing_secret[-4:]}"
        assert (shown.name, shown.url, shown.event_types) == ("mine", receiver.url, ["batch.completed"])

        changed = await client.webhooks.update(made.id, name="other", event_types=["batch.failed", "batch.expired"])
        assert (changed.name, changed.url, changed.event_types) == (
            "other",
            receiver.url,
            ["batch.failed", "batch.expired"],
        )

        tested = await client.webhooks.test(made.id, event_type="response.completed")
        WebhookEndpointTestResult.model_validate(tested.model_dump(), strict=True)
        assert (tested.status_code, tested.event_type, tested.webhook_endpoint_id) == (
            418,
            "response.completed",
            made.id,
        )
        assert event_in(receiver.received[-1], made.signing_secret).type == "response.completed"

        rotated = await client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        assert rotated.signing_secret != made.signing_secret
        await client.webhooks.test(made.id, event_type="batch.failed")
        for secret in (made.signing_secret, rotated.signing_secret):
            event_in(receiver.received[-1], secret)

        assert isinstance(await client.webhooks.event_types.list(), WebhookEventTypeList)
        assert (await client.webhooks.event_types.list()).data == list(EVENT_TYPES)
        deleted = await client.webhooks.delete(made.id)
        assert isinstance(deleted, DeletedWebhookEndpoint)
        with pytest.raises(openai.NotFoundError):
            await client.webhooks.retrieve(made.id)


async def test_the_client_pages_through_endpoints_the_newest_first(api: Api) -> None:
    async with client_of(api) as client:
        made = [(await client.webhooks.create(**NEW, url=HTTPS)).id for _ in range(5)]
        assert [each.id async for each in client.webhooks.list(limit=2)] == made[::-1]
        page = await client.webhooks.list(after=made[1], limit=20)
        assert [each.id for each in page.data] == [made[0]]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"url": "ftp://example.org/"}, "url"),
        ({"url": "https://a:b@example.org/"}, "url"),
        ({"event_types": []}, "event_types"),
        ({"event_types": ["video.completed"]}, "event_types.0"),
        ({"name": ""}, "name"),
        ({"what": 1}, "what"),
    ],
)
async def test_what_is_wrong_is_said(api: Api, wrong: dict[str, Any], param: str) -> None:
    answer = await api.post("/v1/webhook_endpoints", {**NEW, "url": HTTPS, **wrong})
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (400, "bad_field", param)
    made = (await api.post("/v1/webhook_endpoints", {**NEW, "url": HTTPS})).json
    answer = await api.post(f"/v1/webhook_endpoints/{made['id']}", wrong)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_without_the_setting_private_addresses_and_http_are_refused(redis_url: str) -> None:
    async with aclosing(Sender()) as sender, a_gateway(redis_url, sender=sender) as api, Endpoint() as receiver:
        for url in (receiver.url, "https://127.0.0.1/", "http://example.org/", "https://169.254.169.254/"):
            answer = await api.post("/v1/webhook_endpoints", {**NEW, "url": url})
            assert (answer.status, answer.json["error"]["param"]) == (400, "url")
        hook = (await api.post("/v1/webhook_endpoints", {**NEW, "url": "https://localhost/"})).json
        answer = await api.post(f"/v1/webhook_endpoints/{hook['id']}/test", {"event_type": "batch.failed"})
        assert (answer.status, answer.code) == (424, "webhook_refused")


async def test_a_receiver_that_cannot_be_reached_is_said_at_once_to_who_tests_it(api: Api) -> None:
    async with client_of(api) as client:
        made = await client.webhooks.create(**NEW, url=f"http://127.0.0.1:{free_port()}/")
        with pytest.raises(openai.APIStatusError) as refused:
            await client.webhooks.test(made.id, event_type="batch.failed")
        assert (refused.value.status_code, refused.value.code) == (424, "webhook_unreachable")


async def test_a_client_that_asks_again_has_one_endpoint(api: Api) -> None:
    again = {"x-stainless-retry-count": "1"}
    fields = {**NEW, "url": HTTPS}
    first = (await api.post("/v1/webhook_endpoints", fields)).json
    second = (await api.post("/v1/webhook_endpoints", fields, headers=again)).json
    assert second["id"] == first["id"]
    assert second["signing_secret"] != first["signing_secret"], "of which it has seen neither"
    other = (await api.post("/v1/webhook_endpoints", {**fields, "name": "other"}, headers=again)).json
    third = (await api.post("/v1/webhook_endpoints", fields)).json
    assert len({first["id"], other["id"], third["id"]}) == 3


async def test_a_tenant_has_so_many_endpoints_at_most(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MOST_ENDPOINTS", 2)
    fields = {**NEW, "url": HTTPS}
    statuses = [(await api.post("/v1/webhook_endpoints", fields)).status for _ in range(3)]
    assert statuses == [200, 200, 400]


async def test_no_route_shows_or_changes_the_endpoint_of_another_tenant(api: Api) -> None:
    a, b, whole = await holder(api, tenant="a"), await holder(api, tenant="b"), await holder(api)
    made = (await a.call("POST", "/v1/webhook_endpoints", {**NEW, "url": HTTPS})).json
    one = f"/v1/webhook_endpoints/{made['id']}"

    async def seen_by(key: Holder) -> list[int]:
        answers = [
            await key.call("GET", one),
            await key.call("POST", one, {"name": "theirs"}),
            await key.call("POST", f"{one}/rotate_secret", {}),
            await key.call("POST", f"{one}/test", {"event_type": "batch.failed"}),
            await key.call("GET", f"{one}/failures"),
            await key.call("POST", f"{one}/failures/replay", {}),
            await key.call("DELETE", one),
        ]
        listed = (await key.call("GET", "/v1/webhook_endpoints")).json["data"]
        return [*(answer.status for answer in answers), len(listed)]

    assert await seen_by(b) == [404] * 7 + [0]
    assert await seen_by(whole) == [404] * 7 + [0]
    mine = (await a.call("GET", one)).json
    assert mine["name"] == "mine"
    assert mine["signing_secret_hint"].endswith(made["signing_secret"][-4:])


async def test_a_key_that_may_only_read_changes_nothing(api: Api) -> None:
    reader = await holder(api, scopes=("read",))
    assert (await reader.call("GET", "/v1/webhook_endpoints")).status == 200
    assert (await reader.call("POST", "/v1/webhook_endpoints", {**NEW, "url": HTTPS})).status == 403


async def test_the_ends_of_jobs_that_ask_for_it_and_of_responses_are_told(redis_url: str) -> None:
    async def answer(job: Job) -> Output:
        if job.metadata == {"fails": "yes"}:
            raise PermanentError("refused", "a test")
        return Output("4", body=orjson.dumps(completion("4")))

    async with (
        aclosing(open_files("memory:")) as files,
        a_gateway(redis_url, files=files) as api,
        Worker(api.worker, answer, drain=0.5),
        Endpoint(default=Reply(status=200)) as receiver,
        delivering(api, redis_url),
        client_of(api) as client,
    ):
        made = await client.webhooks.create(
            event_types=["response.completed"],
            name="mine",
            url=receiver.url,
            extra_body={"event_types": ["response.completed", "job.succeeded", "job.failed"]},
        )
        response = await client.responses.create(model="m", input="What is 2+2?", background=True)
        told = await api.submit(notify=True)
        failed = await api.submit(notify=True, metadata={"fails": "yes"})
        await api.submit()
        await eventually(lambda: len(receiver.received) == 3)
        events = [event_in(each, made.signing_secret) for each in receiver.received]
        assert {(event.type, event.data.id) for event in events} == {
            ("response.completed", response.id),
            ("job.succeeded", told),
            ("job.failed", failed),
        }
        assert (await client.responses.retrieve(response.id)).status == "completed", "when it is told, it can be read"


async def test_failures_are_seen_and_replayed(api: Api, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "SCHEDULE", (0.0,))
    async with Endpoint(default=Reply(status=500)) as receiver, delivering(api, redis_url):
        made = (await api.post("/v1/webhook_endpoints", {**NEW, "url": receiver.url})).json
        other = (await api.post("/v1/webhook_endpoints", {**NEW, "url": receiver.url})).json
        for number in range(3):
            await api.webhooks.events.tell(None, "batch.completed", f"b{number}", 1.9e9 + number)
        await eventually(lambda: len(receiver.received) == 6)
        path = f"/v1/webhook_endpoints/{made['id']}/failures"
        while len(failures := (await api.get(path)).json["data"]) < 3:
            pass
        assert {each["event"]["data"]["id"] for each in failures} == {"b0", "b1", "b2"}
        for each in failures:
            assert (each["code"], each["tries"], each["event"]["type"]) == ("http_500", 1, "batch.completed")
        first = (await api.get(f"{path}?limit=1")).json
        assert (first["has_more"], len(first["data"])) == (True, 1)
        rest = (await api.get(f"{path}?after={first['last_id']}")).json
        assert (rest["has_more"], len(rest["data"])) == (False, 2)
        assert [*first["data"], *rest["data"]] == failures
        assert (await api.get(f"{path}?after=nothing")).code == "not_found"

        receiver.default = Reply(status=200)
        ids = {each["id"]: each["event"]["id"] for each in failures}
        chosen = failures[0]["id"]
        theirs = (await api.get(f"/v1/webhook_endpoints/{other['id']}/failures")).json["data"][0]["id"]
        answer = (await api.post(f"{path}/replay", {"ids": [chosen, theirs, "nothing"]})).json
        assert answer["replayed"] == 1
        assert {each["id"] for each in answer["refused"]} == {theirs, "nothing"}
        await eventually(lambda: len(receiver.received) == 7)
        assert receiver.received[-1].headers["webhook-id"] == ids[chosen]
        assert (await api.post(f"{path}/replay", {})).json["replayed"] == 2
        await eventually(lambda: len(receiver.received) == 9)
        assert {each.headers["webhook-id"] for each in receiver.received[6:]} == set(ids.values())
        assert (await api.get(path)).json["data"] == []


async def test_a_page_of_failures_reads_the_payloads_of_its_own_only(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made = (await api.post("/v1/webhook_endpoints", {**NEW, "url": HTTPS})).json
    queue = api.webhooks.queue
    letters = [
        DeadLetter(str(number), f"evt_{number}.{made['id'] if number % 2 else 'we_other'}.10", "x", "", 1, 0, 1.0, b"")
        for number in range(100)
    ]
    walked, read = list[str](), list[str]()

    async def dead(*, after: str | None, payloads: bool, **_: Any) -> AsyncIterator[DeadLetter]:
        assert not payloads
        for letter in letters if after is None else letters[int(after) + 1 :]:
            walked.append(letter.id)
            yield letter

    async def dead_letter(name: str, *, payload: bool) -> DeadLetter | None:
        event = event_of(None, "batch.completed", name, 1.0)
        if payload:
            read.append(name)
        whole = Delivery(endpoint=made["id"], number=10, event=event).model_dump_json().encode()
        return replace(letters[int(name)], payload=whole)

    monkeypatch.setattr(queue, "dead", dead)
    monkeypatch.setattr(queue, "dead_letter", dead_letter)
    path = f"/v1/webhook_endpoints/{made['id']}/failures?limit=2"
    page = (await api.get(path)).json
    assert (page["last_id"], page["has_more"]) == ("3", True)
    page = (await api.get(f"{path}&after=3")).json
    assert [each["id"] for each in page["data"]] == read[2:] == ["5", "7"]
    assert walked == [*map(str, range(6)), *map(str, range(4, 10))]
    assert (await api.get(f"{path}&after=4")).code == "not_found", "a failure of another endpoint"
    page = (await api.get(f"{path}&after=95")).json
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (["97", "99"], False)


async def test_an_endpoint_that_was_gone_says_so_and_can_be_enabled(api: Api, redis_url: str) -> None:
    async with Endpoint(Reply(status=410)) as receiver, delivering(api, redis_url):
        made = (await api.post("/v1/webhook_endpoints", {**NEW, "url": receiver.url})).json
        path = f"/v1/webhook_endpoints/{made['id']}"
        await api.webhooks.events.tell(None, "batch.completed", "b1", 1.9e9)
        while (shown := (await api.get(path)).json)["status"] == "enabled":
            pass
        assert "410" in shown["disabled_reason"]
        enabled = (await api.post(path, {"status": "enabled"})).json
        assert (enabled["status"], enabled["disabled_at"], enabled["disabled_reason"]) == ("enabled", None, None)
        assert (await api.post(path, {"status": "disabled"})).json["status"] == "disabled"
        text = (await api.get("/metrics")).body.decode()
        assert 'greenscale_webhook_deliveries_total{kind="http_4xx",outcome="dead"} 1.0' in text
