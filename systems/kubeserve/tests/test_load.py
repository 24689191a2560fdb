"""The load test runs, and finds no failed call."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from processes import Up

SYSTEM = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.parametrize("scenario", ["baseline", "scaling"])
async def test_a_short_run(tmp_path: Path, science: Path, scenario: str) -> None:
    async with Up(tmp_path, science) as up:
        words = f"--url {up.url} --scenario {scenario} --users 5 --seconds 5"
        ended = await asyncio.to_thread(
            subprocess.run,
            ["make", "load", f"ARGS={words}"],
            cwd=SYSTEM,
            env={**os.environ, "KUBESERVE_TOKEN": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, (ended.stdout, ended.stderr)
        assert " single " in ended.stdout
        assert " batch " in ended.stdout
        assert " health " in ended.stdout
        assert await up.stop() == 0
