"""A file of skops: a zip whose schema.json names the types, and arrays beside it."""

import json
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kubeserve.intake.streams import LARGEST, RATIO, SMALL
from kubeserve.intake.verdicts import RejectedError

SCHEMA: Final = "schema.json"
MOST_ENTRIES: Final = 8192
LARGEST_SCHEMA: Final = 64 * 1024**2
ENCRYPTED: Final = 0x1


def skops_types(path: Path) -> tuple[str, ...]:
    """The types and functions that its schema names. Raises RejectedError for what is no such file, and for a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive.infolist(), path.stat().st_size)
            schema = json.loads(archive.read(SCHEMA))
        return tuple(dict.fromkeys(_named(schema)))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise RejectedError(f"the zip is damaged or truncated ({error})") from None
    except (ValueError, RecursionError) as error:
        raise RejectedError(f"the {SCHEMA} of the zip is not JSON of skops ({error})") from None


def _check(entries: list[zipfile.ZipInfo], size: int) -> None:
    """All that can be told without unpacking. What an entry says of its size binds: zipfile reads no more of it."""
    names = {entry.filename for entry in entries}
    if SCHEMA not in names:
        raise RejectedError(f"it is a zip without {SCHEMA}; a zip is accepted if skops wrote it")
    if len(entries) > MOST_ENTRIES:
        raise RejectedError(f"the zip has {len(entries)} entries; at most {MOST_ENTRIES} are accepted")
    if len(names) != len(entries):
        raise RejectedError("the zip has two entries of one name")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > min(LARGEST, max(SMALL, size * RATIO)):
        raise RejectedError(f"the zip of {size} bytes holds {unpacked}: a bomb")
    for entry in entries:
        parts = entry.filename.replace("\\", "/").split("/")
        if ".." in parts or entry.filename.startswith(("/", "\\")) or stat.S_ISLNK(entry.external_attr >> 16):
            raise RejectedError("the zip has an entry that lies outside of it")
        if entry.flag_bits & ENCRYPTED:
            raise RejectedError("the zip is encrypted")
        if entry.filename == SCHEMA and entry.file_size > LARGEST_SCHEMA:
            raise RejectedError(f"the {SCHEMA} of the zip has more than {LARGEST_SCHEMA} bytes")


def _named(schema: Any) -> Iterator[str]:
    """Each `__module__` with its `__class__`, and the functions that nodes call by name."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for module, name in (("__module__", "__class__"), ("module_path", "function")):
                if isinstance(node.get(module), str) and isinstance(node.get(name), str):
                    yield f"{node[module]}.{node[name]}"
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
