"""What the tests of files run as a process of its own: `write`, `forever`, `too_large` or `leave` on a store."""

# ruff: noqa: T201  what it prints is what the tests read

import asyncio
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

from greenscale_worker.errors import FilesUnavailableError
from greenscale_worker.files import Files
from greenscale_worker.files.store import open_files

MIB = 1024 * 1024


async def blocks(mib: int) -> AsyncIterator[bytes]:
    """Yield so many MiB, in chunks as they come from a network."""
    for _ in range(mib * 16):
        yield bytes(64 * 1024)


async def write(files: Files, mib: int) -> None:
    """Write and read so many MiB; say by how many bytes the most memory grew, beyond that of 16 MiB."""
    peaks = []
    for size in (16, mib):
        assert await files.write(f"written/{size}", blocks(size)) == size * MIB
        assert sum([len(chunk) async for chunk in files.chunks(f"written/{size}")]) == size * MIB
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print(peaks[1] - peaks[0])


async def forever(files: Files, mib: int, written: asyncio.Event | None = None) -> None:
    """Write so much, set `written`, and then write nothing more."""

    async def endless() -> AsyncIterator[bytes]:
        async for block in blocks(mib):
            yield block
        print("written", flush=True)
        if written is not None:
            written.set()
        await asyncio.Event().wait()

    await files.write("half/file", endless())


async def too_large(files: Files, mib: int) -> None:
    """Write more than a file may have, and then less."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (mib * MIB // 2, mib * MIB))
    try:
        await files.write("large", blocks(mib))
    except FilesUnavailableError as error:
        print("full" if error.full else error)
    print(await files.write("small", blocks(1)), await files.read("large"))


async def leave(files: Files, mib: int) -> None:
    """End while an object is being written."""
    written = asyncio.Event()
    task = asyncio.create_task(forever(files, mib, written))
    await written.wait()
    assert not task.done()


async def main(what: str, url: str, mib: str) -> None:
    async with aclosing(open_files(url)) as files:
        await {"write": write, "forever": forever, "too_large": too_large, "leave": leave}[what](files, int(mib))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
