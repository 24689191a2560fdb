"""A platform as processes, and a person with a browser: on a desk or a phone, in the light or in the dark."""

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

DESK, PHONE = (1280, 900), (390, 844)
PATIENCE = 60.0
SERVER = Path(__file__).with_name("page_server.py")
Value = TypeVar("Value")


def until(condition: Callable[[], Value], seconds: float = PATIENCE) -> Value:
    """Wait until it holds, and give what it gave. A page that changes meanwhile, or an AssertionError, is no answer."""
    ends = time.monotonic() + seconds
    while True:
        why: Exception | None = None
        try:
            if value := condition():
                return value
        except (AssertionError, StaleElementReferenceException) as error:
            why = error
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {seconds:g} s: {why}") from why
        time.sleep(0.05)


class Platform:
    """The control plane and the door, each a process of its own."""

    def __init__(self, data: Path, science: Path, redis_url: str, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.data = data
        self._science = science
        named = {"KUBESERVE_DATA": str(data), "KUBESERVE_PORT": str(self.port), "REDIS_URL": redis_url}
        own = {name: os.environ[name] for name in ("PATH", "TMPDIR")}
        self._env = {**own, "HOME": str(data), "KUBESERVE_SECRET": "s" * 40, **named, **settings}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start `serve` or `door`, and wait until the former answers."""
        command = [str(SERVER), str(self._science)] if name == "serve" else ["-m", "kubeserve.cli", "door"]
        with (self.data / f"{name}.log").open("ab") as log:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            argv = [sys.executable, *command]
            self._running[name] = subprocess.Popen(argv, env=self._env, cwd=self.data, **streams)  # noqa: S603  ours
        if name == "serve":
            until(self._answers)

    def kill(self, name: str) -> None:
        """As a power cut would."""
        process = self._running.pop(name)
        process.kill()
        process.wait(PATIENCE)

    def close(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)

    def _answers(self) -> bool:
        log = (self.data / "serve.log").read_text()
        assert self._running["serve"].poll() is None, log[-2000:]
        try:
            with urllib.request.urlopen(f"{self.url}/login", timeout=5):  # noqa: S310  ours
                return True
        except OSError:
            return False


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Open a browser without a window."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("chromium and chromedriver are not on PATH (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in ("headless", "no-sandbox", "disable-background-networking", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


class Reader:
    """What a person sees and does. `faults` are what the browser complained of."""

    def __init__(self, chrome: webdriver.Chrome, url: str) -> None:
        self.chrome = chrome
        self.url = url
        self.look(DESK)

    def look(self, size: tuple[int, int], *, dark: bool = False) -> None:
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, path: str) -> None:
        self.chrome.get(self.url + path)

    @property
    def path(self) -> str:
        return self.chrome.current_url.removeprefix(self.url)

    def comes_to(self, start: str) -> str:
        """Wait until the address begins so, and give its last part."""
        until(lambda: self.path.startswith(start) and self.ask("document.readyState") == "complete")
        return self.path.rpartition("/")[2]

    def find(self, css: str) -> WebElement:
        return until(lambda: self.chrome.find_elements(By.CSS_SELECTOR, css))[0]

    def text(self, css: str = "body") -> str:
        """What is read there, on one line."""
        return " ".join(str(until(lambda: self.chrome.find_elements(By.CSS_SELECTOR, css))[0].text).split())

    def sees(self, *parts: str, at: str = "body", seconds: float = PATIENCE) -> None:
        def seen() -> bool:
            shown = self.text(at)
            missing = [part for part in parts if part not in shown]
            assert not missing, f"{missing} in {shown}"
            return True

        until(seen, seconds)

    def fill(self, css: str, text: str) -> None:
        field = self.find(css)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.DELETE)

    def click(self, css: str) -> None:
        def clicked() -> bool:
            found = [each for each in self.chrome.find_elements(By.CSS_SELECTOR, css) if each.is_displayed()]
            enabled = [each for each in found if each.is_enabled()]
            if enabled:
                self.chrome.execute_script("arguments[0].click()", enabled[0])
            return bool(enabled)

        until(clicked)

    def submit(self, form: str) -> None:
        self.click(f"{form} button:not([type=button])")

    def confirm(self) -> None:
        until(lambda: self.ask("document.getElementById('question').open"))
        self.click("#question-yes")

    def ask(self, script: str) -> Any:
        return self.chrome.execute_script(f"return {script}")

    def drop(self, css: str, *paths: Path) -> None:
        """Drop files on an element, as from a file manager."""
        self.chrome.execute_script(
            """
            const files = document.createElement("input");
            Object.assign(files, { type: "file", id: "dropped", multiple: true });
            document.body.append(files);
            """
        )
        self.chrome.find_element(By.ID, "dropped").send_keys("\n".join(map(str, paths)))
        self.chrome.execute_script(
            """
            const files = document.getElementById("dropped"), data = new DataTransfer();
            for (const file of files.files) data.items.add(file);
            files.remove();
            for (const name of ["dragenter", "dragover", "drop"]) {
              const event = new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true });
              document.querySelector(arguments[0]).dispatchEvent(event);
            }
            """,
            css,
        )

    def faults(self) -> list[str]:
        return [each["message"] for each in self.chrome.get_log("browser")]

    def picture(self, path: Path) -> None:
        """The whole page."""
        height = max(int(self.ask("document.documentElement.scrollHeight")), 300)
        width = int(self.ask("document.documentElement.clientWidth"))
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        wanted = {"format": "png", "clip": clip, "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.chrome.execute_cdp_cmd("Page.captureScreenshot", wanted)["data"]))
