"""The worker and its commands with both plug-ins, as somebody who has installed them starts it."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE = 60


@pytest.fixture
def environment(redis_url: str) -> dict[str, str]:
    return {"GREENSCALE_BACKEND": "sentiment", "GREENSCALE_QUEUE": "packed", "REDIS_URL": redis_url}


@pytest.fixture
def command() -> str:
    found = shutil.which("greenscale-worker")
    assert found is not None
    return found


@pytest.fixture
def worker(command: str, environment: dict[str, str], tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([command], env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:  # noqa: S603  our own
        yield process
        process.kill()


def test_a_job_is_answered(
    command: str, environment: dict[str, str], worker: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    submit = [command, "submit", "I love it", "--wait", "--timeout", f"{PATIENCE}s"]
    done = subprocess.run(submit, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603  our own
    assert done.stdout.strip() == "positive", done.stderr  # which may say that no worker is alive yet
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
