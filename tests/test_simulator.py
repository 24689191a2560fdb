import asyncio
import base64
import logging
import os
import random
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.resources import files
from typing import Any

import aiohttp
import orjson
import pytest

from greenscale_worker.simulator import CHAT_PATH, Faults, SimulatorOptions, fingerprint, running
from greenscale_worker.simulator.completions import calculate

DATA = files("greenscale_worker") / "data"
DEADLINE = 10.0


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=DEADLINE)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No fault on request may show as an error of the server itself."""
    yield
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


def body(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "a-model", "messages": [{"role": "user", "content": prompt}], **fields}


def simulator(**faults: Any) -> Any:
    return running(SimulatorOptions(faults=Faults(**faults)))


async def get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        assert response.status == 200
        return orjson.loads(await response.read())


async def ask(
    session: aiohttp.ClientSession, url: str, prompt: str = "Hello", **fields: Any
) -> tuple[int, dict[str, str], bytes]:
    async with session.post(url + CHAT_PATH, json=body(prompt, **fields)) as response:
        return response.status, dict(response.headers), await response.read()


async def answer(session: aiohttp.ClientSession, url: str, prompt: str, **fields: Any) -> Any:
    status, _, content = await ask(session, url, prompt, **fields)
    assert status == 200
    return orjson.loads(content)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110  what is awaited is on the other side of HTTP
            await asyncio.sleep(0.005)


def chunks(content: bytes) -> list[Any]:
    events = content.decode().removesuffix("\n\n").split("\n\n")
    assert events.pop() == "data: [DONE]"
    return [orjson.loads(event.removeprefix("data: ")) for event in events]


async def test_an_answer_has_the_shape_of_the_protocol(session: aiohttp.ClientSession) -> None:
    async with simulator() as url:
        first = await answer(session, url, "What is 2+2?", model="some/model")
        again = await answer(session, url, "What is 2+2?")
    assert first["object"] == "chat.completion"
    assert first["model"] == "some/model"
    assert first["id"].startswith("chatcmpl-")
    assert first["id"] != again["id"]
    [choice] = first["choices"]
    assert choice["message"] == {"role": "assistant", "content": "4"}
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    usage = first["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] == 1
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_the_demo_is_a_plain_batch_input_and_each_of_its_prompts_has_its_answer(
    session: aiohttp.ClientSession,
) -> None:
    lines = [orjson.loads(line) for line in (DATA / "demo.jsonl").read_bytes().splitlines()]
    assert all(line.keys() == {"prompt"} for line in lines)
    answers = orjson.loads((DATA / "demo_answers.json").read_bytes())
    assert [line["prompt"] for line in lines] == list(answers)
    assert len(lines) == 50
    async with simulator() as url:
        for prompt, text in answers.items():
            given = await answer(session, url, prompt)
            assert given["choices"][0]["message"]["content"] == text


async def test_another_question_is_answered_with_its_fingerprint(session: aiohttp.ClientSession) -> None:
    async with simulator() as url:
        for prompt in ("one", "two"):
            given = await answer(session, url, prompt)
            text = given["choices"][0]["message"]["content"]
            assert fingerprint(body(prompt)["messages"]) in text


async def test_content_may_come_in_parts_and_the_last_message_is_the_question(
    session: aiohttp.ClientSession,
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "6*7?"}]},
    ]
    async with simulator() as url:
        given = await answer(session, url, "", messages=messages)
    assert given["choices"][0]["message"]["content"] == "42"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_max_tokens_cuts_the_answer(session: aiohttp.ClientSession, field: str) -> None:
    async with simulator() as url:
        whole = await answer(session, url, "tell me more")
        short = await answer(session, url, "tell me more", **{field: 3})
    assert whole["usage"]["completion_tokens"] > 3
    assert short["usage"]["completion_tokens"] == 3
    assert short["choices"][0]["finish_reason"] == "length"
    text = short["choices"][0]["message"]["content"]
    assert text
    assert whole["choices"][0]["message"]["content"].startswith(text)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is 2+2?", "4"),
        ("what is 7 - 12 ?", "-5"),
        ("Calculate -3 * 4", "-12"),
        ("6 x 7 =", "42"),
        ("What's 84/2?", "42"),
        ("1 ÷ 3", "0.333333"),
        ("8/0", "Division by zero is undefined."),
        ("What is love?", None),
        ("2+2 and then?", None),
    ],
)
def test_it_calculates(question: str, expected: str | None) -> None:
    assert calculate(question) == expected


async def test_a_stream_says_the_same_as_the_whole_answer(session: aiohttp.ClientSession) -> None:
    prompt = "Write a haiku about autumn rain."
    async with simulator() as url:
        whole = await answer(session, url, prompt)
        status, headers, content = await ask(session, url, prompt, stream=True)
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    parts = chunks(content)
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert {part["model"] for part in parts} == {"a-model"}
    assert len({part["id"] for part in parts}) == 1
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [part["choices"][0]["finish_reason"] for part in parts[-2:]] == [None, "stop"]
    text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    assert text == whole["choices"][0]["message"]["content"]
    assert not any("usage" in part for part in parts)


async def test_a_stream_ends_with_its_usage_where_that_is_asked_for(session: aiohttp.ClientSession) -> None:
    async with simulator() as url:
        whole = await answer(session, url, "Hello")
        _, _, content = await ask(session, url, stream=True, stream_options={"include_usage": True})
    last = chunks(content)[-1]
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]


async def test_models_and_health(session: aiohttp.ClientSession) -> None:
    async with simulator() as url:
        models = await get(session, url + "/v1/models")
        assert [model["object"] for model in models["data"]] == ["model"]
        assert await get(session, url + "/health") == {"status": "ok"}


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"messages": []}',
        b'{"messages": "hello"}',
        b'{"messages": ["hello"]}',
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
        b'{"messages": [{"role": "user", "content": ' + b"[" * 300 + b"]" * 300 + b"}]}",
    ],
)
async def test_a_request_that_makes_no_sense_is_400(session: aiohttp.ClientSession, content: bytes) -> None:
    async with simulator() as url:
        async with session.post(url + CHAT_PATH, data=content) as response:
            assert response.status == 400
            assert orjson.loads(await response.read())["error"]["type"] == "invalid_request_error"
        stats = await get(session, url + "/stats")
    assert stats["outcomes"] == {"400": 1}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/completions", {}),
        ("/v1/completions", {"prompt": 4}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/embeddings", {}),
        ("/v1/embeddings", {"input": ""}),
        ("/v1/embeddings", {"input": []}),
        ("/v1/embeddings", {"input": ["a", ""]}),
        ("/v1/embeddings", {"input": ["a", 1]}),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}),
        ("/v1/embeddings", {"input": "a", "encoding_format": "xml"}),
    ],
)
async def test_a_request_of_another_path_that_makes_no_sense_is_400(
    session: aiohttp.ClientSession, path: str, content: dict[str, Any]
) -> None:
    async with simulator() as url, session.post(url + path, json=content) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_a_completion_whole_and_as_a_stream(session: aiohttp.ClientSession) -> None:
    asked = {"model": "m", "prompt": "What is 20 + 22?", "stream_options": {"include_usage": True}}
    async with simulator() as url:
        async with session.post(url + "/v1/completions", json=asked) as response:
            whole = await response.json()
        async with session.post(url + "/v1/completions", json={**asked, "stream": True}) as response:
            streamed = chunks(await response.read())
        async with session.post(url + "/v1/completions", json={"prompt": [1, 2], "max_tokens": 1}) as response:
            assert (await response.json())["choices"][0]["finish_reason"] == "length"
    assert (whole["object"], whole["model"], whole["id"][:5]) == ("text_completion", "m", "cmpl-")
    assert whole["choices"] == [{"index": 0, "text": "42", "logprobs": None, "finish_reason": "stop"}]
    assert {chunk["object"] for chunk in streamed} == {"text_completion"}
    *pieces, usage = streamed
    assert "".join(chunk["choices"][0]["text"] for chunk in pieces) == "42"
    assert [chunk["choices"][0]["finish_reason"] for chunk in pieces] == [*[None] * (len(pieces) - 1), "stop"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


async def test_embeddings_depend_on_their_input_alone(session: aiohttp.ClientSession) -> None:
    async def embed(given: Any, **fields: Any) -> Any:
        async with session.post(url + "/v1/embeddings", json={"model": "m", "input": given, **fields}) as response:
            assert response.status == 200
            return await response.json()

    async with simulator() as url:
        both, one, tokens = await embed(["a", "b"]), await embed("a"), await embed([[1, 2], [3]])
        packed, short = await embed("a", encoding_format="base64"), await embed([7, 8], dimensions=3)
    first, second = [each["embedding"] for each in both["data"]]
    assert (both["object"], both["model"], [each["index"] for each in both["data"]]) == ("list", "m", [0, 1])
    assert first == one["data"][0]["embedding"] != second
    assert sum(number**2 for number in first) == pytest.approx(1.0, abs=1e-3)
    assert list(struct.unpack("<256f", base64.b64decode(packed["data"][0]["embedding"]))) == first
    assert [len(each["embedding"]) for each in [*tokens["data"], *short["data"]]] == [256, 256, 3]
    assert both["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_other_paths_fail_as_chats_do(session: aiohttp.ClientSession, path: str) -> None:
    asked = {"prompt": "x", "input": "x"}
    for faults, status in [({"rate_429": 1}, 429), ({"rate_5xx": 1, "status_5xx": 503}, 503)]:
        async with simulator(**faults) as url, session.post(url + path, json=asked) as response:
            assert response.status == status
    async with simulator(rate_malformed=1, malformed="no_choices") as url, session.post(url + path, json=asked) as each:
        answer = await each.json()
        assert answer.get("data", answer.get("choices")) == []


async def test_a_required_key(session: aiohttp.ClientSession) -> None:
    async with running(SimulatorOptions(api_key="open-sesame")) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "open-sesame"}):
            async with session.post(url + CHAT_PATH, json=body("x"), headers=headers) as response:
                assert response.status == 401
                assert (await response.json())["error"]["code"] == "invalid_api_key"
            async with session.get(url + "/v1/models", headers=headers) as response:
                assert response.status == 401
        right = {"Authorization": "Bearer open-sesame"}
        async with session.post(url + CHAT_PATH, json=body("x"), headers=right) as response:
            assert response.status == 200
        async with session.get(url + "/v1/models", headers=right) as response:
            assert response.status == 200
        stats = await get(session, url + "/stats")
    assert stats["outcomes"] == {"401": 3, "ok": 1}
    assert "open-sesame" not in repr(SimulatorOptions(api_key="open-sesame"))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (2.0, {"Retry-After": "2"}),
        (0.25, {"Retry-After": "1", "retry-after-ms": "250"}),
        (0.0, {}),
    ],
)
async def test_429_says_how_long_to_wait(
    session: aiohttp.ClientSession, seconds: float, expected: dict[str, str]
) -> None:
    async with simulator(rate_429=1, retry_after=seconds) as url:
        status, headers, content = await ask(session, url)
    assert status == 429
    assert orjson.loads(content)["error"]["code"] == "rate_limit_exceeded"
    assert {name: headers[name] for name in ("Retry-After", "retry-after-ms") if name in headers} == expected


async def test_arrivals_that_did_not_wait_are_counted(session: aiohttp.ClientSession) -> None:
    async def too_early() -> tuple[int, int]:
        stats = await get(session, url + "/stats")
        return stats["too_early"], stats["too_early_same_job"]

    async with simulator(rate_429=1, retry_after=60) as url:
        await ask(session, url, "one")
        assert await too_early() == (0, 0)
        await ask(session, url, "two")
        assert await too_early() == (1, 0)
        await ask(session, url, "one")
        assert await too_early() == (2, 1)

    async with simulator(rate_429=1, retry_after=0.05) as url:
        for _ in range(3):
            await ask(session, url, "one")
            await asyncio.sleep(0.06)
        assert await too_early() == (0, 0)


async def test_5xx_is_drawn_or_chosen(session: aiohttp.ClientSession) -> None:
    async with simulator(rate_5xx=1) as url:
        drawn = {(await ask(session, url, f"question {number}"))[0] for number in range(40)}
    assert drawn == {500, 502, 503}
    async with simulator(rate_5xx=1, status_5xx=504) as url:
        status, _, content = await ask(session, url)
    assert status == 504
    assert orjson.loads(content)["error"]["type"] == "server_error"


async def test_a_hanging_request_is_never_answered(session: aiohttp.ClientSession) -> None:
    async def hanging() -> bool:
        stats = await get(session, url + "/stats")
        return bool(stats["outcomes"].get("hang", 0) == 3 == stats["in_flight"])

    async def gone() -> bool:
        stats = await get(session, url + "/stats")
        return (stats["in_flight"], stats["abandoned"], stats["peak_in_flight"]) == (0, 3, 3)

    async with simulator(rate_hang=1) as url:
        calls = [asyncio.create_task(ask(session, url, f"question {number}")) for number in range(3)]
        await until(hanging)
        assert not any(call.done() for call in calls)
        for call in calls:
            call.cancel()
        await until(gone)


async def test_the_server_ends_although_requests_hang(session: aiohttp.ClientSession) -> None:
    async def arrived() -> bool:
        return bool((await get(session, url + "/stats"))["in_flight"])

    async with asyncio.timeout(DEADLINE), simulator(rate_hang=1) as url:
        call = asyncio.create_task(ask(session, url))
        await until(arrived)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await call


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_cut_before_the_answer(session: aiohttp.ClientSession, stream: bool) -> None:  # noqa: FBT001  a parameter of the test
    async with simulator(rate_cut=1, cut="before") as url:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await ask(session, url, stream=stream)
        stats = await get(session, url + "/stats")
    assert stats["outcomes"] == {"cut": 1}
    assert (stats["in_flight"], stats["abandoned"]) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_cut_amid_the_answer(session: aiohttp.ClientSession, stream: bool) -> None:  # noqa: FBT001  a parameter of the test
    async with simulator(rate_cut=1, cut="amid") as url:
        async with session.post(url + CHAT_PATH, json=body("Hello", stream=stream)) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        stats = await get(session, url + "/stats")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        content = orjson.dumps(body("Hello", stream=stream))
        writer.write(b"POST %b HTTP/1.1\r\nHost: x\r\n" % CHAT_PATH.encode())
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
        received = await asyncio.wait_for(reader.read(), DEADLINE)
        writer.close()
    assert b"chatcmpl-" in received
    assert b'finish_reason":"stop' not in received
    assert (stats["in_flight"], stats["abandoned"]) == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_malformed_bodies(session: aiohttp.ClientSession, stream: bool) -> None:  # noqa: FBT001  a parameter of the test
    async with simulator(rate_malformed=1, malformed="html") as url:
        status, headers, content = await ask(session, url, stream=stream)
        assert status == 200
        assert headers["Content-Type"].startswith("text/html")
        assert content.startswith(b"<html>")
    async with simulator(rate_malformed=1, malformed="half") as url:
        status, _, content = await ask(session, url, stream=stream)
        assert status == 200
        assert content.startswith(b'data: {"id"' if stream else b'{"id"')
        assert not content.endswith((b"\n\n", b"}"))
    async with simulator(rate_malformed=1, malformed="no_choices") as url:
        status, _, content = await ask(session, url, stream=stream)
        assert status == 200
        parts = chunks(content) if stream else [orjson.loads(content)]
        assert all(part["choices"] == [] for part in parts)


async def test_malformed_bodies_are_drawn(session: aiohttp.ClientSession) -> None:
    kinds = Counter[str]()
    async with simulator(rate_malformed=1) as url:
        for number in range(30):
            _, headers, content = await ask(session, url, f"question {number}")
            whole = content.endswith(b"}") and "no_choices"
            kinds["html" if "html" in headers["Content-Type"] else whole or "half"] += 1
    assert kinds.keys() == {"html", "half", "no_choices"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_body_is_good_but_takes_its_time(session: aiohttp.ClientSession, stream: bool) -> None:  # noqa: FBT001  a parameter of the test
    loop = asyncio.get_running_loop()
    async with simulator() as url:
        _, _, quick = await ask(session, url, stream=stream)
    async with simulator(rate_slow=1, slow_seconds=0.2) as url:
        began = loop.time()
        async with session.post(url + CHAT_PATH, json=body("Hello", stream=stream)) as response:
            assert response.status == 200
            parts = [part async for part in response.content.iter_any()]
        took = loop.time() - began
    assert took >= 0.199
    assert len(parts) > 3
    content = b"".join(parts)
    if stream:
        assert len(chunks(content)) == len(chunks(quick))
    else:
        assert orjson.loads(content)["choices"] == orjson.loads(quick)["choices"]


async def test_answers_take_the_time_they_are_told_to(session: aiohttp.ClientSession) -> None:
    loop = asyncio.get_running_loop()

    async def time_of(options: SimulatorOptions, **fields: Any) -> float:
        async with running(options) as url:
            began = loop.time()
            status, _, _ = await ask(session, url, max_tokens=10, **fields)
            assert status == 200
            return loop.time() - began

    assert await time_of(SimulatorOptions(latency=0.1)) >= 0.099
    assert await time_of(SimulatorOptions(latency=0.1), stream=True) >= 0.099
    assert await time_of(SimulatorOptions(ttft=0.1, per_token=0.01)) >= 0.199
    assert await time_of(SimulatorOptions(ttft=0.1, per_token=0.01), stream=True) >= 0.199


async def test_a_stream_begins_after_the_time_to_first_token(session: aiohttp.ClientSession) -> None:
    async with running(SimulatorOptions(ttft=0.05, per_token=60)) as url:
        began = asyncio.get_running_loop().time()
        async with session.post(url + CHAT_PATH, json=body("Hello", stream=True)) as response:
            first = await response.content.readline()
        assert asyncio.get_running_loop().time() - began >= 0.05
    assert first.startswith(b"data: ")


async def test_faults_change_at_run_time(session: aiohttp.ClientSession) -> None:
    async def change(content: Any) -> tuple[int, Any]:
        async with session.post(url + "/faults", json=content) as response:
            return response.status, await response.json()

    async with simulator() as url:
        assert (await ask(session, url))[0] == 200
        status, faults = await change({"rate_5xx": 1, "status_5xx": 503})
        assert status == 200
        assert (faults["rate_5xx"], faults["rate_429"]) == (1, 0)
        assert (await ask(session, url))[0] == 503

        wrong: Any
        for wrong in ({"rate_5xx": 2}, {"rate_nonsense": 0.1}, {"cut": "sideways"}, []):
            status, refusal = await change(wrong)
            assert status == 400
            assert all(name in refusal["error"]["message"] for name in wrong)
        status, refusal = await change({"rate_429": 0.6, "rate_cut": 0.6})
        assert (status, "add up to 1.2" in refusal["error"]["message"]) == (400, True)
        assert (await ask(session, url))[0] == 503

        assert (await change({}))[0] == 200
        assert (await ask(session, url))[0] == 200


def test_impossible_options_are_refused() -> None:
    wrong: Any
    for wrong in ({"rate_429": -0.1}, {"rate_cut": float("nan")}, {"rate_429": 0.5, "rate_hang": 0.51}):
        with pytest.raises(ValueError, match="rate"):
            Faults(**wrong)
    Faults(rate_429=0.7, rate_5xx=0.2, rate_hang=0.1)
    with pytest.raises(ValueError, match="excludes"):
        SimulatorOptions(latency=1, ttft=1)


async def test_requests_are_counted_by_job(session: aiohttp.ClientSession) -> None:
    async with simulator() as url:
        for prompt in ("one", "two", "two"):
            await ask(session, url, prompt, temperature=random.random())
        for prompt in ("one", "two"):
            await ask(session, url, prompt, user="job-7")
        stats = await get(session, url + "/stats")
    one, two = (fingerprint(body(prompt)["messages"]) for prompt in ("one", "two"))
    assert stats["jobs"] == {one: 1, two: 2, "job-7": 2}
    assert stats["requests"] == 5
    assert stats["outcomes"] == {"ok": 5}


def test_rates_are_kept() -> None:
    faults = Faults(rate_429=0.3, rate_5xx=0.05, rate_hang=0.1)
    fates = Counter[str](faults.draw(1, f"job {number}", 1)[0] for number in range(20_000))
    assert fates.keys() == {"429", "5xx", "hang", "ok"}
    for fate, rate in (("429", 0.3), ("5xx", 0.05), ("hang", 0.1)):
        assert abs(fates[fate] / 20_000 - rate) < 0.01
    assert {faults.draw(1, "one job", seen)[0] for seen in range(100)} == fates.keys()
    assert {Faults(rate_cut=1).draw(1, str(number), 1)[0] for number in range(1000)} == {"cut"}


async def test_the_same_seed_repeats_the_same_run_in_any_order(session: aiohttp.ClientSession) -> None:
    faults = Faults(rate_429=0.15, rate_5xx=0.15, rate_cut=0.2, rate_malformed=0.2, rate_slow=0.1, slow_seconds=0.01)

    async def what_became_of(url: str, prompt: str) -> str:
        try:
            status, headers, content = await ask(session, url, prompt)
        except aiohttp.ClientError as error:
            return type(error).__name__
        return f"{status} {headers['Content-Type']} {content[:20]!r} {len(content)}"

    async def play(seed: int, shuffled: int) -> dict[str, list[str]]:
        prompts = [f"question {number}" for number in range(60)]
        random.Random(shuffled).shuffle(prompts)
        seen: dict[str, list[str]] = {prompt: [] for prompt in prompts}

        async def lane(mine: list[str]) -> None:
            for prompt in mine * 3:
                seen[prompt].append(await what_became_of(url, prompt))

        async with running(SimulatorOptions(seed=seed, faults=faults)) as url, asyncio.TaskGroup() as lanes:
            for number in range(20):
                lanes.create_task(lane(prompts[number::20]))
        return seen

    first = await play(seed=7, shuffled=1)
    assert len({fate for fates in first.values() for fate in fates}) >= 7
    assert await play(seed=7, shuffled=2) == first
    assert await play(seed=8, shuffled=1) != first


COMMAND = [sys.executable, "-m", "greenscale_worker", "simulate"]


async def start(*options: str) -> asyncio.subprocess.Process:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Of what Python knows of: readline, which pytest imports, puts COLUMNS behind its back.
    return await asyncio.create_subprocess_exec(*COMMAND, *options, **pipes, env=dict(os.environ))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_serves_until_it_is_told_to_stop(
    session: aiohttp.ClientSession, number: signal.Signals
) -> None:
    process = await start("--port", "0", "--rate-5xx", "1", "--status-5xx", "503", "--api-key", "open-sesame")
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = (await process.stdout.readline()).decode()
        settings = dict(word.split("=", 1) for word in line.split() if "=" in word)
        chat = settings["NEYSA_API_URL"]
        assert chat == settings["OPENAI_BASE_URL"] + "/chat/completions"
        right = {"Authorization": "Bearer open-sesame"}
        async with session.post(chat, json=body("What is 2+2?"), headers=right) as response:
            assert response.status == 503
        async with session.post(chat, json=body("What is 2+2?")) as response:
            assert response.status == 401
        process.send_signal(number)
        async with asyncio.timeout(DEADLINE):
            rest, errors = await process.communicate()
        assert (process.returncode, rest, errors) == (0, b"", b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_command_says_in_one_line_what_is_wrong() -> None:
    async with running(SimulatorOptions()) as url:
        port = url.rsplit(":", 1)[1]
        for options, reason in (
            (["--port", port], f"cannot listen on 127.0.0.1 port {port}: Address already in use"),
            (["--rate-429", "1.5"], "argument --rate-429: '1.5' is not accepted; a number from 0 to 1 is expected"),
            (["--latency", "nan"], "argument --latency: 'nan' is not accepted; a number from 0 to 86400 is expected"),
            (["--status-5xx", "404"], "'404' is not accepted; a whole number from 500 to 599 is expected"),
            (["--api-key", ""], "argument --api-key: it is empty; a text is expected"),
            (["--rate-429", "0.6", "--rate-hang", "0.6"], "the rates add up to 1.2"),
            (["--latency", "1", "--ttft", "1"], "latency is the whole time"),
            (["--latency", "1", "--engine"], "engine says how long an answer takes"),
            (["--slots", "8"], "slots, steps and a queue are those of an engine inside; expected: --engine"),
        ):
            process = await start(*options)
            async with asyncio.timeout(DEADLINE):
                output, errors = await process.communicate()
            assert process.returncode == 2
            assert output == b""
            line = errors.decode().splitlines()[-1]  # perhaps below the usage
            assert line.startswith("greenscale-worker")
            assert reason in line
