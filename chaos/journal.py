"""Reads Redis' journal, the append-only file: every write in order, including those whose reply was lost."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import hiredis

CHUNK: Final = 1024 * 1024
RESULT: Final = b"result:"


@dataclass(slots=True)
class Journal:
    """How often each payload was pushed, every result written, by job id, and every heartbeat.

    `beats` are milliseconds since the epoch by Redis' clock, by the worker's process id.
    """

    pushed: Counter[bytes] = field(default_factory=Counter)
    written: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    beats: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))


def read(directory: Path) -> Journal:
    """Read the journal of the server with its data in `directory`."""
    journal, by_script = Journal(), False  # producers push outside scripts; a script that replays adds, too
    for command in _commands(directory):
        match command:
            case [b"MULTI" | b"EXEC" as word]:
                by_script = word == b"MULTI"
            case [b"LPUSH", _, *payloads] if not by_script:
                journal.pushed.update(payloads)
            case [b"XADD", *words] if not by_script:
                journal.pushed[words[words.index(b"job") + 1]] += 1
            case [b"ZADD", key, when, owner] if key.endswith(b":workers"):
                journal.beats[int(owner.split(b":")[-2])].append(int(when))
            case [b"SET", key, value, *_] if key.startswith(RESULT):
                journal.written[key.removeprefix(RESULT).decode()].append(value.decode())
    return journal


def _commands(directory: Path) -> Iterator[list[bytes]]:
    files = sorted(directory.glob("appendonlydir/*.incr.aof"))
    if not files:
        raise FileNotFoundError(f"{directory}: no append-only file; Redis 7 or newer is expected")
    for path in files:
        reader = hiredis.Reader()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                reader.feed(chunk)
                while (command := reader.gets()) is not False:
                    yield [command[0].upper(), *command[1:]]
