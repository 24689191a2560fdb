"""Batches: a file handed in, how far it is, what came of it, and cancel and ask again, each with a question first."""

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from conftest import Fake
from pages import open_page, words

LINES = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}\n'


def batch(batch_id: str = "batch_1", status: str = "in_progress", **fields: Any) -> dict[str, Any]:
    counts = {"total": 50_000, "completed": 12_000, "failed": 500}
    known = {"id": batch_id, "status": status, "created_at": 1_893_553_445, "request_counts": counts}
    return {batch_id: {**known, "endpoint": "/v1/chat/completions", **fields}}


def press(page: AppTest, label: str) -> AppTest:
    (button,) = [each for each in page.button if each.label == label]
    return button.click().run()


def test_a_file_is_handed_in_and_its_batch_is_opened(fake: Fake) -> None:
    page = open_page("batches")
    page.file_uploader(key="batch_file").upload("requests.jsonl", LINES, "application/jsonl")
    page.selectbox(key="batch_window").select("7d")
    press(page, "Begin")
    upload, begun = fake.requests("POST")
    assert upload["path"] == "/v1/files"
    assert LINES.decode() in upload["body"]
    assert 'name="purpose"\r\n\r\nbatch' in upload["body"]
    assert begun["body"] == {
        "input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "7d"
    }  # fmt: skip
    assert page.query_params["batch"] == "batch_0"
    assert "is the batch `batch_0`" in words(page)
    assert "validating" in words(page)


def test_without_a_file_nothing_is_sent(fake: Fake) -> None:
    assert "There is no file" in words(press(open_page("batches"), "Begin"))
    assert not fake.requests("POST")


def test_batches_are_listed_page_by_page_with_how_far_they_are(fake: Fake) -> None:
    fake.set(batches={name: each for n in range(25) for name, each in batch(f"batch_{n:02}").items()})
    page = open_page("batches")
    assert "12,500 of 50,000" in words(page)
    assert "500 failed" in words(page)
    assert "`batch_00`" in [each.label for each in page.button]
    press(page, "More")
    assert "`batch_24`" in [each.label for each in page.button]


def test_the_progress_of_a_batch_is_shown(fake: Fake) -> None:
    fake.set(batches=batch())
    page = open_page("batches", batch="batch_1")
    (progress,) = page.get("progress")
    assert progress.proto.value == 25
    assert progress.proto.text == "12,000 answered, 500 failed, of 50,000"


@pytest.mark.parametrize(("part", "label"), [("output", "answers"), ("errors", "errors")])
def test_what_has_come_so_far_can_be_saved(fake: Fake, part: str, label: str) -> None:
    fake.set(batches=batch(), lines={f"/v1/batches/batch_1/{part}": "{}\n{}\n"})
    page = press(open_page("batches", batch="batch_1"), f"Get the {label} so far")
    (saved,) = page.get("download_button")
    assert saved.proto.label == "Save 2 lines"


def test_cancelling_asks_first(fake: Fake) -> None:
    fake.set(batches=batch())
    page = open_page("batches", batch="batch_1")
    assert "Cancel this batch?" in words(page)
    assert not fake.requests("POST")
    press(page, "Yes, cancel it")
    assert [each["path"] for each in fake.requests("POST")] == ["/v1/batches/batch_1/cancel"]
    assert "Answers so far are kept" in words(page)


def test_what_failed_is_asked_again_after_a_question(fake: Fake) -> None:
    fake.set(batches=batch(status="completed", error_file_id="file-2", completed_at=1_893_553_545))
    page = open_page("batches", batch="batch_1")
    assert "1 min 40 s" in words(page)
    assert "Cancel" not in [each.label for each in page.button]
    press(page, "Yes, ask again")
    assert page.query_params["batch"] == "batch_again"


def test_what_made_a_batch_fail_is_told_line_by_line(fake: Fake) -> None:
    faults = [{"code": "duplicate_custom_id", "line": 7, "message": "an <b>earlier</b> line", "param": "custom_id"}]
    faults += [{"code": "empty_file", "line": None, "message": "nothing", "param": None}]
    none = {"total": 0, "completed": 0, "failed": 0}
    fake.set(batches=batch(status="failed", errors={"object": "list", "data": faults}, request_counts=none))
    page = open_page("batches", batch="batch_1")
    said = words(page).replace("\\", "").replace("\u2060", "")
    assert "line 7: duplicate_custom_id: an <b>earlier</b> line" in said
    assert "empty_file: nothing" in said
    assert len(page.error) == 1, "fifty boxes would hide the page"
    assert not page.get("progress")
    assert not [each.label for each in page.button if each.label.startswith("Get")], "there is nothing to get"


def test_a_batch_that_was_cancelled_is_told_by_what_was_answered(fake: Fake) -> None:
    counts = {"total": 20_000, "completed": 327, "failed": 19_673}
    fake.set(batches=batch(status="cancelled", request_counts=counts))
    assert "327 of 20,000 answered · 19,673 failed" in words(open_page("batches"))


def test_a_gateway_without_files_is_told_with_what_to_set(fake: Fake) -> None:
    for call in ("GET /v1/batches", "POST /v1/files"):
        fake.instead(call, 501, {"detail": "files_not_configured"})
        page = open_page("batches")
        page.file_uploader(key="batch_file").upload("requests.jsonl", LINES, "application/jsonl")
        assert "GREENSCALE_FILES" in words(press(page, "Begin"))
