"""A person's browser: Chromium without a window, on a desk or a phone, in the light or in the dark."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from system import until

DESK, PHONE = (1280, 900), (390, 844)


def open_chromium(profile: Path) -> webdriver.Chrome:
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not on PATH (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-background-networking", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


class Reader:
    """What a person sees and does."""

    def __init__(self, chrome: webdriver.Chrome, url: str) -> None:
        self.chrome, self._url = chrome, url

    def open(self, path: str = "", size: tuple[int, int] = DESK, *, dark: bool = False) -> None:
        self.look(size, dark=dark)
        self.chrome.get(f"{self._url}/{path}")
        until(lambda: self.chrome.find_elements(By.TAG_NAME, "h1"))

    def look(self, size: tuple[int, int], *, dark: bool = False) -> None:
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size[0] == PHONE[0]}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def text(self) -> str:
        try:
            return self.chrome.find_element(By.TAG_NAME, "body").text
        except StaleElementReferenceException:
            return ""

    def sees(self, *parts: str) -> None:
        def seen() -> bool:
            shown = self.text()
            missing = [part for part in parts if part not in shown]
            assert not missing, f"{missing} in {shown}"
            return True

        until(seen)

    def field(self, label: str) -> WebElement:
        found: WebElement = until(lambda: self.chrome.find_elements(By.CSS_SELECTOR, f"[aria-label='{label}']"))[0]
        return found

    def fill(self, label: str, text: str) -> None:
        field = self.field(label)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text)

    def click(self, text: str) -> None:
        """Click on a button, a link or a head that says this, in the page before its menu, once it is enabled."""
        script = """
            const all = ["[data-testid=stMain] ", ""].flatMap(place =>
                [...document.querySelectorAll(["button", "a", "summary"].map(each => place + each).join())]);
            const says = (each, text) => each.innerText.split("\\n").some(line => line.trim() === text);
            const found = all.find(each => says(each, arguments[0]) && each.offsetParent && !each.disabled);
            if (found) found.click();
            return Boolean(found);
        """
        until(lambda: self.chrome.execute_script(script, text))

    def switch(self, label: str) -> None:
        """Switch a toggle."""
        until(lambda: self.chrome.find_elements(By.CSS_SELECTOR, f"input[aria-label^='{label}']"))
        self.chrome.execute_script(f"document.querySelector(\"input[aria-label^='{label}']\").click()")

    def ask(self, script: str) -> Any:
        return self.chrome.execute_script(f"return {script}")

    def upload(self, file: Path) -> None:
        """Choose a file."""
        until(lambda: self.chrome.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(str(file))
        self.sees(file.name)

    def save_in(self, folder: Path) -> None:
        """Say where downloads go."""
        where = {"behavior": "allow", "downloadPath": str(folder)}
        self.chrome.execute_cdp_cmd("Browser.setDownloadBehavior", where)

    def picture(self) -> bytes:
        shot = self.chrome.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": 80})
        return base64.b64decode(shot["data"])

    def hosts(self) -> set[str]:
        """Return all the hosts that the browser has asked for anything since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        urls = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        return {urlsplit(url).hostname or "" for url in urls if url.startswith(("http", "ws"))}
