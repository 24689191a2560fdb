"""Before the whole system, in Chromium: an answer, also with a worker killed; and each part away, and back."""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from browser import Reader, open_chromium
from conftest import Fake
from system import System, until


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("system"))
    try:
        system.start()
        yield system
    finally:
        system.stop()


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chrome = open_chromium(tmp_path_factory.mktemp("browser"))
    yield chrome
    chrome.quit()


@pytest.fixture
def reader(chrome: webdriver.Chrome, system: System) -> Iterator[Reader]:
    yield Reader(chrome, system.page.url)
    system.faults()


def hand_in(reader: Reader, prompt: str) -> str:
    """Open the page, ask, and return the id."""
    reader.open()
    reader.click("Id, model and limits")
    job_id = str(uuid.uuid4())
    reader.fill("Job id", job_id)
    reader.fill("Prompt", prompt)
    reader.click("Ask")
    reader.sees(job_id)
    return job_id


def test_a_prompt_is_answered(reader: Reader, system: System) -> None:
    job_id = hand_in(reader, "What is 2+2?")
    reader.sees("Answered after")
    answer = system.job(f"{job_id}?include=result")["result"]
    reader.sees(answer)
    assert reader.hosts() == {"127.0.0.1"}
    reader.open(f"jobs?job={job_id}")
    reader.sees("succeeded", answer)
    reader.open("now")
    reader.sees("Workers: 1", "runs 0 of 16 lanes", "Waiting\n0")
    reader.open("savings")
    reader.sees("Always on", "Measured")


def test_an_answer_is_read_while_it_is_written(reader: Reader, system: System) -> None:
    system.endpoint.stop()
    system.slow_endpoint.start()
    try:
        job_id = hand_in(reader, "Tell me all about it.")
        written = until(lambda: reader.ask("document.querySelector('[data-testid=stCode]')?.innerText"))
        reader.sees("Answered after")
    finally:
        system.slow_endpoint.stop()
        system.endpoint.start()
    answer = system.job(f"{job_id}?include=result")["result"]
    assert answer.startswith(written)
    assert len(written) < len(answer)


def test_a_worker_killed_while_the_page_is_open_costs_no_answer(reader: Reader, system: System) -> None:
    system.slow(20)
    job_id = hand_in(reader, "What is 3+3?")
    until(lambda: system.job(job_id)["state"] == "running")
    reader.sees("A worker is on it")
    system.worker.kill()
    system.faults()
    system.worker.start()
    reader.sees("Answered after")
    assert system.job(job_id)["state"] == "succeeded"
    assert system.job(job_id)["crashes"] == 1


def test_a_batch_is_handed_in_outlives_a_killed_worker_and_its_answers_are_saved(
    reader: Reader, system: System, tmp_path: Path
) -> None:
    names = [f"line-{number}" for number in range(64)]
    body = {"model": "m", "messages": [{"role": "user", "content": "What is 9+9?"}]}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps({"custom_id": name, **line}) + "\n" for name in names))
    system.faults(rate_slow=0.25, slow_seconds=60)  # some are answered, and some are not while this worker lives
    reader.open("batches")
    reader.click("Hand in a file")
    reader.upload(requests)
    reader.click("Begin")
    reader.sees("is the batch", "in_progress")
    until(lambda: re.search(r"[1-9]\d* answered, 0 failed, of 64", reader.text()))
    system.worker.kill()
    system.faults()
    system.worker.start()
    reader.sees("completed", "64 answered, 0 failed, of 64")
    reader.save_in(tmp_path)
    reader.click("Get the answers")
    reader.click("Save 64 lines")
    (saved,) = until(lambda: list(tmp_path.glob("batch_*-output.jsonl")))
    answers = [json.loads(each) for each in saved.read_text().splitlines()]
    assert sorted(each["custom_id"] for each in answers) == sorted(names)
    assert {each["response"]["status_code"] for each in answers} == {200}


def test_a_gateway_that_is_stopped_is_told_and_its_return_is_seen(reader: Reader, system: System) -> None:
    reader.open("now")
    reader.sees("Workers: 1")
    system.gateway.stop()
    reader.sees("No gateway answers at", "connection refused")
    system.gateway.start()
    reader.sees("Workers: 1")
    assert "No gateway answers" not in reader.text()


def test_a_job_is_watched_across_an_outage_of_the_gateway(reader: Reader, system: System) -> None:
    system.slow(10)
    job_id = hand_in(reader, "What is 4+4?")
    until(lambda: system.job(job_id)["state"] == "running")
    system.gateway.stop()
    reader.sees("No gateway answers at", "is not lost by this")
    system.gateway.start()
    reader.sees("Answered after")


def test_a_redis_that_is_away_is_told_and_its_return_is_seen(reader: Reader, system: System) -> None:
    reader.open("now")
    reader.sees("Workers: 1")
    system.redis.stop()
    reader.sees("The queue does not answer", "Is Redis up?")
    system.redis.start()
    reader.sees("Workers: 1")


def test_an_endpoint_that_is_ill_is_told(reader: Reader, system: System) -> None:
    system.endpoint.stop()
    job_id = hand_in(reader, "What is 5+5?")
    reader.sees("it is tried again", "endpoint")
    reader.open("now")
    reader.sees("Delayed\n1", "endpoint")
    system.endpoint.start()
    reader.open(f"?job={job_id}")
    reader.sees("Answered after")


def test_a_job_that_fails_says_why_and_is_replayed_after_a_question(reader: Reader, system: System) -> None:
    system.endpoint.stop()
    refusing = Fake(system.endpoint.port)
    try:
        refusing.instead("*", 400, {"error": {"message": "max_tokens is too large"}})
        job_id = hand_in(reader, "What is 6+6?")
        reader.sees("Failed after", "http_400", "max_tokens is too large", "kept as a dead letter")
    finally:
        refusing.stop()
        system.endpoint.start()
    reader.open("jobs")
    reader.click("Dead letters")
    reader.sees("max_tokens is too large")
    reader.click(job_id)
    reader.click("Payload")
    reader.sees("What is 6+6?")
    reader.click("Replay")
    reader.click("Yes, replay it")
    reader.sees("is replayed")
    until(lambda: system.job(job_id)["state"] == "succeeded")


def test_a_job_that_waits_is_cancelled_after_a_question(reader: Reader, system: System) -> None:
    system.slow(20)
    job_id = hand_in(reader, "What is 7+7?")
    reader.open(f"jobs?job={job_id}")
    reader.click("Cancel")
    reader.sees("Cancel this job?")
    assert system.job(job_id)["state"] == "running"
    reader.click("Yes, cancel it")
    reader.sees("is cancelled")
    assert system.job(job_id)["state"] == "cancelled"


def test_an_id_that_no_job_can_have_is_refused(reader: Reader) -> None:
    reader.open()
    reader.fill("Prompt", "What is 8+8?")
    reader.click("Id, model and limits")
    reader.fill("Job id", "a b")
    reader.click("Ask")
    reader.sees("No job can have this id", "a b")
