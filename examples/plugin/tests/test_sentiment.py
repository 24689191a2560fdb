"""The backend `sentiment` keeps the promises of a backend, and knows good from bad."""

from typing import Any

import pytest

from greenscale_plugin_example.sentiment import open_sentiment
from greenscale_worker import Backend, ConfigError, Job, PermanentError, open_backend
from greenscale_worker.testing.backend_contract import *  # noqa: F403  the tests


@pytest.fixture
def backend() -> Backend:
    return open_backend("sentiment")


@pytest.fixture
def payload() -> dict[str, Any]:
    return {"prompt": "It works, thanks"}


@pytest.mark.parametrize(
    ("prompt", "answer"), [("I love it", "positive"), ("late and broken", "negative"), ("It is here", "neutral")]
)
async def test_a_text_has_a_sentiment(backend: Backend, prompt: str, answer: str) -> None:
    assert (await backend.infer(Job(job_id="1", payload={"prompt": prompt}))).text == answer


async def test_a_job_without_a_text_is_refused(backend: Backend) -> None:
    with pytest.raises(PermanentError, match="prompt: a string is expected"):
        await backend.infer(Job(job_id="1", payload={}))


async def test_its_setting_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTIMENT_MARGIN", "2")
    assert await open_sentiment()(Job(job_id="1", payload={"prompt": "I love it"})) == "neutral"
    monkeypatch.setenv("SENTIMENT_MARGIN", "much")
    with pytest.raises(ConfigError, match=r"^backend sentiment: ValueError: .*'much'"):
        open_backend("sentiment")
