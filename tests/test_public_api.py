"""What `from greenscale_worker import …` gives, what it costs, and the programs that docs/plugins.md prints."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import greenscale_worker

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/plugins.md"
HEAVY = ("redis", "aiohttp", "pydantic", "orjson", "structlog", "tenacity", "prometheus_client", "pytest")


def python(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd)  # noqa: S603  our own
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def program(containing: str) -> str:
    """One of the page's programs."""
    (found,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if containing in code)
    return found


@pytest.mark.parametrize("name", greenscale_worker.__all__)
def test_every_public_name_is_the_one_of_its_room(name: str) -> None:
    value = getattr(greenscale_worker, name)
    home = getattr(value, "__module__", "")
    if home.startswith("greenscale_worker"):
        assert getattr(import_module(home), name) is value
    assert name in dir(greenscale_worker)


def test_type_checkers_see_the_names_that_programs_get() -> None:
    tree = ast.parse(Path(greenscale_worker.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(seen) == sorted(greenscale_worker.__all__) == sorted(greenscale_worker._MODULE_OF)  # noqa: SLF001  the table itself


async def test_a_program_may_ask_redis_something_of_its_own(redis_url: str) -> None:
    async with greenscale_worker.redis_client(greenscale_worker.RedisOptions(url=redis_url)) as client:
        await client.set("mine", "1")
        assert await client.get("mine") in {b"1", "1"}
        with pytest.raises(greenscale_worker.ConfigError, match="of another type"):
            async with greenscale_worker.redis_client(greenscale_worker.RedisOptions(url=redis_url)) as other:
                await other.llen("mine")
    with pytest.raises(greenscale_worker.QueueUnavailableError):
        async with greenscale_worker.redis_client(greenscale_worker.RedisOptions(url="redis://127.0.0.1:1/0")) as away:
            await away.ping()
    with pytest.raises(greenscale_worker.ConfigError):
        async with greenscale_worker.redis_client(greenscale_worker.RedisOptions(url="http://x")):
            pass


def test_former_names_are_those_of_today_for_one_release_more() -> None:
    assert greenscale_worker.QueueAdmin is greenscale_worker.QueueClient  # type: ignore[attr-defined]
    assert greenscale_worker.open_admin is greenscale_worker.open_client  # type: ignore[attr-defined]


def test_there_is_no_other_name() -> None:
    with pytest.raises(AttributeError, match="'greenscale_worker' has no attribute 'Workers'"):
        _ = greenscale_worker.Workers  # type: ignore[attr-defined]


def test_a_program_pays_for_what_it_uses(tmp_path: Path) -> None:
    script = f"import sys, greenscale_worker\nprint([name for name in {HEAVY} if name in sys.modules])\n"
    assert python("-c", script, cwd=tmp_path) == "[]\n"
    script = "import sys\nfrom greenscale_worker import Worker, MemoryQueue, open_queue, batched\n"
    script += "print([name for name in ('redis', 'aiohttp', 'pytest') if name in sys.modules])\n"
    assert python("-c", script, cwd=tmp_path) == "[]\n"


def test_a_library_neither_configures_logging_nor_reads_the_environment(tmp_path: Path) -> None:
    script = """
import asyncio, os, structlog
asked = []
class Environment(dict):
    def __getitem__(self, name): asked.append(name); return super().__getitem__(name)
    def get(self, name, default=None): asked.append(name); return super().get(name, default)
os.environ = Environment()
from greenscale_worker import *
async def main():
    worker = Worker(MemoryQueue(), open_backend("echo"))
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    worker.stop()
    await running
structlog.configure(processors=[lambda logger, level, facts: ""], logger_factory=structlog.ReturnLoggerFactory())
asyncio.run(main())
assert structlog.get_config()["logger_factory"].__class__ is structlog.ReturnLoggerFactory
print([name for name in asked if name.startswith(("GREENSCALE", "REDIS", "NEYSA", "OPENAI", "HTTP", "NO_"))])
"""
    assert python("-c", script, cwd=tmp_path) == "[]\n"


@pytest.mark.parametrize(("containing", "says"), [("MemoryQueue()", "HELLO\n"), ("@batched", "")])
def test_programs_run_and_are_typed_as_printed(tmp_path: Path, containing: str, says: str) -> None:
    (tmp_path / "printed.py").write_text(program(containing))
    assert python("printed.py", cwd=tmp_path) == says
    python("-m", "mypy", "--strict", "printed.py", cwd=tmp_path)
