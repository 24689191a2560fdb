"""Queues of other distributions: found by entry point, opened as ours are, and refused with a reason."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import orjson
import pytest

from greenscale_worker.cli.context import open_client as open_configured_admin
from greenscale_worker.config import load
from greenscale_worker.errors import ConfigError
from greenscale_worker.queues import QueueOptions, RedisOptions
from greenscale_worker.queues.memory import MemoryQueue
from greenscale_worker.queues.registry import BUILT_IN, find, open_client, open_queue

QUEUES = """
import os
from greenscale_worker.queues.memory import MemoryQueue

store = None

async def open_queue(redis, options, metrics):
    return (await open_client(redis, options)).beside("worker")

async def open_client(redis, options):
    global store
    store = store or MemoryQueue(options, worker=os.environ.get("QUEUES_OF_A_TEST", ""))
    return store

class former:
    open_queue = open_queue
    open_admin = open_client

class half:
    async def open_queue(redis, options, metrics): ...

class plain:
    def open_queue(redis, options, metrics): ...
    def open_client(redis, options): ...
"""
REDIS = RedisOptions(url="redis://127.0.0.1:9")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A distribution that offers queues."""
    name = "queues_of_a_test"
    (tmp_path / f"{name}.py").write_text(QUEUES)
    distribution = tmp_path / "others-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text(
        f"[greenscale.queues]\nmine = {name}\n"
        + "".join(f"{kind} = {name}:{kind}\n" for kind in ("former", "half", "plain", "gone"))
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.usefixtures("module")
async def test_a_queue_by_entry_point_is_opened_on_both_sides() -> None:
    async with (
        aclosing(await open_client("mine", REDIS, QueueOptions(backend="b"))) as admin,
        aclosing(await open_queue("mine", REDIS)) as queue,
    ):
        await admin.put([("1", b"{}")])
        assert (await queue.lease()).payload == b"{}"
        assert (await admin.depth()).running == 1


@pytest.mark.usefixtures("module")
async def test_a_queue_that_calls_its_client_by_the_former_name_is_opened() -> None:
    async with aclosing(await open_client("former", REDIS)) as client:
        assert isinstance(client, MemoryQueue)


async def test_the_built_in_list_is_opened_by_its_name(redis_url: str) -> None:
    async with (
        aclosing(await open_client("list", RedisOptions(url=redis_url))) as admin,
        aclosing(await open_queue("list", RedisOptions(url=redis_url))) as queue,
    ):
        await admin.put([("1", b"{}")])
        assert (await queue.lease()).payload == b"{}"


@pytest.mark.usefixtures("module")
async def test_a_setting_names_the_queue() -> None:
    async with aclosing(await open_configured_admin(load({"GREENSCALE_QUEUE": "mine"}))) as admin:
        assert isinstance(admin, MemoryQueue)


@pytest.mark.parametrize("name", ["", "nothing", "List", "mine ", "queues_of_a_test"])
@pytest.mark.usefixtures("module")
async def test_an_unknown_name_says_what_is_accepted(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^queue {name}: .* former, gone, half, list, mine, plain, stream are accepted"
    ):
        find(name)


@pytest.mark.parametrize(("name", "told"), [("half", "half"), ("plain", "plain"), ("gone", "gone")])
@pytest.mark.usefixtures("module")
async def test_what_is_no_queue_says_why(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^GREENSCALE_QUEUE: queue {name}: .*{told}"):
        await open_configured_admin(load({"GREENSCALE_QUEUE": name}))


def test_a_plug_ins_settings_are_its_own_and_no_slip_of_the_pen() -> None:
    assert load({"QUEUES_OF_A_TEST": "x", "MYPLUGIN_URL": "y"}).notices == ()
    (notice,) = load({"GREENSCALE_MYPLUGIN": "x"}).notices
    assert notice.name == "GREENSCALE_MYPLUGIN"


def test_a_built_in_queue_is_imported_when_it_is_asked_for() -> None:
    script = (
        "import sys; from greenscale_worker.queues.registry import BUILT_IN\n"
        "print([name for name in ('redis', *BUILT_IN.values()) if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603  our own
    assert done.stdout == "[]\n"
    assert set(BUILT_IN) == {"list", "stream"}


@pytest.mark.usefixtures("module")
async def test_commands_use_the_queue_that_is_set(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "greenscale_worker", "queue", "--json"),
        env={"PATH": "/usr/bin", "PYTHONPATH": str(tmp_path), "GREENSCALE_QUEUE": "mine", "REDIS_STREAM_NAME": "r"},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    shown = orjson.loads(out)
    assert process.returncode == 0
    assert (shown["queue"], shown["waiting"]) == ("r", 0)
