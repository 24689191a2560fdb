"""The page in Chromium, before a gateway that is set as the test needs it: how it looks, and what it never does."""

import re
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from browser import DESK, PHONE, Reader, open_chromium
from conftest import Fake
from system import free_port, page, until
from test_errors import NASTY
from test_now import HISTORY, STATS
from test_savings import history

PATHS = ("?job=a", "now", "jobs?job=b", "batches?batch=c", "savings")
RESULT = f"{NASTY}\n# Head\n" + "without_a_space" * 60


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chrome = open_chromium(tmp_path_factory.mktemp("browser"))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def served(one_fake: Fake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = page(tmp_path_factory.mktemp("page"), free_port(), one_fake.url, script=True)
    program.start()
    yield program.url
    program.stop()


@pytest.fixture
def reader(chrome: webdriver.Chrome, served: str) -> Reader:
    reader = Reader(chrome, served)
    chrome.get("about:blank")
    reader.hosts()
    return reader


@pytest.fixture
def nasty(fake: Fake) -> Fake:
    """A gateway that says what it can to break a page."""
    job = {
        "state": "failed", "worker": NASTY, "model": NASTY, "class": NASTY, "metadata": {NASTY: NASTY},
        "error": {"code": NASTY, "message": NASTY * 20},
    }  # fmt: skip
    jobs = {"a": {"id": "a", "state": "succeeded", "result": RESULT, "model": NASTY}, "b": job | {"id": "b"}}
    jobs |= {f"{number}{NASTY}": job | {"id": f"{number}{NASTY}"} for number in range(5)}
    run = {"id": NASTY * 3, "attempts": 2, "since_seconds": 3}
    workers = [{"name": NASTY * 3, "why": NASTY * 5, "running": [run] * 9}]
    stats = STATS | {"queue": NASTY, "reasons": [NASTY * 9], "workers": workers}
    faults = [{"code": NASTY, "message": NASTY * 5, "line": 7}] * 3
    batch = {"status": NASTY, "endpoint": NASTY, "model": NASTY * 3, "errors": {"data": faults}}
    batches = {name: batch | {"id": name} for name in ("c", f"d{NASTY}")}
    fake.set(stats=stats, history=HISTORY | history(), jobs=jobs, batches=batches)
    return fake


@pytest.mark.usefixtures("nasty")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_nothing_from_outside_becomes_more_than_text(reader: Reader, path: str, size: tuple[int, int]) -> None:
    reader.open(path, size)
    if path != "savings":
        reader.sees("<script>alert(1)</script>", "$x^2$")
    inside = "document.querySelectorAll('[data-testid=stMain] {}').length"
    for forbidden in ("img", "script", ".katex", "a[href*=invalid]", "b"):
        assert reader.ask(inside.format(forbidden)) == 0, forbidden
    assert "\N{SMILING FACE WITH OPEN MOUTH AND SMILING EYES}" not in reader.text()
    assert reader.ask("document.documentElement.scrollWidth <= innerWidth")
    main = "document.querySelector('[data-testid=stMain]')"
    assert reader.ask(f"{main}.scrollWidth <= {main}.clientWidth"), "the page does not scroll sideways"
    assert reader.hosts() <= {"127.0.0.1"}


@pytest.mark.usefixtures("nasty")
@pytest.mark.parametrize("path", PATHS)
def test_it_is_dark_in_the_dark(reader: Reader, path: str) -> None:
    colour = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
    for dark in (False, True):
        reader.open(path, dark=dark)
        red = int(reader.ask(colour).removeprefix("rgb(").partition(",")[0])
        assert (red < 60) is dark


def test_the_parts_are_one_click_away_also_on_a_phone(reader: Reader, fake: Fake) -> None:
    fake.set(stats=STATS, history=HISTORY | history())
    reader.open()
    for name, seen in (
        ("Now", "Workers: 2"), ("Jobs", "There are no such jobs"), ("Batches", "There are no batches"),
        ("Savings", "Replicas over time"),
    ):  # fmt: skip
        reader.click(name)
        reader.sees(seen)
    reader.open(size=PHONE)
    opener = "[data-testid=stExpandSidebarButton]"
    until(lambda: reader.chrome.find_elements(By.CSS_SELECTOR, opener))[0].click()
    reader.click("Now")
    reader.sees("Workers: 2")


def test_a_day_has_24_hours_and_begins_with_its_date(reader: Reader, fake: Fake) -> None:
    hours = [f"2030-01-0{2 + hour // 24}T{hour % 24:02}:00:00Z" for hour in range(14, 32)]
    fake.set(history=history() | {"series": [{"at": at, "replica_seconds": 900} for at in hours]})
    reader.chrome.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "UTC"})
    reader.open("savings")
    chart = "document.querySelector('[data-testid=stVegaLiteChart]').innerText"
    reader.sees("16:00", "Thu 03", "02:00")
    assert not re.search(r"\b[AP]M\b", reader.ask(chart))


def test_the_pieces_of_an_answer_appear_while_it_is_written(reader: Reader, fake: Fake) -> None:
    fake.set(jobs={"a": {"id": "a", "state": "running"}}, events={"a": ["Once"]})
    reader.open("?job=a")
    reader.sees("A worker is on it", "Once")
    fake.set(events={"a": ["Once", " upon", " a time"]})
    reader.sees("Once upon a time")
    fake.set(jobs={"a": {"id": "a", "state": "succeeded", "result": "Once upon a time."}})
    reader.sees("Answered", "Once upon a time.")
    asked = len(fake.requests("GET"))
    reader.ask("new Promise(done => setTimeout(done, 2000))")
    assert len(fake.requests("GET")) == asked, "what has ended is not asked for again"


def test_a_pause_is_meant(reader: Reader, fake: Fake) -> None:
    fake.set(stats=STATS, history=HISTORY)
    reader.open("now")
    reader.sees("1,204")
    fake.set(stats=STATS | {"depth": {"waiting": 1203}})
    reader.sees("1,203")
    reader.switch("Live")
    reader.sees("Paused")
    fake.set(stats=STATS | {"depth": {"waiting": 1202}})
    reader.ask("new Promise(done => setTimeout(done, 3000))")
    assert not fake.requests("GET")
    reader.switch("Live")
    reader.sees("1,202")


def test_a_tab_that_is_closed_stops_asking(reader: Reader, fake: Fake) -> None:
    fake.set(stats=STATS, history=HISTORY)
    reader.open("now")
    reader.sees("1,204")
    reader.chrome.get("about:blank")
    fake.set(stats=STATS)
    reader.ask("new Promise(done => setTimeout(done, 3000))")
    assert len(fake.requests("GET")) <= 1, "one may be under way"


def test_an_answer_of_a_megabyte_leaves_the_page_usable(reader: Reader, fake: Fake) -> None:
    fake.set(jobs={"a": {"id": "a", "state": "succeeded", "result": "lorem ipsum " * 90_000}})
    reader.open("?job=a", PHONE)
    reader.sees("Download all of it")
    reader.fill("Prompt", "usable")
    assert reader.field("Prompt").get_attribute("value") == "usable"
