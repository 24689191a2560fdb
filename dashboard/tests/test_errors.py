"""Whatever goes wrong, each part of the page says what, and what to do; and nothing from outside breaks it."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from conftest import Fake
from greenscale_dashboard import gateway
from greenscale_dashboard.records import Batch, DeadLetter, History, Job, Savings, Stats, Worker
from pages import open_page, words

PARTS = ("now", "jobs", "batches", "savings")
every_part = pytest.mark.parametrize("part", [*PARTS, "ask"])
NASTY = "`a` <b>b</b> <script>alert(1)</script> $x^2$ [l](http://e.invalid) ![p](http://e.invalid/p) :smile: \x00\ud800"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return an address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("GREENSCALE_GATEWAY_URL", url := f"http://127.0.0.1:{port}")
    return url


@every_part
def test_no_gateway(nobody: str, part: str) -> None:
    page = open_page(part, job="a")
    assert not page.exception
    assert "No gateway answers at http" in (said := words(page).replace("\\", "").replace("\u2060", ""))
    assert nobody in said
    assert "connection refused" in said
    assert "GREENSCALE_GATEWAY_URL" in said


@every_part
@pytest.mark.parametrize("url", ["127.0.0.1:8400", "http://", "nonsense", "http://[", "ftp://x"])
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, part: str, url: str) -> None:
    monkeypatch.setenv("GREENSCALE_GATEWAY_URL", url)
    page = open_page(part, job="a")
    assert not page.exception
    assert "this is no address" in words(page)


ANSWERS: dict[str, tuple[int, Any, str]] = {
    "Redis away": (503, {"title": "The queue does not answer", "detail": "redis at 127.0.0.1:1"}, "does not answer"),
    "Redis full": (503, {"title": "The queue takes no more jobs"}, "takes no more jobs"),
    "a proxy without it": (503, "<html>", "cannot reach its queue"),
    "key refused": (401, {"detail": "unknown key"}, "asks for a key, and this page has none"),
    "scope missing": (403, {"detail": "the scope read is missing"}, "does not let this page do this"),
    "limit": (429, {"detail": "100 requests a minute"}, "limit is reached"),
    "fault": (500, {"detail": "x"}, "The gateway failed"),
    "bad gateway": (502, "<html>bad gateway</html>", "The gateway failed"),
    "a new version": (418, {"title": "A teapot"}, "A teapot"),
    "not a gateway": (200, "<html>hello</html>", "does not speak as a gateway does"),
    "a list": (200, [1, 2], "does not speak as a gateway does"),
    "sent elsewhere": (302, {}, "sends us elsewhere"),
    "deep": (200, "[" * 100_000, "does not speak as a gateway does"),
}


@every_part
@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_an_error(fake: Fake, part: str, case: str) -> None:
    status, body, expected = ANSWERS[case]
    fake.instead("*", status, body)
    page = open_page(part, job="a")
    assert not page.exception
    said = words(page).replace("\\", "")
    assert expected in said
    if isinstance(body, dict) and "detail" in body:
        assert body["detail"] in said.replace("\u2060", "")


def test_a_key_that_is_refused_is_told_and_never_shown(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.set(key="gs_a_right")
    monkeypatch.setenv("GREENSCALE_GATEWAY_KEY", "gs_a_wrong")
    said = words(open_page("now"))
    assert "refuses the key of this page" in said
    assert "gs_a_wrong" not in said
    monkeypatch.setenv("GREENSCALE_GATEWAY_KEY", "gs_a_right\n")
    assert "Workers" not in said
    assert not open_page("now").error


def test_a_gateway_that_drips_is_given_up(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "ANSWER_SECONDS", 0.3)
    fake.instead("GET /v1/stats", 200, " " * 1000, drip=0.05)
    assert "no answer in time" in words(open_page("now"))


def test_an_answer_without_end_is_given_up(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "LARGEST", 1024 * 1024)
    fake.instead("GET /v1/stats", 200, " " * 3_000_000)
    assert "more than 1 MiB" in words(open_page("now"))


STRANGE: list[Any] = [
    {}, None, [], "text", 0, -1, 1e308, 10**400, True, float("nan"), {"a": {"b": []}}, [[]], [None], [{}], [""],
    NASTY, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "x" * 100_000,
]  # fmt: skip
FIELDS = {
    "now": ["queue", "at", "depth", "rate_per_second", "remaining_seconds", "reasons", "workers", "totals", "series",
            "step_seconds", "since"],
    "batches": ["status", "endpoint", "model", "created_at", "expires_at", "completed_at", "request_counts", "errors"],
    "savings": ["since", "until", "step_seconds", "series", "savings"],
    "ask": ["id", "state", "submitted_at", "finished_at", "attempts", "crashes", "worker", "model", "finish_reason",
            "usage", "metadata", "error", "result"],
}  # fmt: skip
FIELDS["jobs"] = FIELDS["ask"]
INSIDE = {
    "depth": ["waiting", "oldest_seconds", "paused"], "workers": ["name", "beat_seconds", "why", "running", "lanes"],
    "series": ["at", "ended", "call_seconds", "replica_seconds"], "usage": ["prompt_tokens"], "metadata": ["k"],
    "error": ["code", "message"],
    "savings": ["replicas_always_on", "window_seconds", "saved_replica_seconds", "saved", "price_per_replica_hour"],
}  # fmt: skip
LISTS = {"workers", "series", "reasons"}


@every_part
@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_a_field_of_another_kind_breaks_nothing(fake: Fake, part: str, number: int) -> None:
    strange = STRANGE[number]
    answer: dict[str, Any] = {"state": "succeeded", "id": "a"} if part in {"ask", "jobs"} else {}
    for name in FIELDS[part]:
        inside: Any = dict.fromkeys(INSIDE.get(name, []), strange) or strange
        answer[name] = [inside] if name in LISTS else inside
    listed = {"data": [answer], "has_more": True, "last_id": strange}
    instead = {f"GET /v1/{name}": {"status": 200, "body": listed} for name in ("jobs", "batches")}
    fake.set(stats=answer, history=answer, jobs={"a": answer}, batches={"a": answer}, instead=instead)
    page = open_page(part, job="a", batch="a")
    assert not page.exception
    assert not page.error or part in {"ask", "jobs"}


@pytest.mark.parametrize(
    "read", [Job.read, Batch.read, DeadLetter.read, Stats.read, History.read, Savings.read, Worker.read]
)
def test_every_record_can_be_read_of_anything(read: Callable[[Any], Any]) -> None:
    for strange in STRANGE:
        read(strange)
        read(dict.fromkeys({name for names in (*FIELDS.values(), *INSIDE.values()) for name in names}, strange))


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_strange_dead_letters_break_nothing(fake: Fake, number: int) -> None:
    strange = STRANGE[number]
    letter = dict.fromkeys(("id", "job_id", "code", "message", "attempts", "died_at", "payload"), strange)
    listed = {"data": [letter], "has_more": True, "last_id": strange}
    codes = {"data": [{"code": strange, "count": strange}]}
    answers = {"GET /v1/dead": listed, "GET /v1/dead/codes": codes, "GET /v1/dead/d": letter}
    fake.set(instead={call: {"status": 200, "body": body} for call, body in answers.items()})
    page = open_page("jobs", letter="d")
    page.session_state["view"] = "Dead letters"
    assert not page.run().exception


@pytest.mark.parametrize("job_id", [".", "..", "a/b", "a?b#c", "ä ö", "%2e%2e", "`", NASTY])
def test_odd_ids_are_looked_up_as_they_are_or_refused(fake: Fake, job_id: str) -> None:
    page = open_page("jobs", job=job_id.encode("utf-8", "replace").decode())
    assert not page.exception
    assert "No job can be looked up" in words(page) or "knows nothing of it" in words(page)
    asked = [each["path"] for each in fake.requests("GET") if each["path"] != "/v1/jobs"]
    assert asked in ([], [f"/v1/jobs/{job_id.encode('utf-8', 'replace').decode()}"])


def test_an_answer_of_a_megabyte_is_cut_and_can_be_downloaded(fake: Fake) -> None:
    fake.set(jobs={"a": {"id": "a", "state": "succeeded", "result": "ab" * 524_288}})
    page = open_page("ask", job="a")
    assert len(page.code[0].value) == 20_000
    assert "of 1,048,576 characters" in words(page)
    assert page.download_button[0].label == "Download all of it"


def test_an_answer_is_text_until_the_reader_chooses_markdown(fake: Fake) -> None:
    fake.set(jobs={"a": {"id": "a", "state": "succeeded", "result": "# Big"}})
    page = open_page("ask", job="a")
    assert page.code[0].value == "# Big"
    assert not any(each.value == "# Big" for each in page.markdown)
    page.toggle(key="ask-markdown").set_value(True).run()
    assert any(each.value == "# Big" for each in page.markdown)
