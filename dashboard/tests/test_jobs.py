"""Jobs: lists by state, code and id, the record of one, and cancel and replay, each with a question first."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from conftest import Fake
from pages import open_page, words

TIMES = {
    "submitted_at": "2030-01-02T03:04:05Z",
    "claimed_at": "2030-01-02T03:04:06Z",
    "finished_at": "2030-01-02T03:04:16Z",
}


def some_jobs(count: int, **fields: Any) -> dict[str, Any]:
    return {f"job-{number:03}": {"id": f"job-{number:03}", "state": "waiting", **fields} for number in range(count)}


def dead_letters(*codes: str) -> dict[str, Any]:
    letters = [
        {"id": f"d{number}", "job_id": f"job-{number}", "code": code, "message": "no", "attempts": 3, "payload": "{}"}
        for number, code in enumerate(codes)
    ]
    return {letter["id"]: letter for letter in letters}


def listed(page: AppTest) -> list[str]:
    return [each.label.strip("`") for each in page.button if (each.key or "").partition("-")[0] in {"job", "letter"}]


def press(page: AppTest, label: str) -> AppTest:
    (button,) = [each for each in page.button if each.label == label]
    return button.click().run()


def show_dead_letters() -> AppTest:
    page = open_page("jobs")
    page.session_state["view"] = "Dead letters"
    return page.run()


def test_jobs_are_listed_page_by_page(fake: Fake) -> None:
    fake.set(jobs=some_jobs(45))
    page = open_page("jobs")
    seen = listed(page)
    for _ in range(2):
        press(page, "More")
        seen += listed(page)
    assert seen == [f"job-{number:03}" for number in range(45)]
    assert page.button(key="jobs-more").disabled
    press(page, "Back")
    assert listed(page)[0] == "job-020"


def test_a_page_that_is_gone_can_be_left(fake: Fake) -> None:
    fake.set(jobs=some_jobs(45))
    page = press(open_page("jobs"), "More")
    fake.instead("GET /v1/jobs", 404, {"detail": "after: 'job-019' is not in this list (any more); begin anew"})
    assert "begin anew" in words(page.run())
    fake.set(instead={})
    press(page, "First page")
    assert listed(page)[0] == "job-000"


def test_jobs_are_listed_by_state_and_by_code(fake: Fake) -> None:
    failed = {"job-x": {"id": "job-x", "state": "failed", "error": {"code": "http_400", "message": "no"}, **TIMES}}
    fake.set(jobs=some_jobs(45) | failed)
    page = press(open_page("jobs"), "More")
    page.selectbox(key="jobs_state").select("failed").run()
    assert listed(page) == ["job-x"]
    assert "ran 10 s" in words(page)
    page.selectbox(key="jobs_state").set_value(None)
    page.text_input(key="jobs_code").input("too_old").run()
    assert "There are no such jobs" in words(page)


def test_a_job_is_found_by_its_id_and_shown_with_all_that_is_known(fake: Fake) -> None:
    job = {
        "id": "job-1", "state": "succeeded", "class": "interactive", "tenant": "a", "attempts": 2, "crashes": 1,
        "worker": "pod-a:1", "model": "m/1", "finish_reason": "stop", "metadata": {"team": "physics"}, "result": "4",
        "usage": {"prompt_tokens": 11, "completion_tokens": 2}, **TIMES,
    }  # fmt: skip
    fake.set(jobs={"job-1": job})
    page = open_page("jobs")
    page.text_input(key="jobs_find").input(" job-1 ").run()
    assert page.query_params["job"] == "job-1"
    said = words(page)
    for part in ("interactive", "pod-a:1", "m/1", "stop", "11 in, 2 out", "03:04:16", "10 s", "11 s", "succeeded"):
        assert part in said, part
    assert [each.value for each in page.code] == ["job-1", "4"]
    assert '"team"' in page.json[0].value
    press(page, "Close")
    assert "job" not in page.query_params


def test_a_job_opens_from_the_list(fake: Fake) -> None:
    fake.set(jobs=some_jobs(3))
    page = open_page("jobs")
    page.button(key="job-1").click().run()
    assert page.code[0].value == "job-001"


def test_cancelling_asks_first(fake: Fake) -> None:
    fake.set(jobs=some_jobs(1))
    page = open_page("jobs", job="job-000")
    assert "Cancel this job?" in words(page)
    assert not fake.requests("DELETE")
    press(page, "Yes, cancel it")
    assert fake.requests("DELETE")[0]["path"] == "/v1/jobs/job-000"
    assert "is cancelled" in words(page)


@pytest.mark.parametrize(
    ("then", "said"), [("cancelling", "when a worker comes to it"), ("succeeded", "had ended before")]
)
def test_what_became_of_a_cancellation_is_told(fake: Fake, then: str, said: str) -> None:
    fake.set(jobs=some_jobs(1))
    page = open_page("jobs", job="job-000")
    fake.instead("DELETE /v1/jobs/job-000", 202, {"id": "job-000", "state": then})
    assert said in words(press(page, "Yes, cancel it"))


def test_a_cancellation_that_fails_says_so(fake: Fake) -> None:
    fake.set(jobs=some_jobs(1))
    page = open_page("jobs", job="job-000")
    fake.instead("DELETE /v1/jobs/job-000", 403, {"detail": "the key lacks the scope cancel"})
    assert "the key lacks the scope cancel" in words(press(page, "Yes, cancel it"))


def test_dead_letters_are_listed_by_code(fake: Fake) -> None:
    fake.set(dead=dead_letters("http_400", "too_old", "http_400"))
    page = show_dead_letters()
    assert listed(page) == ["job-0", "job-1", "job-2"]
    page.selectbox(key="dead_code").select("http_400").run()
    assert listed(page) == ["job-0", "job-2"]


def test_one_dead_letter_is_replayed_after_a_question(fake: Fake) -> None:
    fake.set(dead=dead_letters("http_400"))
    page = show_dead_letters()
    page.button(key="letter-0").click().run()
    assert "Replay it?" in words(page)
    assert not fake.requests("POST")
    press(page, "Yes, replay it")
    assert fake.requests("POST")[0]["path"] == "/v1/dead/d0/replay"
    assert "is replayed" in words(page)
    assert "There are no dead letters" in words(page)


def test_a_failed_job_is_replayed_from_its_record(fake: Fake) -> None:
    failed = {"id": "j", "state": "failed", "error": {"code": "http_400", "message": "no"}, **TIMES}
    fake.set(jobs={"j": failed}, dead={"j": dead_letters("http_400")["d0"]})
    press(open_page("jobs", job="j"), "Yes, replay it")
    assert fake.requests("POST")[0]["path"] == "/v1/dead/j/replay"


def test_all_with_a_code_are_replayed_after_a_question_that_counts_them(fake: Fake) -> None:
    fake.set(dead=dead_letters(*["http_400"] * 344, "too_old"))
    page = show_dead_letters()
    page.selectbox(key="dead_code").select("http_400").run()
    assert "Replay all 344 dead letters" in words(page)
    assert not fake.requests("POST")
    press(page, "Yes, replay them")
    assert fake.requests("POST")[0]["body"] == {"code": "http_400"}
    assert "344 with the code `http_400` are replayed" in words(page)
    assert listed(page) == ["job-344"]
