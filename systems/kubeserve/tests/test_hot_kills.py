"""Many callers of `kubeserve up`, while its door is killed again and again: every call has the right answer."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness.eventually import eventually

from processes import PATIENCE, Up, ready

MODEL = Path(__file__).parents[1] / "e2e" / "iris.onnx"
FLOWERS = [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [7.7, 3.0, 6.1, 2.3]]  # 0, 1 and 2
CALLERS = 24
KILLS = 4


@pytest.mark.timeout(300)
async def test_a_door_that_is_killed_while_many_call_costs_no_answer(tmp_path: Path, science: Path) -> None:
    async with Up(tmp_path, science) as up, aiohttp.ClientSession() as http:
        url, headers = await asyncio.to_thread(deployed, up)
        answers, over = Counter[str](), asyncio.Event()

        async def keep_asking(number: int) -> None:
            while not over.is_set():
                told = await answered(http, url, headers, [FLOWERS[number % 3]])
                assert labels(told) == [number % 3]
                answers["by HTTP" if told["id"] is None else "by the queue"] += 1

        callers = [asyncio.create_task(keep_asking(number)) for number in range(CALLERS)]
        for _ in range(KILLS):
            before = answers["by HTTP"]
            await eventually(
                lambda before=before: answers["by HTTP"] > before + 200 or any(map(asyncio.Task.done, callers)), 60
            )
            await up.kill("door")
        over.set()
        await asyncio.gather(*callers)
        assert answers["by HTTP"] > 200 * KILLS
        assert await up.stop() == 0


async def answered(http: aiohttp.ClientSession, url: str, headers: dict[str, str], rows: list[Any]) -> Any:
    """The answer, as a client gets it that follows 202."""
    async with asyncio.timeout(3 * PATIENCE):
        async with http.post(url, json={"instances": rows}, headers=headers) as response:
            status, told = response.status, await response.json()
        while status == 202:
            place = url.partition("/api/")[0] + told["location"]
            await asyncio.sleep(0.3)
            async with http.get(place, headers=headers) as response:
                status, told = response.status, await response.json()
    assert status == 200, (status, told)
    return told


def deployed(up: Up) -> tuple[str, dict[str, str]]:
    """The URL of a deployment that is awake, and what its callers send."""
    with up.person() as api:
        version = ready(api, MODEL, "iris")
        deployment = api.deploy(version["model_id"], "iris", version["id"], idle=3600.0)
        assert labels(api.predict(deployment["id"], FLOWERS)) == [0, 1, 2]
        key = api.create_key("callers", deployment_id=deployment["id"])["key"]
        return api.deployment(deployment["id"])["url"], {"Authorization": f"Bearer {key}"}


def labels(told: Any) -> list[int]:
    return [each["label"] for each in told["predictions"]]
