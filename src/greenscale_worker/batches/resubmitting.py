"""Finds the lines of a batch that have failed, to send them again."""

from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import Final

from greenscale_worker.batch.lines import read_line
from greenscale_worker.batch.output import read_output_line
from greenscale_worker.batches.objects import Request, State
from greenscale_worker.batches.reading import Reader
from greenscale_worker.batches.store import Batches
from greenscale_worker.files.objects import FileObject, FileObjects

AT_ONCE: Final = 100
MOST_BYTES: Final = 1024 * 1024
LONGEST: Final = 64 * 1024 * 1024  # a line of an error file repeats its custom_id, and no more of the input


async def failed_lines(  # noqa: PLR0913  where they are
    batches: Batches, objects: FileObjects, request: Request, state: State, file: FileObject, *, max_bytes: int
) -> AsyncIterator[bytes]:
    """Yield the lines of the input `file` that are in the errors of a batch. Raises InputGoneError."""
    errors = Reader(lambda _: batches.content(state.errors), max_bytes=LONGEST)
    names = set[bytes]()
    while not errors.is_over:
        for raw in await errors.read(AT_ONCE, MOST_BYTES):
            line = read_output_line(raw.text)
            if line is not None:
                names.add(_mark(str(line["custom_id"])))
    reader = Reader(lambda start: objects.chunks(request.tenant, file, start=start), max_bytes=max_bytes)
    while not reader.is_over:
        for raw in await reader.read(AT_ONCE, MOST_BYTES):
            name = read_line(raw, max_bytes=max_bytes).custom_id
            if name is not None and _mark(name) in names:
                yield raw.text + b"\n"


def _mark(name: str) -> bytes:
    return blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()
