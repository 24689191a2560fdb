"""What README and the quick starts print works as it is printed, where nothing but make is on the PATH."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree as ET

import orjson
import pytest

from bench import terminal
from harness.checkout import ROOT, Checkout, check_out
from harness.eventually import eventually
from harness.redis_server import free_port
from tests.support.endpoint import PATH, completion

UP = "Ctrl-C stops all of it"


def blocks(page: str, language: str = "") -> list[str]:
    """The blocks of code of a page, shell lines where no language is named."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def block(page: str, containing: str, language: str = "") -> str:
    """The one block with these words."""
    (found,) = (text for text in blocks(page, language) if containing in text)
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return check_out(tmp_path, {"REDIS_PORT": str(free_port())})


def test_readme_the_demo(checkout: Checkout) -> None:
    line, up, tests = block("README.md", "make demo").splitlines()
    assert "50" in checkout.type(line)
    assert up.startswith("make up ")
    assert "pytest" in checkout.type(f"{tests.partition('#')[0]} --dry-run")


async def test_readme_up_and_what_is_typed_meanwhile(checkout: Checkout) -> None:
    submit, jobs, python = block("README.md", "SyncClient").splitlines()
    push, get = block("README.md", "LPUSH").splitlines()
    with checkout.running("make up", until=UP) as said:
        assert checkout.type(submit) == "4\n"
        assert "succeeded" in checkout.type(jobs)
        assert checkout.type(python) == "4\n"
        assert checkout.type(push) == "1\n"
        await eventually(lambda: checkout.type(get) == "4\n")
        os.kill(worker(said.read_text()), signal.SIGKILL)
        assert checkout.type(submit) == "4\n"
    assert "stopping Valkey" in said.read_text()


def test_make_dashboard_says_what_takes_a_minute_and_lets_up_name_the_page(checkout: Checkout) -> None:
    (checkout.path / "dashboard").mkdir()
    (checkout.path / "dashboard/requirements.txt").touch()
    said = checkout.type("make dashboard --dry-run")
    assert "`make dashboard`" in (ROOT / "README.md").read_text()
    *before, last = said.splitlines()
    assert "about a minute" in said.partition("dashboard/requirements.txt")[0]
    assert last.rstrip() == ".venv/bin/greenscale-worker up --dashboard dashboard/.venv/bin/python"
    assert any("greenscale-dashboard.pth" in line for line in before), "its Python finds the page"


def test_readme_the_picture_shows_what_is_printed() -> None:
    picture = ET.parse(terminal.PICTURE).getroot()  # noqa: S314  our own
    shown = {"".join(line.itertext()) for line in picture.iter("{http://www.w3.org/2000/svg}text")}
    printed = {line.partition("  #")[0].strip() for text in blocks("README.md") for line in text.splitlines()}
    for command in ("make up", *terminal.TYPED):
        assert f"$ {command}" in shown
        assert command in printed


def worker(said: str) -> int:
    """The process id that `up` has printed for it."""
    found = re.search(r"worker +pid (\d+)", said)
    assert found is not None, said
    return int(found[1])


def test_readme_a_file_of_settings_and_a_model_of_your_own(checkout: Checkout) -> None:
    copy, up = block("README.md", ".env.example").splitlines()
    checkout.type(copy)
    program = block("README.md", "def answer", "python")
    (name,) = re.findall(r"^# (\w+\.py)$", program, re.MULTILINE)
    (checkout.path / name).write_text(program)
    (line,) = block("README.md", "GREENSCALE_BACKEND").splitlines()
    assert line.endswith(up)
    with checkout.running(line, until=UP):
        assert checkout.type('.venv/bin/greenscale-worker submit "What is 2+2?" --wait') == "WHAT IS 2+2?\n"


@pytest.mark.parametrize("page", ["docs/quickstart-vllm.md", "docs/quickstart-ollama.md"])
def test_a_quick_start(checkout: Checkout, page: str) -> None:
    lines = block(page, "make up")
    (printed,) = re.findall(r"OPENAI_BASE_URL=(http://127\.0\.0\.1:\d+)/v1\n", lines)
    (model,) = re.findall(r"GREENSCALE_MODEL=(\S+)", lines)
    (ready,) = re.findall(r"GREENSCALE_READY_PATH=(\S+)", lines)
    with endpoint(model, ready) as url, checkout.running(lines.replace(printed, url), until=UP):
        assert checkout.type(block(page, "submit")) == "4\n"


@contextmanager
def endpoint(model: str, ready: str) -> Iterator[str]:
    """One that knows the page's model and no key, and is ready where the page says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200 if self.path == ready else 500, {})

        def do_POST(self) -> None:
            asked = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fits = self.path == PATH and asked["model"] == model and "Authorization" not in self.headers
            self.answer(200 if fits else 404, completion())

        def answer(self, status: int, body: object) -> None:
            data = orjson.dumps(body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
