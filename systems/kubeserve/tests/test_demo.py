"""`kubeserve demo` tells the whole way of a model, and leaves nothing but packages."""

import asyncio
import signal
import subprocess
from pathlib import Path

from harness.eventually import eventually

from kubeserve.places.layout import Layout
from processes import COMMAND, Up


async def test_it_tells_the_whole_way_and_ends(tmp_path: Path, science: Path) -> None:
    up = Up(tmp_path, science)
    ended = await asyncio.to_thread(up.command, "demo", "--data", str(up.data))
    steps = ("A model is trained", "It is proved, behind walls", "It is called", "Nobody calls", "A call wakes it")
    lines = [next(line for line in ended.stdout.splitlines() if step in line) for step in steps]
    assert max(map(len, lines)) < 80
    assert lines[-1].split()[4:] == [lines[-1].split()[4], "ms", "setosa,", "versicolor,", "virginica"]
    assert "curl http://127.0.0.1:" in ended.stdout
    assert up.left() == {}
    assert {path.name for path in up.data.iterdir()} == {".gitignore", "environments", "up.lock", "up.log"}


async def test_a_kill_leaves_nothing_that_runs(tmp_path: Path, science: Path) -> None:
    up = Up(tmp_path, science)
    with (tmp_path / "out").open("wb") as out:
        words = [COMMAND, "demo", "--keep", "--data", str(up.data)]
        process = await asyncio.to_thread(subprocess.Popen, words, env=up.environment, stdout=out, stderr=out)
    try:
        await eventually(lambda: "KubeServe runs" in (tmp_path / "out").read_text(), 90)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    await eventually(lambda: up.left() == {}, 30)
    assert Layout(up.data).run.exists()  # nobody was left to remove it
    await asyncio.to_thread(up.command, "down", "--data", str(up.data))
    assert not Layout(up.data).run.exists()
