"""The page in a real browser, before the whole system: what a person does with it, on a desk and on a phone."""

import itertools
import json
import shutil
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from harness.redis_server import RedisServer
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from system import System, until

PAGE = 500
DESK, PHONE = (1280, 900), (390, 844)
SMALLEST_TARGET = 44  # CSS pixels that a finger needs
WHOLE_TIME = 240  # that a field needs to show a date and a time
READING = {"site_id": "site-001", "device_id": "meter-42", "power_reading": 1500.5, "timestamp": "2024-01-15T10:30:00Z"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, shared_server: RedisServer) -> Iterator[System]:
    with System(tmp_path_factory.mktemp("system"), shared_server) as system:
        yield system


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not on PATH (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("browser")
    for flag in ("headless", "no-sandbox", "disable-background-networking", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


class Page:
    """What a person sees and does. `faults` are what the browser complained of."""

    def __init__(self, chrome: webdriver.Chrome, system: System) -> None:
        self.chrome = chrome
        self._url = system.url("page")

    def open(self, size: tuple[int, int] = DESK, path: str = "/") -> None:
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.chrome.get(self._url + path)
        until(lambda: self.text("live").startswith("Live"))

    def element(self, name: str) -> WebElement:
        return self.chrome.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self.element(name).text

    def fill(self, **values: str) -> None:
        for name, value in values.items():
            field = self.element(name)
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(value or Keys.DELETE)

    def submit(self) -> None:
        self.chrome.find_element(By.CSS_SELECTOR, "#submit button").click()

    def rows(self) -> list[list[str]]:
        script = "return [...document.querySelectorAll('#rows tr')].map(r => [...r.cells].map(c => c.textContent))"
        return list(self.chrome.execute_script(script))

    def newest_of_page(self) -> tuple[int, int]:
        """Say how many readings the table has, and the power of the newest."""
        rows = self.rows()
        return len(rows), int(rows[0][2]) if rows else -1

    def choose_time(self, name: str, text: str) -> None:
        script = "const [field, text] = arguments; field.value = text; field.dispatchEvent(new Event('change'))"
        self.chrome.execute_script(script, self.element(name), text)

    def local(self, timestamp: str) -> str:
        """Write a time as the field for it has it: in the browser's zone."""
        script = "const t = new Date(arguments[0]); return new Date(t - t.getTimezoneOffset() * 6e4).toISOString()"
        return str(self.chrome.execute_script(script, timestamp))[:16]

    def drawn(self) -> list[str]:
        return list(self.ask("[...document.querySelectorAll('#chart g title')].map(title => title.textContent)"))

    def ask(self, script: str) -> Any:
        return self.chrome.execute_script(f"return {script}")

    def faults(self) -> list[str]:
        return [each["message"] for each in self.chrome.get_log("browser")]


@pytest.fixture
def page(chrome: webdriver.Chrome, system: System) -> Iterator[Page]:
    with system.database() as db:
        db.delete("{site_readings}:sites", *db.keys("*site_readings:*"))
    page = Page(chrome, system)
    page.faults()
    yield page
    assert not page.faults(), "the browser has nothing to complain of"


def post(system: System, *readings: dict[str, Any]) -> None:
    request = urllib.request.Request(f"{system.url('ingest')}/readings", json.dumps(readings).encode())  # noqa: S310  ours
    with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310  ours
        assert reply.status == 202


def at(minute: int) -> str:
    """Write a time, so many minutes after the morning began."""
    return f"2024-01-15T{minute // 60:02}:{minute % 60:02}:00Z"


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_what_is_submitted_appears(page: Page, system: System, size: tuple[int, int]) -> None:
    page.open(size)
    assert page.element("none").is_displayed()
    page.fill(device_id="meter-07", power_reading="12,5")
    page.submit()
    until(lambda: page.text("submitted") == "Accepted: 12.5 from meter-07.")
    until(lambda: [row[1:] for row in page.rows()] == [["meter-07", "12.5"]])
    assert [each["power_reading"] for each in system.stored("site-001")] == [12.5]
    assert page.element("power_reading").get_property("value") == ""
    assert "the newest: 12.5 W by meter-07" in (page.element("chart").get_attribute("aria-label") or "")


def test_readings_of_others_appear_by_themselves(page: Page, system: System) -> None:
    page.open()
    post(system, READING, READING | {"timestamp": "2024-01-15T10:31:00Z", "device_id": "meter-43"})
    until(lambda: [row[1:] for row in page.rows()] == [["meter-43", "1500.5"], ["meter-42", "1500.5"]])
    assert page.text("legend").split() == ["meter-42", "meter-43"]
    assert sorted(page.drawn()) == ["meter-42", "meter-43"]


def test_every_device_has_a_line_that_no_other_has(page: Page, system: System) -> None:
    devices = [f"meter-{number}" for number in range(1, 33)]
    post(system, *(READING | {"device_id": device, "timestamp": at(m)} for device in devices for m in range(3)))
    page.open()
    until(lambda: len(page.rows()) == 3 * len(devices))
    assert sorted(page.drawn()) == sorted(devices)
    looks = (
        "(where) => [...document.querySelectorAll(where)].map(getComputedStyle).map(s => s.stroke + s.strokeDasharray)"
    )
    drawn = page.ask(f"({looks})('#chart .line')")
    assert len(set(drawn)) == len(devices)
    assert sorted(page.ask(f"({looks})('#legend .line')")) == sorted(drawn)
    assert page.text("legend").split() == devices, "2 before 10"


def test_devices_can_be_chosen_and_keep_their_looks(page: Page, system: System) -> None:
    post(system, *(READING | {"device_id": f"m{n}", "power_reading": 10.0**n} for n in range(5)))
    page.open()
    until(lambda: len(page.drawn()) == 5)
    look = "[...document.querySelectorAll('#chart g')].find(g => g.textContent === 'm1').className.baseVal"
    before = page.ask(look)
    buttons = page.chrome.find_elements(By.CSS_SELECTOR, "#legend button")
    buttons[1].click()
    assert page.drawn() == ["m1"]
    assert page.ask(look) == before
    post(system, READING | {"device_id": "m0", "timestamp": at(40)})
    until(lambda: len(page.rows()) == 6)
    assert page.drawn() == ["m1"], "what comes meanwhile changes no choice"
    buttons[3].click()
    assert sorted(page.drawn()) == ["m1", "m3"]
    assert [button.get_attribute("aria-pressed") for button in buttons] == ["false", "true", "false", "true", "false"]
    for button in (buttons[1], buttons[3]):
        button.click()
    assert len(page.drawn()) == 5


def test_a_fault_is_told_beside_its_field(page: Page) -> None:
    page.open()
    page.fill(site_id="no such id", power_reading="much")
    page.submit()
    until(lambda: "are accepted" in page.text("site_id-fault"))
    assert "number" in page.text("power_reading-fault")
    assert page.element("site_id").get_attribute("aria-invalid") == "true"
    assert page.chrome.switch_to.active_element.get_attribute("id") == "site_id"
    page.fill(site_id="site-001", power_reading="1")
    page.submit()
    until(lambda: page.text("submitted"))
    assert page.text("site_id-fault") == page.text("power_reading-fault") == ""
    assert all("422" in fault for fault in page.faults()), "of what was refused on purpose the browser tells"


def test_another_site_is_shown_and_stays_in_the_address(page: Page, system: System) -> None:
    post(system, READING | {"site_id": "site-777"})
    page.open(path="/?site=site-001")
    sites = Select(page.element("shown"))
    until(lambda: [option.text for option in sites.options] == ["site-001", "site-777"])
    assert not page.rows()
    sites.select_by_value("site-777")
    until(lambda: len(page.rows()) == 1)
    assert page.chrome.current_url.endswith("?site=site-777")
    page.open(path="/?site=site-777")
    assert len(page.rows()) == 1


def test_the_page_opens_with_the_site_of_the_newest_reading(page: Page, system: System) -> None:
    post(
        system, READING | {"site_id": "a"}, READING | {"site_id": "b", "timestamp": at(700)}, READING | {"site_id": "c"}
    )
    until(lambda: all(system.stored(site) for site in "abc"))
    page.open()
    assert page.element("shown").get_property("value") == page.element("site_id").get_property("value") == "b"
    assert [option.text for option in Select(page.element("shown")).options] == ["a", "b", "c"]


def test_a_list_that_has_not_all_sites_says_so(page: Page, system: System) -> None:
    post(system, READING | {"site_id": "oldest", "timestamp": at(1)})
    post(system, *(READING | {"site_id": f"s{number}"} for number in range(1000)))
    until(lambda: system.stored("s999"))
    page.open(PHONE, "/?site=oldest")
    assert page.text("more-sites") == "Listed are the 1000 sites with the newest readings, of 1001."
    assert len(Select(page.element("shown")).options) == 1001, "and the one that is shown"
    until(lambda: len(page.rows()) == 1)


def test_older_readings_are_a_button_away(page: Page, system: System) -> None:
    for first in (0, PAGE):
        post(system, *(READING | {"power_reading": n, "timestamp": at(n)} for n in range(first, first + PAGE)))
    post(system, READING | {"power_reading": 2 * PAGE, "timestamp": at(2 * PAGE)})
    pages = [(PAGE, 2 * PAGE), (PAGE, PAGE), (1, 0)]
    page.open()
    until(lambda: page.newest_of_page() == pages[0])
    assert not page.element("newer").is_displayed()
    for button, shown in (("older", pages[1]), ("older", pages[2]), ("newer", pages[1]), ("newer", pages[0])):
        page.element(button).click()
        until(lambda shown=shown: page.newest_of_page() == shown)
        assert f"{shown[0]} readings of 1 devices" in (page.element("chart").get_attribute("aria-label") or "")
        assert page.element("newer").is_displayed() == (shown != pages[0])
        assert page.element("older").is_displayed() == (shown != pages[2])


def test_a_time_can_be_chosen_and_stays_in_the_address(page: Page, system: System) -> None:
    post(system, *(READING | {"timestamp": at(n)} for n in range(60)))
    page.open()
    until(lambda: len(page.rows()) == 60)
    page.choose_time("from", page.local(at(10)))
    until(lambda: len(page.rows()) == 50)
    page.choose_time("to", page.local(at(19)))
    until(lambda: len(page.rows()) == 10)
    assert "10 readings" in page.text("period")
    page.chrome.refresh()
    until(lambda: len(page.rows()) == 10)
    page.choose_time("from", page.local(at(20)))
    until(lambda: page.text("period-fault") == "From is later than to.")
    until(lambda: page.element("none").is_displayed())
    page.element("any-time").click()
    until(lambda: len(page.rows()) == 60)
    assert page.text("period-fault") == ""
    assert not page.element("any-time").is_displayed()


def test_what_devices_are_called_is_text(page: Page, system: System) -> None:
    with system.database() as db:
        hostile = json.dumps(READING | {"device_id": "<img src=x onerror=alert(1)>"})
        db.zadd("{site_readings:site-001}:by_time", {hostile: 1})
    page.open()
    until(lambda: page.rows()[0][1] == "<img src=x onerror=alert(1)>")
    assert page.ask("document.querySelectorAll('main img').length") == 0


@pytest.mark.parametrize("powers", [[0, 0], [1e308, -1e308], [5e-324, 0], [1e17, 1e17 + 16], [-3.5, -3.25]])
def test_any_number_can_be_drawn(page: Page, system: System, powers: list[float]) -> None:
    times = ["2024-01-15T10:30:00Z", "2024-01-15T10:31:00Z"]
    post(system, *(READING | {"power_reading": p, "timestamp": t} for p, t in zip(powers, times, strict=True)))
    page.open()
    until(lambda: page.ask("document.querySelectorAll('#chart .dot').length") == 2)
    drawn = page.ask("document.getElementById('chart').innerHTML")
    assert "NaN" not in drawn
    assert "Infinity" not in drawn
    heights = page.ask("[...document.querySelectorAll('#chart .dot')].map(dot => Number(dot.getAttribute('cy')))")
    assert all(0 <= height <= 260 for height in heights)


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize(
    ("power", "unit"),
    [
        (0.004, "mW"),
        (999, "W"),
        (1500, "kW"),
        (-2.5e12, "TW"),
        (1e17 + 16, "PW"),
        (1e31, "QW"),
        (1e308, "\u00d710³⁰⁶ W"),
    ],
)
def test_labels_of_any_magnitude_are_whole(
    page: Page, system: System, size: tuple[int, int], power: float, unit: str
) -> None:
    near = power * 0.9999999
    post(
        system,
        READING | {"power_reading": power},
        READING | {"power_reading": near, "timestamp": "2023-12-31T23:00:00Z"},
    )
    page.open(size)
    until(lambda: len(page.rows()) == 2)
    texts = page.ask(
        "[...document.querySelectorAll('#chart > text')].map(t => [t.textContent, t.getBoundingClientRect().toJSON()])"
    )
    assert texts[0][0] == unit
    labels = [label for label, _ in texts]
    assert len(set(labels)) == len(labels), "no two labels look alike"
    frame = page.ask("document.getElementById('chart').getBoundingClientRect().toJSON()")
    for label, box in texts:
        assert frame["left"] - 1 <= box["left"], label
        assert box["right"] <= frame["right"] + 1, label
    places = [box for _, box in texts]
    for one, other in itertools.combinations(places, 2):
        beside = one["right"] <= other["left"] or other["right"] <= one["left"]
        assert beside or one["bottom"] <= other["top"] + 4 or other["bottom"] <= one["top"] + 4


@pytest.mark.parametrize(("own", "shown"), [("W", "kW"), ("kW", "MW"), ("mVA", "VA"), ("TWh", "PWh")])
def test_a_unit_with_a_prefix_is_shown_with_the_one_that_fits(page: Page, own: str, shown: str) -> None:
    page.open()
    script = "import('/numbers.js').then(({inUnit}) => arguments[1](inUnit(1500, arguments[0]).unit))"
    assert page.chrome.execute_async_script(script, own) == shown


def test_the_unit_is_said(page: Page, system: System) -> None:
    post(system, READING)
    page.open()
    until(lambda: len(page.rows()) == 1)
    assert page.text("power") == "Power (W)"
    assert page.element("power_reading").accessible_name == "Power reading (W)"
    assert "1500.5 W by meter-42" in (page.element("chart").get_attribute("aria-label") or "")


def test_on_a_phone_the_chart_comes_before_the_form_and_is_seen_at_once(page: Page, system: System) -> None:
    post(system, READING)
    page.open(PHONE, "/?site=site-001&from=2023-12-31T22:00")
    until(lambda: len(page.rows()) == 1)
    assert page.element("from").size["width"] >= WHOLE_TIME
    chart, form = page.element("chart").rect, page.element("submit").rect
    assert chart["y"] + chart["height"] <= PHONE[1]
    assert chart["y"] < form["y"]


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_it_fits_and_can_be_used_by_anybody(page: Page, system: System, size: tuple[int, int]) -> None:
    post(system, READING, READING | {"device_id": "m" * 64, "power_reading": -123456.789})
    page.open(size, "/?site=site-001&from=2020-01-01T00:00")
    until(lambda: len(page.rows()) == 2)
    assert page.ask("document.documentElement.scrollWidth <= window.innerWidth"), "nothing lies beside the screen"
    for control in page.chrome.find_elements(By.CSS_SELECTOR, "input, select, button"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
            assert control.size["height"] >= SMALLEST_TARGET
    assert page.element("chart").accessible_name
    assert page.ask("document.documentElement.lang") == "en"


def test_an_api_that_is_away_is_told(page: Page) -> None:
    page.open()
    page.chrome.execute_cdp_cmd("Network.enable", {})
    page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/api/*"]})
    page.fill(power_reading="1")
    page.submit()
    until(lambda: "does not answer" in page.text("refused"))
    until(lambda: page.text("live") == "Not live")
    assert page.element("power_reading").get_property("value") == "1", "what was typed is still there"
    page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    until(lambda: page.text("live").startswith("Live"))
    page.faults()  # the browser may have told of it
