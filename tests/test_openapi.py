"""The gateway is asked whatever its OpenAPI document allows, and much that it does not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from harness.redis_server import free_port
from tests.support.desk import a_desk

# What is valid by its form may still be no job; and what was cancelled keeps its record.
NOT_CHECKED: Final = "positive_data_acceptance,use_after_free"


# A form has no arrays: one without items leaves nothing in it, which is as valid as without that field.
CONFIGURATION: Final = """\
[[operations]]
include-name = "POST /v1/files"
checks.negative_data_rejection.enabled = false
"""
KEY: Final = f"gs_ops_{'0' * 64}"


@pytest.mark.parametrize("examples", [3, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.parametrize("key", [None, KEY], ids=["without keys", "with a key"])
async def test_nothing_that_is_asked_is_answered_otherwise_than_documented(
    redis_url: str, tmp_path: Path, key: str | None, examples: int
) -> None:
    async with a_desk(tmp_path) as desk, aiohttp.ClientSession() as session:
        port = free_port()
        desk.environment |= {
            "REDIS_URL": redis_url,
            "GREENSCALE_GATEWAY_PORT": str(port),
            "GREENSCALE_BACKEND": "echo",
            "GREENSCALE_FILES": str(tmp_path / "files"),
        }
        if key is not None:
            desk.environment["GREENSCALE_GATEWAY_KEY"] = key
        await desk.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        gateway = await desk.start("serve")
        await until_served(session, f"http://127.0.0.1:{port}/readyz", lambda: gateway.returncode is None)
        (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"http://127.0.0.1:{port}/openapi.json"),
            *("--max-examples", str(examples), "--phases", "fuzzing,stateful", "--seed", "1"),
            *("--exclude-checks", NOT_CHECKED, "--request-timeout", "20", "--continue-on-failure"),
            *(() if key is None else ("--header", f"Authorization: Bearer {key}")),
            *("--exclude-path-regex", "/events$|/metrics$|/embeddings$"),  # endless; no JSON; not of this backend
        ]
        asked = await desk.run_other(*command)
        assert asked.code == 0, asked.out
        gateway.terminate()
        out, err = await gateway.communicate()
        assert (gateway.returncode, err) == (0, b"")
        assert b"gateway_error" not in out


async def until_served(session: aiohttp.ClientSession, url: str, alive: Callable[[], bool]) -> None:
    while alive():
        try:
            async with session.get(url) as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            continue
    raise AssertionError(url)
