"""`greenscale-worker demo`: it needs nothing, fits a terminal, and can be left at any time."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.eventually import PATIENCE
from tests.support.desk import Desk, Terminal, a_desk, simulated_endpoint


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with a_desk(tmp_path) as desk:
        yield desk


@pytest.fixture
async def endpoint(desk: Desk) -> AsyncIterator[Callable[..., Any]]:
    async with simulated_endpoint(desk) as endpoint:
        yield endpoint


async def test_it_answers_all_prompts_with_nothing_but_the_package(desk: Desk) -> None:
    desk.environment = {"PATH": "", "LC_ALL": "C.UTF-8", "GREENSCALE_CONCURRENCY": "nonsense"}
    result = await desk.run("demo")
    assert (result.code, result.err) == (0, "")
    assert "What is the capital of Australia?\n     Canberra.\n" in result.out
    assert re.search(r"answered +50 +in [\d.]+ s, [\d.]+ a second\nfailed +0\ncalls made again +7 ", result.out)
    assert "This is a simulated answer" not in result.out
    answers, _, next_steps = result.out.partition("\nNext, ")
    assert max(map(len, answers.splitlines())) <= 80
    commands = re.findall(r"  \S+ -m greenscale_worker (.*)", next_steps)
    assert commands == ["up", 'submit "What is 2+2?" --wait', "demo --real"]
    assert not list(desk.directory.iterdir())


async def test_it_fits_a_terminal_and_can_be_interrupted_there(desk: Desk) -> None:
    terminal = Terminal(desk)
    assert await terminal.run("demo", interrupt_at=r"[12]\d/50 \[") == 130
    assert max(map(len, terminal.lines)) <= 80
    assert re.search(r"[12]\d/50 \[\d\d:\d\d<.* lines/s, failed=0, tokens=\d+\]", terminal.text)
    assert "\x1b[1mWhat is 2+2?\x1b[0m" in terminal.text
    assert "Traceback" not in terminal.text
    assert "Next, " not in terminal.text, "who stops it wants to leave"


async def test_without_tqdm_there_is_no_bar_and_all_the_rest(desk: Desk, tmp_path: Path) -> None:
    without = tmp_path / "without"
    without.mkdir()
    (without / "tqdm.py").write_text("raise ImportError\n")
    desk.environment["PYTHONPATH"] = str(without)
    terminal = Terminal(desk)
    assert await terminal.run("demo") == 0
    assert "/50 [" not in terminal.text
    assert any(re.fullmatch(r"answered +50 +in .*", line) for line in terminal.lines)


async def test_it_ends_when_nobody_reads_it(desk: Desk) -> None:
    process = await desk.start("demo")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  there is no other way
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 141
    assert process.stderr is not None
    assert await process.stderr.read() == b""


async def test_it_asks_a_real_endpoint(desk: Desk, endpoint: Callable[..., Any]) -> None:
    await endpoint(rate_slow=0.0)
    result = await desk.run("demo", "--real")
    assert result.code == 0
    assert "meta-llama/Llama-3.3-70B-Instruct" in result.out.splitlines()[0]
    assert (await endpoint())["requests"] == 50
    assert re.search(r"answered +50 ", result.out)
    desk.environment.pop("NEYSA_API_URL")
    desk.environment.pop("NEYSA_API_KEY")
    result = await desk.run("demo", "--real")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "NEYSA_API_KEY" in result.err
