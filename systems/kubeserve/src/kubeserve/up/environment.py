"""Builds what models run in, once, while everything else answers already."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kubeserve.intake import Environments
from kubeserve.intake.verdicts import FailedError, RejectedError

LOOK_SECONDS: Final = 0.5

Progress = Callable[[str], None]


async def prepare(data: Path, say: Callable[[str], None], progress: Progress) -> Path | None:
    """Return the base environment, built if it is not there; None, and a line that says why, if it cannot be.

    `progress` is called with a few words, often, and with none at the end. A proof that comes meanwhile waits for it.
    """
    root = data / "environments"
    began = time.monotonic()
    environments = Environments(root)
    building = asyncio.create_task(environments.base())
    looking = asyncio.create_task(_look(root, progress))
    try:
        base = await building
    except (FailedError, RejectedError) as error:
        say(f"the environment for models cannot be built: {error}; an upload tries it again")
        return None
    finally:
        looking.cancel()
        building.cancel()
        await asyncio.gather(looking, building, return_exceptions=True)
        progress("")
    if base.built:
        say(f"the environment for models is there: {len(base.packages)} packages, {time.monotonic() - began:.0f} s")
    return base.path


async def _look(root: Path, progress: Progress) -> None:
    """Tell how many packages are unpacked, every now and then."""
    while True:
        count, compiled = await asyncio.to_thread(_seen, root)
        if count:
            progress(f"{count} packages unpacked, {'compiling' if compiled else 'fetching'}")
        else:
            progress("fetching packages")
        await asyncio.sleep(LOOK_SECONDS)


def _seen(root: Path) -> tuple[int, bool]:
    with suppress(OSError):
        for folder in root.glob(".building-*/environment/lib/*/site-packages"):
            return len(list(folder.glob("*.dist-info"))), any(folder.glob("*/__pycache__"))
    return 0, False
