"""Ask: a prompt goes in, the answer comes, or the page says where to find it later, or what is wrong."""

import uuid
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from conftest import Fake
from greenscale_dashboard import ask
from pages import open_page, words

SUBMITTED = {"submitted_at": "2030-01-02T03:04:05Z", "finished_at": "2030-01-02T03:04:08Z"}


def answered(text: str, **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 11, "completion_tokens": 1234, "total_tokens": 1245}
    return {"id": "a", "state": "succeeded", "result": text, "model": "m/1", "usage": usage, **SUBMITTED, **more}


def type_and_ask(page: AppTest, prompt: str = "What is 2+2?") -> AppTest:
    page.text_area(key="ask_prompt").input(prompt)
    return page.button[0].click().run()


def test_a_prompt_is_handed_in_with_a_uuid_and_the_page_keeps_its_address(fake: Fake) -> None:
    page = open_page("ask")
    job_id = page.text_input(key="ask_id").value
    assert str(uuid.UUID(job_id)) == job_id
    type_and_ask(page)
    assert not page.exception
    assert fake.requests("POST")[0]["body"] == {"job_id": job_id, "prompt": "What is 2+2?", "tokens": True}
    assert page.query_params["job"] == job_id
    assert page.text_input(key="ask_id").value != job_id
    assert page.status[0].state == "running"
    assert "Waits for a worker" in words(page)


def test_the_id_and_the_limits_can_be_chosen(fake: Fake) -> None:
    page = open_page("ask")
    page.text_input(key="ask_id").input(" mine-1 ")
    page.text_input(key="ask_model").input("m/2")
    page.number_input(key="ask_temperature").set_value(0.5)
    page.number_input(key="ask_max_tokens").set_value(64)
    page.checkbox(key="ask_tokens").uncheck()
    type_and_ask(page, "Why?")
    chosen = {"job_id": "mine-1", "prompt": "Why?", "model": "m/2", "temperature": 0.5, "max_tokens": 64}
    assert fake.requests("POST")[0]["body"] == chosen


def test_an_empty_prompt_is_not_handed_in(fake: Fake) -> None:
    page = type_and_ask(open_page("ask"), "  ")
    assert "There is no prompt" in words(page)
    assert not fake.requests("POST")


def test_the_answer_is_shown_with_what_it_cost(fake: Fake) -> None:
    fake.set(jobs={"a": answered("4")})
    page = open_page("ask", job="a")
    assert page.code[0].value == "4"
    assert page.status[0].label == "Answered after 3 s"
    assert "11 tokens in" in words(page)
    assert "1,234 out" in words(page)


def test_the_pieces_of_an_answer_are_shown_as_they_come(fake: Fake) -> None:
    fake.set(jobs={"a": {"id": "a", "state": "running", "worker": "w-1"}}, events={"a": ["Once ", "upon"]})
    page = open_page("ask", job="a")
    assert page.code[0].value == "Once upon"
    assert "w-1" in words(page)
    fake.set(events={"a": ["Once ", "upon", " a time"]})
    assert page.run().code[0].value == "Once upon a time"
    fake.set(jobs={"a": answered("Once upon a time.")})
    page.run()
    assert page.code[0].value == "Once upon a time."
    assert page.status[0].state == "complete"


def test_what_a_run_that_was_cut_off_wrote_is_not_glued_to_what_the_next_one_writes(fake: Fake) -> None:
    fake.set(jobs={"a": {"id": "a", "state": "running"}}, events={"a": ["Once ", "upon"]})
    page = open_page("ask", job="a")
    fake.set(events={"a": ["Once ", "upon", None]})
    assert not page.run().code
    fake.set(events={"a": ["Once ", "upon", None, "There ", "was"]})
    assert page.run().code[0].value == "There was"
    assert page.run().code[0].value == "There was"


def test_a_gateway_without_events_answers_all_the_same(fake: Fake) -> None:
    fake.set(jobs={"a": {"id": "a", "state": "running"}})
    fake.instead("GET /v1/jobs/a/events", 404)
    assert "A worker is on it" in words(open_page("ask", job="a"))


def test_after_a_minute_the_page_says_where_to_find_the_answer(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.set(jobs={"a": {"id": "a", "state": "waiting"}})
    assert "greenscale-worker status" not in words(open_page("ask", job="a"))
    monkeypatch.setattr(ask, "WAIT_SECONDS", 0.0)
    said = words(open_page("ask", job="a"))
    assert "greenscale-worker status a" in said
    assert "Jobs" in said


def test_a_failed_job_says_why(fake: Fake) -> None:
    error = {"code": "http_400", "message": "no such model: `m`"}
    fake.set(jobs={"a": {"id": "a", "state": "failed", "error": error, **SUBMITTED}})
    page = open_page("ask", job="a")
    assert page.status[0].state == "error"
    assert "http\\_400" in page.error[0].value
    assert "no such model" in page.error[0].value
    assert "replayed" in words(page)


def test_a_failed_attempt_is_told_while_the_job_goes_on(fake: Fake) -> None:
    error = {"code": "http_503", "message": "overloaded"}
    fake.set(jobs={"a": {"id": "a", "state": "delayed", "error": error, "worker": "w", "attempts": 2, "crashes": 1}})
    page = open_page("ask", job="a")
    assert "overloaded" in page.warning[0].value
    assert "run 2, taken over after 1 crash\n" in words(page)


def test_a_job_nobody_knows_is_told_as_such(fake: Fake) -> None:  # noqa: ARG001  it knows nothing
    assert "knows nothing of it" in words(open_page("ask", job="gone"))


@pytest.mark.parametrize("state", ["waiting", "running", "delayed", "held", "scheduled", "cancelling", "newfangled"])
def test_every_open_state_has_a_spinner(fake: Fake, state: str) -> None:
    fake.set(jobs={"a": {"id": "a", "state": state}})
    page = open_page("ask", job="a")
    assert not page.exception
    assert page.status[0].state == "running"


def test_where_handing_in_fails_the_id_stays_so_that_asking_again_is_safe(fake: Fake) -> None:
    page = open_page("ask")
    job_id = page.text_input(key="ask_id").value
    fake.instead("POST /v1/jobs", 503, {"detail": "Redis at 127.0.0.1:1 does not answer"})
    type_and_ask(page)
    assert "Press Ask again" in words(page)
    assert "Redis at" in words(page)
    assert page.text_input(key="ask_id").value == job_id
    fake.set(instead={})
    page.button[0].click().run()
    assert not page.error
    assert fake.requests("POST")[0]["body"]["job_id"] == job_id
