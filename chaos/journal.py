"""Reads Redis' journal, the append-only file: every write in order, including those whose reply was lost."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import hiredis

from chaos.stage import NAME
from greenscale_worker.queues.redis.keys import OF_LISTS, TURN_PAYLOADS, Keys

CHUNK: Final = 1024 * 1024
RESULT: Final = b"result:"
KEYS: Final = Keys(NAME)  # of the jobs; gateways have queues of their own beside them
SOURCES: Final = {NAME.encode(), *(KEYS.of(part).encode() for part in OF_LISTS)}
LATER: Final = KEYS.of("later:payload").encode()
LINES: Final = KEYS.of(TURN_PAYLOADS).encode()
WORKERS: Final = KEYS.of("workers").encode()
TAKES: Final = {b"HDEL", b"XCLAIM", b"LPOP", b"RPOP"}  # what promote, claim and replay do besides; put only adds

Command = Sequence[bytes]


@dataclass(slots=True)
class Journal:
    """How often each payload was pushed by producers and put by scripts, every result written, and every heartbeat.

    Results are by job id; `beats` are milliseconds since the epoch by Redis' clock, by the worker's process id.
    """

    pushed: Counter[bytes] = field(default_factory=Counter)
    put: Counter[bytes] = field(default_factory=Counter)
    written: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    beats: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))


def read(directory: Path) -> Journal:
    """Read the journal of the server with its data in `directory`."""
    journal = Journal()
    for step in _steps(directory):
        if len(step) == 1:  # producers push outside scripts
            journal.pushed.update(_appended(step[0]))
        else:
            journal.put.update(_put(step))
        for command in step:
            match command:
                case [b"ZADD", key, when, owner] if key == WORKERS:
                    journal.beats[int(owner.split(b":")[-2])].append(int(when))
                case [b"SET", key, value, *_] if key.startswith(RESULT):
                    journal.written[key.removeprefix(RESULT).decode()].append(value.decode())
    return journal


def _put(step: Sequence[Command]) -> list[bytes]:
    """Return the payloads that a script put, at once or for later; what it only moved is known already."""
    found = list[bytes]()
    only_adds = not any(command[0] in TAKES for command in step)
    for command in step:
        match command:
            case [b"HSET", key, _, kept] if key == LATER:
                found.append(kept.partition(b" ")[2])  # behind the class
            case _ if only_adds:
                found += _appended(command)
    return found


def _appended(command: Command) -> Sequence[bytes]:
    """Return the payloads that a command adds to the source or to a class."""
    match command:
        case [b"HSETNX", key, _, payload] if key == LINES:
            return [payload]
        case [b"LPUSH" | b"RPUSH", key, *payloads] if key in SOURCES:
            return payloads
        case [b"XADD", key, *words] if key in SOURCES and b"job" in words:
            return [words[words.index(b"job") + 1]]
    return ()


def _steps(directory: Path) -> Iterator[list[Command]]:
    """Yield commands that took effect together: a script's writes, or a single command."""
    step: list[Command] | None = None
    for command in _commands(directory):
        match command[0], step:
            case b"MULTI", _:
                step = []
            case b"EXEC", list():
                yield step
                step = None
            case _, list():
                step.append(command)
            case _:
                yield [command]


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
