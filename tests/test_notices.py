"""Notices of ends: each is told to all who want them, and again until all has been done with it."""

import time
from collections import Counter
from collections.abc import Mapping

import pytest

from greenscale_worker.errors import FilesUnavailableError, QueueFullError
from greenscale_worker.gateway.notices import Notices
from greenscale_worker.job import Output, Succeeded
from greenscale_worker.queues import Notice
from greenscale_worker.testing.rig import run
from tests.support.api import Api, a_gateway


async def ended(api: Api, *names: str) -> None:
    """End jobs that leave a notice."""
    for name in names:
        await api.queue.put([(name, b'{"job_id": "%b", "prompt": "?"}' % name.encode())], notify=True)
        assert await api.worker.settle(await run(api.worker), Succeeded(Output("4")))


@pytest.mark.parametrize("fault", [FilesUnavailableError("away"), QueueFullError("full")])
async def test_a_notice_is_acknowledged_once_all_has_been_done_with_it(redis_url: str, fault: Exception) -> None:
    async with a_gateway(redis_url) as api:
        notices, seen = Notices(api.queue, on_files_away=lambda _: None, again=0), Counter[str]()
        await ended(api, "a", "b")
        assert await notices.handle() == 0, "nobody wants them"
        faults = [fault]

        async def first(notice: Notice, record: Mapping[str, str]) -> None:
            assert record["state"] == notice.state == "succeeded"
            seen[f"first {notice.job_id}"] += 1

        async def second(notice: Notice, _: Mapping[str, str]) -> None:
            if notice.job_id == "a" and faults:
                raise faults.pop()
            seen[f"second {notice.job_id}"] += 1

        notices.consumers += [first, second]
        with pytest.raises(type(fault)):
            await notices.handle()
        assert [notice.job_id for notice in await api.queue.notices()] == ["a"]
        assert await notices.handle() == 1
        assert seen == {"first a": 2, "second a": 1, "first b": 1, "second b": 1}
        assert await api.queue.notices() == []


async def test_notices_that_nobody_acknowledges_are_dropped_and_that_is_said(
    redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_gateway(redis_url, notices_max_count=1) as api:
        api.gateway.notices.consumers.clear()
        await ended(api, "a", "b", "c")
        await api.worker.beat()
        assert [notice.job_id for notice in await api.queue.notices()] == ["c"]
    (said,) = (line for line in capsys.readouterr().out.splitlines() if "notices_dropped" in line)
    assert "count=2" in said


async def test_notices_that_are_refused_for_now_hold_up_none_behind_them(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenscale_worker.gateway.notices.PORTION", 2)
    async with a_gateway(redis_url) as api:
        notices, seen, away = Notices(api.queue, on_files_away=lambda _: None), list[str](), True
        await ended(api, "bad-1", "bad-2", "bad-3", "good-1", "good-2")

        async def handle(notice: Notice, _: Mapping[str, str]) -> None:
            if away and notice.job_id.startswith("bad"):
                raise QueueFullError("full")
            seen.append(notice.job_id)

        notices.consumers.append(handle)
        for _ in range(2):
            with pytest.raises(QueueFullError):
                await notices.handle()
        assert await notices.handle() == 1
        assert await notices.handle() == 0
        assert seen == ["good-1", "good-2"]
        assert [each.job_id for each in await api.queue.notices()] == ["bad-1", "bad-2", "bad-3"]
        away, later = False, time.monotonic() + 60
        monkeypatch.setattr("greenscale_worker.gateway.notices.monotonic", lambda: later)
        assert await notices.handle() == 2
        assert await notices.handle() == 1
        assert await api.queue.notices() == []


async def test_what_nobody_can_handle_stands_in_nobodys_way(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with a_gateway(redis_url) as api:
        notices, seen = Notices(api.queue, on_files_away=lambda _: None), list[str]()
        await ended(api, "a", "b")

        async def handle(notice: Notice, _: Mapping[str, str]) -> None:
            if notice.job_id == "a":
                raise KeyError("secret")
            seen.append(notice.job_id)

        notices.consumers.append(handle)
        assert await notices.handle() == 2
        assert (seen, await api.queue.notices()) == (["b"], [])
        said = capsys.readouterr().out
        assert "KeyError" in said
        assert "secret" not in said
