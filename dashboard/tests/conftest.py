"""What the tests of the page stand on: a gateway of theirs, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

FAKE = Path(__file__).with_name("fake_gateway.py")


class Fake:
    """The fake gateway, as a test sets it."""

    def __init__(self, port: int = 0) -> None:
        self._process = subprocess.Popen((sys.executable, FAKE, str(port)), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def set(self, **parts: Any) -> None:
        requests.put(f"{self.url}/fake", json.dumps(parts), timeout=10).raise_for_status()

    def instead(self, call: str, status: int, body: Any = None, **more: Any) -> None:
        self.set(instead={call: {"status": status, "body": body or {}, **more}})

    def requests(self, method: str) -> list[dict[str, Any]]:
        came = requests.get(f"{self.url}/fake", timeout=10).json()["requests"]
        return [each for each in came if each["method"] == method]

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def one_fake() -> Iterator[Fake]:
    fake = Fake()
    yield fake
    fake.stop()


@pytest.fixture
def fake(one_fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Fake:
    one_fake.set(stats={}, history={}, jobs={}, dead={}, events={}, batches={}, lines={}, key=None, instead={})
    monkeypatch.setenv("GREENSCALE_GATEWAY_URL", one_fake.url)
    monkeypatch.delenv("GREENSCALE_GATEWAY_KEY", raising=False)
    return one_fake
