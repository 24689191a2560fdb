"""The page in a real browser, before the whole system: what a person does with it, on a desk and on a phone."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from tests.support.redis_server import RedisServer

from system import System, until

DESK, PHONE = (1280, 900), (390, 844)
SMALLEST_TARGET = 44  # CSS pixels that a finger needs
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

    def ask(self, script: str) -> Any:
        return self.chrome.execute_script(f"return {script}")

    def faults(self) -> list[str]:
        return [each["message"] for each in self.chrome.get_log("browser")]


@pytest.fixture
def page(chrome: webdriver.Chrome, system: System) -> Iterator[Page]:
    with system.database() as db:
        db.delete("site_readings:site-001", "{site_readings:site-001}:by_time")
    page = Page(chrome, system)
    page.faults()
    yield page
    assert not page.faults(), "the browser has nothing to complain of"


def post(system: System, *readings: dict[str, Any]) -> None:
    request = urllib.request.Request(f"{system.url('ingest')}/readings", json.dumps(readings).encode())  # noqa: S310  ours
    with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310  ours
        assert reply.status == 202


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
    assert "the newest: 12.5 by meter-07" in (page.element("chart").get_attribute("aria-label") or "")


def test_readings_of_others_appear_by_themselves(page: Page, system: System) -> None:
    page.open()
    post(system, READING, READING | {"timestamp": "2024-01-15T10:31:00Z", "device_id": "meter-43"})
    until(lambda: [row[1:] for row in page.rows()] == [["meter-43", "1500.5"], ["meter-42", "1500.5"]])
    assert page.text("legend").split() == ["meter-42", "meter-43"]
    assert page.ask("document.querySelectorAll('#chart .line').length") == 2


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
    page.open()
    page.fill(shown="site-777" + Keys.ENTER)
    until(lambda: len(page.rows()) == 1)
    assert page.chrome.current_url.endswith("?site=site-777")
    page.open(path="/?site=site-777")
    assert len(page.rows()) == 1


def test_older_readings_are_a_button_away(page: Page, system: System) -> None:
    post(system, *(READING | {"timestamp": f"2024-01-15T{10 + n // 60}:{n % 60:02}:00Z"} for n in range(80)))
    page.open()
    until(lambda: len(page.rows()) == 50)
    page.element("older").click()
    until(lambda: len(page.rows()) == 80)
    assert not page.element("older").is_displayed()


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
    assert all(0 <= height <= 240 for height in heights)


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_it_fits_and_can_be_used_by_anybody(page: Page, system: System, size: tuple[int, int]) -> None:
    post(system, READING, READING | {"device_id": "m" * 64, "power_reading": -123456.789})
    page.open(size)
    until(lambda: len(page.rows()) == 2)
    assert page.ask("document.documentElement.scrollWidth <= window.innerWidth"), "nothing lies beside the screen"
    for control in page.chrome.find_elements(By.CSS_SELECTOR, "input, button"):
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
