"""The gateway's jobs, dead letters and numbers, over HTTP, on queues in a real Redis."""

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from html import escape
from time import time
from typing import Any, Final

import orjson
import pytest
from redis import Redis

from greenscale_worker.gateway.table import ROUTES
from greenscale_worker.gateway.tokens import TokenReader
from greenscale_worker.job import Failed, Output, Released, Succeeded, Usage
from greenscale_worker.queues import TokenPiece
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.testing.rig import claim, decoded, run
from harness.eventually import PATIENCE
from tests.support.api import Api, a_gateway

KINDS: Final = ("list", "stream")
LONG: Final = {"Prefer": f"wait={PATIENCE:.0f}"}


@pytest.fixture(params=KINDS)
async def api(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[Api]:
    async with a_gateway(redis_url, request.param) as api:
        yield api


@pytest.fixture
async def on_list(redis_url: str) -> AsyncIterator[Api]:
    async with a_gateway(redis_url) as api:
        yield api


def answer(text: str = "4") -> Succeeded:
    return Succeeded(Output(text, model="m", finish_reason="stop", usage=Usage(3, 1, 4)))


async def settle(api: Api, outcome: Any = None) -> None:
    assert await api.worker.settle(await run(api.worker), outcome or answer())


async def test_a_job_is_submitted_and_its_answer_read(api: Api) -> None:
    submitted = await api.post("/v1/jobs", {"prompt": "What is 2+2?", "metadata": {"a": "b"}})
    assert submitted.status == 202
    job = submitted.json
    assert submitted.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert submitted.headers["Retry-After"] == "1"
    assert (job["state"], job["object"], job["usage"], job["error"]) == ("waiting", "job", None, None)
    assert (await api.get(job["links"]["result"])).status == 202
    await settle(api)
    ended = (await api.get(job["links"]["self"])).json
    assert (ended["state"], ended["model"], ended["finish_reason"]) == ("succeeded", "m", "stop")
    assert ended["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    assert (ended["metadata"], ended["attempts"]) == ({"a": "b"}, 1)
    assert ended["submitted_at"] <= ended["claimed_at"] <= ended["finished_at"]
    assert ended["finished_at"].endswith("Z")
    assert "result" not in ended
    assert (await api.get(job["links"]["self"] + "?include=result")).json["result"] == "4"
    result = await api.get(job["links"]["result"])
    assert (result.status, result.body, result.headers["Content-Type"]) == (200, b"4", "text/plain; charset=utf-8")


async def test_a_job_that_asks_for_it_leaves_a_notice_however_it_ends(api: Api) -> None:
    done = (await api.post("/v1/jobs", {"prompt": "x", "job_id": "done", "notify": True})).json["id"]
    assert (await api.post("/v1/jobs", {"prompt": "x", "job_id": "silent", "notify": False})).status == 202
    later = {"prompt": "x", "job_id": "later", "notify": True, "not_before": time() + 600}
    assert (await api.post("/v1/jobs", later)).status == 202
    assert (await api.post("/v1/jobs", {"prompt": "x", "notify": "yes"})).status == 400
    assert (await api.call("DELETE", "/v1/jobs/later")).status in {200, 202, 204}
    await settle(api)
    await settle(api)
    notices = await api.queue.notices()
    assert [(notice.job_id, notice.state) for notice in notices] == [("later", "cancelled"), (done, "succeeded")]


async def test_who_prefers_to_wait_gets_the_answer(api: Api) -> None:
    call = asyncio.create_task(api.post("/v1/jobs", {"prompt": "What is 2+2?"}, headers=LONG))
    await settle(api)
    waited = await call
    assert (waited.status, waited.json["state"], waited.json["result"]) == (200, "succeeded", "4")
    assert waited.headers["Preference-Applied"] == f"wait={PATIENCE:.0f}"
    assert "Retry-After" not in waited.headers


async def test_who_waits_for_too_short_a_time_is_told_where_to_look(api: Api) -> None:
    waited = await api.post("/v1/jobs", {"prompt": "x"}, headers={"Prefer": "respond-async, wait=0"})
    assert (waited.status, waited.json["state"]) == (202, "waiting")
    assert waited.headers["Preference-Applied"] == "wait=0"
    assert waited.headers["Location"] == waited.json["links"]["self"]


async def test_a_job_may_be_waited_for_later(api: Api) -> None:
    job_id = await api.submit()
    look = asyncio.create_task(api.get(f"/v1/jobs/{job_id}", headers=LONG))
    read = asyncio.create_task(api.get(f"/v1/jobs/{job_id}/result", headers=LONG))
    await settle(api)
    assert (await look).json["result"] == "4"
    assert (await read).body == b"4"


async def test_a_failed_job_says_why(api: Api) -> None:
    job_id = await api.submit()
    await settle(api, Failed("content_filter", "the filter stopped it"))
    job = (await api.get(f"/v1/jobs/{job_id}", headers=LONG)).json
    assert (job["state"], job["error"]) == (
        "failed",
        {"code": "content_filter", "message": "the filter stopped it"},
    )
    result = await api.get(f"/v1/jobs/{job_id}/result")
    assert (result.status, result.code, result.json["detail"]) == (424, "content_filter", "the filter stopped it")


async def test_what_has_not_changed_is_not_sent_again(api: Api) -> None:
    job_id = await api.submit()
    first = await api.get(f"/v1/jobs/{job_id}")
    same = {"If-None-Match": first.headers["ETag"]}
    assert (await api.get(f"/v1/jobs/{job_id}", headers=same)).status == 304
    await settle(api)
    assert (await api.get(f"/v1/jobs/{job_id}", headers=same)).status == 200


async def test_a_waiting_job_is_cancelled_when_it_comes_up_and_a_running_one_at_once(api: Api) -> None:
    waits = await api.submit()
    cancelled = await api.call("DELETE", f"/v1/jobs/{waits}")
    assert (cancelled.status, cancelled.json["state"]) == (202, "cancelling")
    runs = await api.submit()
    first = await claim(api.worker)
    assert await api.worker.bind(first, decoded(first)) == "cancelled"
    lease = await run(api.worker)
    assert lease.job_id == runs
    cancelled = await api.call("DELETE", f"/v1/jobs/{runs}")
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    assert (await api.get(f"/v1/jobs/{runs}/result")).code == "job_cancelled"
    assert (await api.get(f"/v1/jobs/{waits}")).json["state"] == "cancelled"
    done = await api.submit()
    await settle(api)
    unchanged = await api.call("DELETE", f"/v1/jobs/{done}")
    assert (unchanged.status, unchanged.json["state"]) == (200, "succeeded")


async def test_an_id_that_no_job_has_is_not_found_and_nothing_is_left_of_it(api: Api) -> None:
    for method, rest in (("GET", ""), ("GET", "/result"), ("GET", "/events"), ("DELETE", "")):
        for name in ("nobody", "no%20body", "x" * 200, "%F0%9F%92%A9"):
            answered = await api.call(method, f"/v1/jobs/{name}{rest}")
            assert (answered.status, answered.code) == (404, "not_found")
    await api.submit(job_id="nobody")
    assert (await run(api.worker)).job_id == "nobody", "no cancellation was left for it"


async def test_jobs_are_listed_by_state_and_code_page_by_page(api: Api) -> None:
    fails, runs = await api.submit(job_id="fails"), await api.submit(job_id="runs")
    await settle(api, Failed("http_400", "no"))
    lease = await run(api.worker)
    waiting = {await api.submit() for _ in range(5)}
    everything = (await api.get("/v1/jobs?limit=100")).json
    assert {job["id"] for job in everything["data"]} == {fails, runs, *waiting}
    assert everything["has_more"] is False
    for query, ids in (
        ("state=running", {runs}),
        ("state=running,failed", {runs, fails}),
        ("code=http_400", {fails}),
        ("state=held", set()),
    ):
        assert {job["id"] for job in (await api.get(f"/v1/jobs?{query}")).json["data"]} == ids, query
    seen, after, more = list[str](), "", True
    while more:
        page = (await api.get(f"/v1/jobs?state=waiting&limit=2{after}")).json
        seen += [job["id"] for job in page["data"]]
        after, more = f"&after={page['last_id']}", page["has_more"]
    assert sorted(seen) == sorted(waiting)
    assert (await api.get("/v1/jobs?after=nobody")).status == 404
    assert await api.worker.settle(lease, answer())


async def read_events(
    api: Api, path: str, *, with_ids: bool = False, **headers: str
) -> AsyncGenerator[tuple[str, Any], None]:
    """Yield events and their data; `with_ids`: data and id."""
    async with api.session.get(api.url + path, headers=headers) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        event = event_id = ""
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                event = value
            elif name == "id":
                event_id = value
            elif name == "data":
                yield event, (orjson.loads(value), event_id) if with_ids else orjson.loads(value)


async def test_a_job_can_be_followed_to_its_end(api: Api) -> None:
    job_id = await api.submit()
    events = read_events(api, f"/v1/jobs/{job_id}/events")
    async with asyncio.timeout(PATIENCE):
        event, job = await anext(events)
        assert (event, job["state"]) == ("state", "waiting")
        lease = await run(api.worker)
        event, job = await anext(events)
        assert (event, job["state"]) == ("state", "running")
        assert await api.worker.settle(lease, answer())
        rest = [(event, job["state"]) async for event, job in events]
    assert rest == [("state", "succeeded"), ("end", "succeeded")]
    ended = [event async for event, _ in read_events(api, f"/v1/jobs/{job_id}/events")]
    assert ended == ["state", "end"], "who comes late is told the same"


async def test_head_has_no_body_on_any_path(on_list: Api) -> None:
    _, _, port = on_list.url.rpartition(":")
    await on_list.submit(job_id="x")
    for route in (each for each in ROUTES if each.method == "GET"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        for method in (b"HEAD " + route.path.replace("{id}", "x").encode(), b"GET /livez"):
            writer.write(method + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            first = await reader.readuntil(b"\r\n\r\n")
            then = await reader.readuntil(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 "), route.name
        assert then.startswith(b"HTTP/1.1 200 OK"), route.name
        writer.close()


async def test_the_text_of_a_job_can_be_followed_and_gone_on_with(api: Api) -> None:
    job_id = await api.submit(tokens=True)
    lease = await run(api.worker)
    path = f"/v1/jobs/{job_id}/events"
    first = read_events(api, path, with_ids=True)
    assert await api.worker.write_tokens(lease, "one ")
    async with asyncio.timeout(PATIENCE):
        token = next_of(first, "token")
        told, event_id = await token
        assert told == {"text": "one "}
        assert await api.worker.write_tokens(lease, "two ")
        assert (await next_of(first, "token"))[0] == {"text": "two "}
        assert await api.worker.settle(lease, Released("drain"))
        lease = await run(api.worker)
        assert await api.worker.write_tokens(lease, "anew", last=True)
        assert (await next_of(first, "restart"))[0] == {"attempt": 2}
        assert (await next_of(first, "token"))[0] == {"text": "anew"}
    await first.aclose()
    assert await api.worker.settle(lease, answer("anew"))
    for last_seen, expected in (
        ({"Last-Event-ID": event_id}, ["state", "token", "restart", "token", "end"]),
        ({"Last-Event-ID": "nothing"}, ["state", "token", "token", "restart", "token", "end"]),
    ):
        assert [event async for event, _ in read_events(api, path, **last_seen)] == expected


async def test_pieces_that_are_read_twice_at_a_jobs_end_are_told_once() -> None:
    """The reader for all and the one who sees the end read at the same time; a job's last pieces came twice."""
    reader = TokenReader(MemoryQueue())
    pieces = [TokenPiece("j", "7-0", 1, "a"), TokenPiece("j", "7-1", 1, "b"), TokenPiece("j", "10-0", 2, "c")]
    with reader.follow("j", asyncio.Event()) as feed:
        for piece in [*pieces[:2], *pieces]:
            feed.put(piece)
        assert feed.take() == pieces
    await reader.aclose()


async def next_of(events: Any, wanted: str) -> tuple[Any, str]:
    async for event, data in events:
        if event == wanted:
            return data
    raise AssertionError(wanted)


async def test_the_whole_answer_is_given_to_who_asks_for_it(api: Api) -> None:
    kept, not_kept = await api.submit(keep="body"), await api.submit()
    for _ in range(2):
        await settle(api, Succeeded(Output("4", body=b'{"choices": []}')))
    as_json = {"Accept": "application/json"}
    whole = await api.get(f"/v1/jobs/{kept}/result", headers=as_json)
    assert (whole.headers["Content-Type"], whole.json) == ("application/json", {"choices": []})
    for job_id, headers in ((kept, {}), (not_kept, as_json)):
        text = await api.get(f"/v1/jobs/{job_id}/result", headers=headers)
        assert (text.headers["Content-Type"], text.body) == ("text/plain; charset=utf-8", b"4")


async def bury(api: Api, *codes: str) -> list[str]:
    ids = [await api.submit(job_id=f"job-{number}") for number in range(len(codes))]
    for code in codes:
        await settle(api, Failed(code, "it failed"))
    return ids


async def test_dead_letters_are_listed_shown_and_counted(api: Api) -> None:
    await bury(api, "a", "b", "a")
    page = (await api.get("/v1/dead?limit=2")).json
    assert [letter["job_id"] for letter in page["data"]] == ["job-2", "job-1"]
    assert page["has_more"]
    rest = (await api.get(f"/v1/dead?limit=2&after={page['last_id']}")).json
    assert [letter["job_id"] for letter in rest["data"]] == ["job-0"]
    assert not rest["has_more"]
    assert [letter["code"] for letter in (await api.get("/v1/dead?code=b")).json["data"]] == ["b"]
    assert (await api.get("/v1/dead/codes")).json["data"] == [{"code": "a", "count": 2}, {"code": "b", "count": 1}]
    for name in ("job-1", page["last_id"]):
        letter = (await api.get(f"/v1/dead/{name}")).json
        assert (letter["job_id"], letter["code"], letter["message"]) == ("job-1", "b", "it failed")
        assert orjson.loads(letter["payload"])["job_id"] == "job-1"
    for path in ("/v1/dead/nobody", "/v1/dead?after=nobody"):
        assert (await api.get(path)).code == "not_found"


async def test_dead_letters_are_replayed_and_deleted(api: Api) -> None:
    await bury(api, "a", "b", "a", "a", "b")
    assert (await api.post("/v1/dead/job-0/replay")).json["replayed"] == 1
    assert (await api.get("/v1/jobs/job-0")).json["state"] == "waiting"
    many = (await api.post("/v1/dead/replay", {"ids": ["job-1", "job-0", "nobody"]})).json
    assert many["replayed"] == 1
    assert [each["reason"] for each in many["refused"]] == ["unknown", "unknown"]
    assert (await api.post("/v1/dead/replay", {"code": "a"})).json["replayed"] == 2
    gone = await api.call("DELETE", "/v1/dead/job-4")
    assert (gone.status, gone.json["deleted"]) == (200, True)
    assert (await api.get("/v1/dead")).json["data"] == []
    for method, path in (("DELETE", "/v1/dead/job-4"), ("POST", "/v1/dead/job-4/replay")):
        assert (await api.call(method, path)).status == 404
    for body in ({}, {"ids": ["a"], "code": "b"}, {"id": "a"}, {"ids": "a"}):
        assert (await api.post("/v1/dead/replay", body)).code == "bad_field"


async def test_the_numbers_of_the_queue(api: Api) -> None:
    stats = (await api.get("/v1/stats")).json
    assert (stats["queue"], stats["depth"]["waiting"], stats["reasons"]) == ("jobs", 0, [])
    api.gateway.shared = type(api.gateway.shared)()  # numbers are a second old at most: forget them
    await api.submit(job_id="runs")
    await api.submit()
    lease = await run(api.worker)
    await api.worker.beat("the gate is shut for 3 s", lanes=4)
    await api.queue.pause()
    stats = (await api.get("/v1/stats")).json
    depth = {name: stats["depth"][name] for name in ("waiting", "standard", "running", "paused")}
    assert depth == {"waiting": 1, "standard": 1, "running": 1, "paused": True}
    (worker,) = stats["workers"]
    assert (worker["why"], worker["lanes"], worker["busy_lanes"]) == ("the gate is shut for 3 s", 4, 1)
    assert [(job["id"], job["attempts"]) for job in worker["running"]] == [("runs", 1)]
    assert any("paused" in reason for reason in stats["reasons"])
    assert stats["remaining_seconds"] is None
    assert await api.worker.settle(lease, answer())


DEEP: Final = ((65, "bad_field"), (1020, "bad_field"), (1022, "bad_field"), (1030, "not_json"), (10_000, "not_json"))


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "not_json", None),
        (b'{"prompt": ', "not_json", None),
        (b"[1]", "not_an_object", None),
        (b'{"prompt": ""}', "bad_request", "prompt"),
        (b"{}", "bad_request", "prompt"),
        *((b'{"prompt": "x", "a": ' + b"[" * deep + b"]" * deep + b"}", code, None) for deep, code in DEEP),
        (b'{"prompt": "x", "job_id": "a b"}', "bad_job_id", "job_id"),
        (b'{"prompt": "x", "job_id": 3}', "bad_field", "job_id"),
        (b'{"prompt": "x", "metadata": {"a": 1}}', "bad_field", "metadata.a"),
        (b'{"prompt": "x", "deadline": "soon"}', "bad_field", "deadline"),
        (b'{"prompt": "x", "deadline": "2001-01-01T00:00:00Z"}', "deadline_passed", "deadline"),
        (b'{"prompt": "x", "class": "urgent"}', "bad_field", "class"),
        (b'{"prompt": "x", "not_before": "tomorrow"}', "bad_field", "not_before"),
        (b'{"prompt": "x", "not_before": true}', "bad_field", "not_before"),
        (b'{"prompt": "x", "tokens": "yes"}', "bad_field", "tokens"),
        (b'{"prompt": "x", "keep": "all"}', "bad_field", "keep"),
        (b'{"prompt": "x", "tenant": "other"}', "bad_field", "tenant"),
        (b'{"prompt": "x", "n": 2}', "bad_request", "n"),
        (b'{"prompt": "x", "a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "not_json", None),
        (b'{"prompt": "x", "a": ' + b"[" * 100 + b"]" * 100 + b"}", "bad_field", None),
        (b'{"prompt": "a\\u0000b"}', "bad_field", None),
    ],
)
async def test_what_cannot_be_a_job_is_refused_with_a_reason(
    on_list: Api, body: bytes, code: str, param: str | None
) -> None:
    answered = await on_list.post("/v1/jobs", data=body)
    assert (answered.status, answered.code, answered.json["error"]["param"]) == (400, code, param)
    assert len(answered.json["detail"]) < 300
    assert (await on_list.queue.depth()).waiting == 0


async def test_the_same_idempotency_key_is_the_same_job(api: Api) -> None:
    key = {"Idempotency-Key": "order 17"}
    first = await api.post("/v1/jobs", {"prompt": "x"}, headers=key)
    again = await api.post("/v1/jobs", {"prompt": "x"}, headers=key)
    assert first.json["id"] == again.json["id"]
    assert (await api.queue.depth()).waiting == 1
    other = await api.post("/v1/jobs", {"prompt": "y"}, headers=key)
    assert (other.status, other.code) == (422, "idempotency_key_reuse")
    await settle(api, Failed("http_400", "no"))
    ended = await api.post("/v1/jobs", {"prompt": "x"}, headers=key)
    assert (ended.status, ended.json["state"], ended.json["error"]["code"]) == (200, "failed", "http_400")
    assert (await api.queue.depth()).waiting == 0, "what has ended does not run again"
    for headers in ({"Idempotency-Key": ""}, {"Idempotency-Key": "x" * 256}):
        assert (await api.post("/v1/jobs", {"prompt": "x"}, headers=headers)).code == "bad_field"
    both = await api.post("/v1/jobs", {"prompt": "x", "job_id": "mine"}, headers=key)
    assert (both.status, both.json["error"]["param"]) == (400, "job_id")


async def test_a_job_id_of_another_body_is_refused(api: Api) -> None:
    await api.submit(job_id="mine")
    assert (await api.post("/v1/jobs", {"prompt": "What is 2+2?", "job_id": "mine"})).status == 202
    other = await api.post("/v1/jobs", {"prompt": "other", "job_id": "mine"})
    assert (other.status, other.code) == (422, "job_id_reuse")
    await settle(api, Failed("http_400", "no"))
    assert (await api.post("/v1/jobs", {"prompt": "other", "job_id": "mine"})).status == 202, (
        "what failed may run again"
    )
    assert (await api.queue.depth()).waiting == 1


async def test_jobs_have_a_class_and_may_begin_later(api: Api) -> None:
    for name in ("standard", "background", "interactive"):
        await api.submit(**{"job_id": name, "class": name})
    depth = (await api.get("/v1/stats")).json["depth"]
    assert [depth[name] for name in ("waiting", "interactive", "standard", "background")] == [3, 1, 1, 1]
    assert [(await run(api.worker)).job_id for _ in range(3)] == ["interactive", "standard", "background"]
    later = await api.post("/v1/jobs", {"prompt": "x", "not_before": "2200-01-01T00:00:00+01:00"})
    assert (later.json["state"], later.json["due_at"]) == ("scheduled", "2199-12-31T23:00:00.000Z")
    soon = await api.submit(not_before=time() + 0.5)
    assert (await run(api.worker)).job_id == soon, "though no worker sends a heartbeat"
    cancelled = await api.call("DELETE", later.json["links"]["self"])
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")


async def test_a_job_object_has_metadata_class_and_creation_from_the_answer_to_its_submission_on(api: Api) -> None:
    told = ({"a": "b"}, "background", "2026-01-02T02:04:05.000Z")

    def said(job: dict[str, Any]) -> tuple[Any, ...]:
        return job["metadata"], job["class"], job["created_at"]

    fields = {"prompt": "x", "metadata": {"a": "b"}, "class": "background", "created_at": "2026-01-02T03:04:05+01:00"}
    job = (await api.post("/v1/jobs", fields)).json
    assert (said(job), job["state"]) == (told, "waiting")
    assert said((await api.get(job["links"]["self"])).json) == told
    assert [said(each) for each in (await api.get("/v1/jobs")).json["data"]] == [told]
    await settle(api)
    assert said((await api.get(job["links"]["self"])).json) == told
    plain = (await api.post("/v1/jobs", {"prompt": "x"})).json
    assert said(plain) == (None, "standard", None)


async def test_the_class_of_a_job_that_was_pushed_is_not_known(on_list: Api, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.lpush("jobs", b'{"job_id": "pushed", "prompt": "x"}')
    await run(on_list.worker)
    pushed = (await on_list.get("/v1/jobs/pushed")).json
    assert (pushed["state"], pushed["class"], pushed["created_at"]) == ("running", None, None)


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/chat/completions", "/v1/embeddings", "/v1/dead/replay"])
async def test_a_body_that_is_compressed_is_refused(on_list: Api, path: str) -> None:
    body = zlib.compress(b'{"prompt": "x"}')
    for encoding in ("deflate", "gzip", "br", "nothing"):
        refused = await on_list.post(path, data=body, headers={"Content-Encoding": encoding})
        assert (refused.status, refused.code, refused.json["error"]["param"]) == (415, "compressed", "Content-Encoding")
    assert (await on_list.get("/v1/jobs")).json["data"] == []


async def test_an_idempotency_key_may_be_any_bytes(on_list: Api) -> None:
    _, _, port = on_list.url.rpartition(":")
    body = b'{"prompt": "x"}'
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: %b\r\nContent-Length: %d\r\n\r\n"
    ids = set[str]()
    for key in (b"\xff\xfe", b"\xff\xfe", "\u00fc".encode(), b"\xfc"):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(head % (key, len(body)) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 202"), answer
        (place,) = re.findall(rb"Location: (\S+)", answer)
        ids.add(place.decode())
        writer.close()
    assert len(ids) == 3


async def test_what_no_route_takes_is_a_problem(on_list: Api) -> None:
    assert (await on_list.get("/v2/jobs")).code == "not_found"
    wrong = await on_list.call("PUT", "/v1/jobs")
    assert (wrong.status, wrong.code, wrong.headers["Allow"]) == (405, "method_not_allowed", "GET, HEAD, POST")
    for path in (
        "/v1/jobs?sate=waiting",
        "/v1/jobs?limit=0",
        "/v1/jobs?state=lost",
        "/v1/jobs?state=",
        "/v1/stats?x=1",
    ):
        answered = await on_list.get(path)
        assert (answered.status, answered.code) == (400, "bad_field"), path


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "192.0.2.1:8400"}, {"Origin": "https://evil.example"}, {"Origin": "null"}],
)
async def test_a_page_of_the_web_cannot_make_a_browser_call(on_list: Api, headers: dict[str, str]) -> None:
    for method in ("GET", "POST"):
        refused = await on_list.call(method, "/v1/jobs", data=b'{"prompt": "x"}', headers=headers)
        assert (refused.status, refused.code) == (403, "foreign_host")
    assert (await on_list.get("/livez", headers=headers)).status == 200, "a cluster asks by any name"
    for host in ("localhost:1", "127.0.0.1", "[::1]:8400"):
        assert (await on_list.get("/v1/jobs", headers={"Host": host, "Origin": f"http://{host}"})).status == 200


async def test_the_document_and_the_page(on_list: Api) -> None:
    told = (await on_list.get("/openapi.json")).json
    assert told["openapi"] == "3.1.0"
    assert {"/v1/jobs", "/v1/jobs/{id}", "/v1/stats", "/livez"} <= told["paths"].keys()
    page = await on_list.get("/docs")
    text = page.body.decode()
    for word in ("/v1/jobs/{id}/events", "idempotency_key_reuse", "Prefer"):
        assert word in text
    assert "<script" not in text
    assert "https://" not in text
    for name, schema in told["components"]["schemas"].items():
        assert f"<h3 id={name}>" in text, "what a body holds is told where it is named"
        assert all(f"<code>{field}</code>" in text for field in schema.get("properties", {}))
    for host in ("127.0.0.1:18400", 'localhost"<b>'):
        shown = (await on_list.get("/docs", headers={"Host": host})).body.decode()
        assert f"curl -sS http://{escape(host)}/v1/jobs" in shown, "the example calls this gateway, not the one on 8400"


async def test_who_asks_the_bare_address_is_led_to_the_page(on_list: Api) -> None:
    first = await on_list.get("/")
    assert (first.status, first.headers["Location"]) == (307, "/docs")
    named = set(re.findall(r"^(/\S+)", first.body.decode(), re.MULTILINE))
    assert named == {"/docs", "/openapi.json", "/v1"}
    assert (await on_list.get("/nowhere")).status == 404


async def test_the_past_and_what_was_saved(api: Api) -> None:
    await api.worker.beat()
    for outcome in (answer(), answer(), Failed("http_400", "no")):
        await api.submit()
        await settle(api, outcome)
    await api.worker.beat()
    api.gateway.shared = type(api.gateway.shared)()
    told = (await api.get("/v1/stats/history?since=30m&step=3600&replicas=2&price=0.5")).json
    assert told["step_seconds"] == 3600
    assert sum(step["ended"] for step in told["series"]) == 2
    assert sum(step["failed"] for step in told["series"]) == 1
    assert sum(step["prompt_tokens"] for step in told["series"]) == 6
    saved = told["savings"]
    assert saved["replicas_always_on"] == 2
    assert 0 < saved["window_seconds"] < 121, "from the first minute that is known, not for half an hour"
    assert saved["always_on_replica_seconds"] == pytest.approx(2 * saved["window_seconds"], abs=0.01)
    difference = saved["always_on_replica_seconds"] - saved["measured_replica_seconds"]
    assert saved["saved_replica_seconds"] == pytest.approx(difference, abs=0.01)
    assert saved["saved"] == pytest.approx(difference / 3600 * 0.5, abs=0.001)
    worse = (await api.get("/v1/stats/history?replicas=0")).json["savings"]
    assert worse["saved_replica_seconds"] <= 0
    assert worse["saved"] is None
    assert (await api.get("/v1/stats")).json["totals"]["ended"] == 2
    for query in ("since=1s", "since=soon", "step=90", "step=0", "replicas=-1", "price=nan"):
        assert (await api.get(f"/v1/stats/history?{query}")).code == "bad_field", query
