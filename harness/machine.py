"""Machine, commit and time of a run."""

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from harness.environments import ROOT
from harness.redis_server import binary

LOOK_SECONDS: Final = 3.0


def describe() -> dict[str, Any]:
    """Return the properties of this machine, and its load before anything is measured."""
    server = binary()
    version = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout if server else ""
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "redis": next((word[2:] for word in version.split() if word.startswith("v=")), "in a container"),
        "busy_before_percent": round(_busy_percent(LOOK_SECONDS)),
    }


def commit() -> str:
    """Return the commit that is checked out, with `+` if the sources differ from it."""
    changed = _git("status", "--porcelain", "--", "src", "bench", "harness", ":!bench/results")
    return _git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def now() -> str:
    """Return the time, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607  PATH's git
    return done.stdout.strip()


def _field(path: str, name: str) -> str:
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")


def _busy_percent(seconds: float) -> float:
    before = _ticks()
    time.sleep(seconds)
    busy, total = (new - old for new, old in zip(_ticks(), before, strict=True))
    return 100 * busy / max(1, total)


def _ticks() -> tuple[int, int]:
    """Return busy and all ticks, of all cores."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)
