"""Environments as files: packed on one machine, unpacked on another that has the same Python.

An archive has the packages alone, as plain files: who unpacks it makes the link to the interpreter and the
configuration anew, for those of its own machine. So there is no link in one, and one that has any is refused.
"""

import gzip
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

LEVEL: Final = 3  # of compression: higher ones take much longer, and save little of machine code
LARGEST: Final = 8 * 1024**3  # bytes of one environment
MOST: Final = 500_000  # files and folders of one
LONGEST: Final = 1024  # characters of a name
OURS: Final = frozenset({"bin", "lib64", "pyvenv.cfg"})  # at the top, of the machine where it lies
LIBRARY: Final = PurePosixPath(f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages")


class PackingError(Exception):
    """What is no environment that may be packed or unpacked here. The message says why, in one line."""


def pack(environment: Path, file: Path) -> None:
    """Write an environment to an archive, the same bytes each time. Raises PackingError, OSError.

    Files keep their times, by which Python tells that what is compiled of them is still good.
    """
    with (
        file.open("xb") as raw,
        gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in _names(environment):
            _add(archive, environment, name)


def unpack(file: Path, environment: Path) -> None:
    """Make an environment of an archive, for this Python: there whole, read-only, or not at all.

    Raises PackingError for a name that leads elsewhere, for what is no plain file, and for too much; OSError.
    """
    part = environment.with_name(f".{environment.name}.part")
    remove(part)
    part.mkdir(mode=0o755, parents=True)
    try:
        with file.open("rb") as raw, gzip.GzipFile(fileobj=raw) as packed:
            _unpack(packed, part)
        if not (part / LIBRARY).is_dir():
            raise PackingError(f"it has no {LIBRARY}: it is for another Python; upload the version anew")
        _settle(part)
        part.rename(environment)
    except (EOFError, gzip.BadGzipFile, tarfile.TarError) as error:
        raise PackingError(f"it is damaged: {error}") from error
    finally:
        remove(part)


def remove(folder: Path) -> None:
    """Remove a folder that may be read-only; none there is fine."""
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def _names(environment: Path) -> Iterator[PurePosixPath]:
    for place, folders, files in os.walk(environment):
        inside = PurePosixPath(Path(place).relative_to(environment))
        left_out = OURS if inside == PurePosixPath() else frozenset()
        folders[:] = sorted({*folders} - left_out)
        for name in sorted({*folders, *files} - left_out):
            yield inside / name


def _add(archive: tarfile.TarFile, environment: Path, name: PurePosixPath) -> None:
    path = environment / name
    found = path.lstat()
    member = tarfile.TarInfo(str(name))  # without owners: they are those of this machine
    if stat.S_ISDIR(found.st_mode):
        member.type, member.mode = tarfile.DIRTYPE, 0o555
        archive.addfile(member)
    elif stat.S_ISREG(found.st_mode):
        member.mtime = int(found.st_mtime)
        member.size, member.mode = found.st_size, 0o555 if found.st_mode & stat.S_IXUSR else 0o444
        with path.open("rb") as content:
            archive.addfile(member, content)
    else:
        raise PackingError(f"{name} is no plain file")


def _unpack(packed: gzip.GzipFile, folder: Path) -> None:
    size = 0
    with tarfile.open(fileobj=packed, mode="r|", format=tarfile.PAX_FORMAT) as archive:
        for count, member in enumerate(archive, 1):
            size += member.size
            if size > LARGEST or count > MOST:
                raise PackingError(f"it has more than {LARGEST} bytes or {MOST} files")
            path = folder / _checked(member.name)
            if member.isdir():
                path.mkdir(mode=0o755, parents=True, exist_ok=True)
            elif member.isreg() and (content := archive.extractfile(member)) is not None:
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                with open(path, "xb") as file:  # noqa: PTH123  a name that is there already is refused
                    shutil.copyfileobj(content, file)
                os.utime(path, (member.mtime, member.mtime))
                path.chmod(0o555 if member.mode & stat.S_IXUSR else 0o444)
            else:
                raise PackingError(f"{member.name!r} is no plain file")
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all, a hundred thousand


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    parts = path.parts
    if len(name) > LONGEST or path.is_absolute() or not parts or ".." in parts or parts[0] in OURS or "\0" in name:
        raise PackingError(f"{name[:80]!r} is no name within an environment")
    return path


def _settle(folder: Path) -> None:
    """Let it be run by this machine's Python, and be written by nobody."""
    python = Path(sys.executable).resolve()
    (folder / "bin").mkdir(mode=0o755)
    (folder / "bin" / "python").symlink_to(python)
    version = ".".join(map(str, sys.version_info[:3]))
    (folder / "pyvenv.cfg").write_text(
        f"home = {python.parent}\ninclude-system-site-packages = false\nversion_info = {version}\n", "utf-8"
    )
    (folder / "pyvenv.cfg").chmod(0o444)
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o555)
    folder.chmod(0o755)  # its owner renames it, and may remove it
