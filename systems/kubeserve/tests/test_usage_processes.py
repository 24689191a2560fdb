"""Usage when processes are killed: what a door that lives has answered is counted, each call once."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from greenscale_worker import RedisOptions
from harness.eventually import eventually
from harness.redis_server import RedisServer

from kubeserve.client import KubeServe
from kubeserve.predictions import Predictions
from pages import PATIENCE, Platform
from processes import PASSWORD, ready

MODEL = Path(__file__).parents[1] / "e2e" / "iris.onnx"
ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture
async def platform(
    tmp_path: Path, science: Path, redis_server: RedisServer, db: redis.Redis
) -> AsyncIterator[Platform]:
    db.ping()
    platform = Platform(tmp_path, science, f"{redis_server.url}/0")
    try:
        for name in ("door", "serve"):
            await asyncio.to_thread(platform.start, name)
        yield platform
    finally:
        await asyncio.to_thread(platform.close)


@pytest.mark.timeout(300)
async def test_each_call_counts_once_however_often_the_control_plane_is_killed(
    platform: Platform, redis_server: RedisServer
) -> None:
    with KubeServe(platform.url, patience=PATIENCE) as api:
        await asyncio.to_thread(api.register, "anna@example.org", PASSWORD)
        await asyncio.to_thread(api.login, "anna@example.org", PASSWORD)
        version = await asyncio.to_thread(ready, api, MODEL, "iris")
        deployment = (await asyncio.to_thread(api.deploy, version["model_id"], "iris", version["id"]))["id"]
        predictions = Predictions(RedisOptions(url=f"{redis_server.url}/0"))  # past the API, which is killed
        answered = 0
        for _ in range(3):
            asked = [await predictions.submit(deployment, [ROW] * 2) for _ in range(20)]
            platform.kill("serve")
            answers = [await predictions.wait(each, PATIENCE) for each in asked]
            answered += sum(each.state == "succeeded" for each in answers)
            await asyncio.to_thread(platform.start, "serve")
        await predictions.aclose()
        assert answered == 60

        def counted() -> dict[str, float]:
            return api.usage(deployment)["total"]

        async with asyncio.timeout(PATIENCE):
            while (total := await asyncio.to_thread(counted))["predictions"] < answered:  # noqa: ASYNC110  as a person
                await asyncio.sleep(0.2)
        assert (total["predictions"], total["errors"], total["rows"]) == (60, 0, 120)
        platform._running["door"].send_signal(signal.SIGTERM)  # noqa: SLF001  it ends as it should
        await asyncio.to_thread(platform._running.pop("door").wait, PATIENCE)  # noqa: SLF001  as above
        platform.kill("serve")
        await asyncio.to_thread(platform.start, "serve")
        await eventually(lambda: counted()["replica_seconds"] > 0)
        assert counted()["predictions"] == 60
