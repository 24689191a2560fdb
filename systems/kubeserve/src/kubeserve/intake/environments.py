"""Environments of models: built once, found again by what is in them, the same for all who read them.

Wheels run code when they are imported and, by `.pth` files, when an interpreter starts. So no interpreter runs *in* an
environment here: uv unpacks wheels, and the platform's own Python compiles them with -I -S, which reads no
site-packages. Whoever starts the environment's Python does so with -I -S as well, or behind the walls of the sandbox.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kubeserve.intake.processes import run
from kubeserve.intake.requirements import canonical
from kubeserve.intake.uv import Uv
from kubeserve.intake.verdicts import FailedError, RejectedError

RESOLVING: Final = 120.0
INSTALLING: Final = 600.0
COMPILING: Final = 600.0
LARGEST: Final = 8 * 1024**3  # bytes of one environment
FREE: Final = 1024**3  # bytes that must be free before one is built
POLL: Final = 0.1  # seconds between looks whether another builder is done
PYTHON: Final = f"{sys.implementation.cache_tag}-{sys.platform}-{platform.machine()}"
CACHE: Final = ".cache"
READY: Final = Path("/opt/kubeserve/environments")  # those that the image has, where there is one
RECENT: Final = 3600.0  # seconds after which what nobody uses may go
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Environment:
    """`id` is its directory's name, `path` that directory; its Python is `bin/python`. `built`: not found but built."""

    id: str
    path: Path
    packages: tuple[str, ...]
    built: bool


class Environments:
    """All environments of one machine, in a directory of its own. `base` is the lock of the usual packages.

    What is in `ready` already, read-only, is not built.
    """

    def __init__(
        self, root: Path, *, base: str | None = None, environ: Mapping[str, str] = os.environ, ready: Path = READY
    ) -> None:
        self._root = root
        self._ready = ready
        self._python = Path(sys.executable).resolve()  # the interpreter beneath a virtual environment
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._uv = Uv(root / CACHE, environ)
        self._base = _usual() if base is None else base

    async def base(self) -> Environment:
        """The usual packages, for all tenants."""
        return await self._made(self._base, tenant="")

    async def prepare(self, tenant: str, requirements: Sequence[Requirement]) -> Environment:
        """The usual packages and the required ones, in versions that go together.

        That is the base where it has them all. Raises RejectedError when no such versions exist as wheels, FailedError
        when the index or the disk does not serve.
        """
        if all(_met(requirement, _pins(self._base)) for requirement in requirements):
            return await self.base()
        return await self._made(await self._locked(requirements), tenant)

    @property
    def base_id(self) -> str:
        """The environment that has the usual packages alone."""
        return self._id(self._base, "")

    def path(self, environment_id: str) -> Path:
        """Where an environment is, if it is there."""
        return self._ready / environment_id if self.is_ready(environment_id) else self._root / environment_id

    def is_ready(self, environment_id: str) -> bool:
        """Whether the image has it."""
        return (self._ready / environment_id).is_dir()

    def collect(self, used: Iterable[str]) -> list[str]:
        """Remove what is neither used nor was asked for in the last hour, never the base; the names of what went."""
        kept = {*used, self.base_id, CACHE}
        before = time.time() - RECENT
        gone = [path for path in self._root.iterdir() if path.is_dir() and path.name not in kept]
        gone = [path for path in gone if path.stat().st_mtime < before]
        for path in gone:
            _remove(path)
            self._lock_of(path.name).unlink(missing_ok=True)
        return sorted(path.name for path in gone)

    async def _locked(self, requirements: Sequence[Requirement]) -> str:
        """The lock; versions of the base are kept where they fit."""
        with _scratch(self._root) as scratch:
            names = dict.fromkeys(canonical(requirement) for requirement in requirements)
            given, lock = scratch / "requirements.in", scratch / "lock.txt"
            given.write_text("\n".join([*_pins(self._base), *names, ""]), "utf-8")
            lock.write_text(self._base, "utf-8")  # uv prefers the versions that its output names already
            await self._uv(
                "pip", "compile", given, "--output-file", lock, "--python", self._python, "--no-build",
                "--generate-hashes", "--no-annotate", "--no-header", seconds=RESOLVING,
            )  # fmt: skip
            return lock.read_text("utf-8")

    def _id(self, lock: str, tenant: str) -> str:
        lines = "\n".join(line for line in lock.splitlines() if line.strip() and not line.startswith("#"))
        return hashlib.sha256("\0".join((lines, PYTHON, str(self._python), tenant)).encode()).hexdigest()[:32]

    def _lock_of(self, name: str) -> Path:
        return self._root / f"{name}.lock"

    async def _made(self, lock: str, tenant: str) -> Environment:
        name = self._id(lock, tenant)
        place, packages = self.path(name), tuple(f"{pin}=={version}" for pin, version in _pins(lock).items())
        if self.is_ready(name) or _touched(place):
            return Environment(name, place, packages, built=False)
        async with _exclusive(self._lock_of(name)):
            if _touched(place):  # another builder was first
                return Environment(name, place, packages, built=False)
            try:
                if shutil.disk_usage(self._root).free < FREE:
                    raise FailedError("the disk is nearly full")
                await self._build(place, lock)
            except OSError as error:
                raise FailedError("the disk is full" if error.errno in FULL else f"the disk: {error}") from None
        return Environment(name, place, packages, built=True)

    async def _build(self, place: Path, lock: str) -> None:
        """Beside its place, and put there when it is complete."""
        with _scratch(self._root) as scratch:
            (scratch / "lock.txt").write_text(lock, "utf-8")
            made = scratch / "environment"
            await self._uv("venv", made, "--python", self._python, "--no-project", seconds=RESOLVING)
            configuration = (made / "pyvenv.cfg").read_bytes()
            await self._uv(
                "pip", "sync", scratch / "lock.txt", "--python", made, "--require-hashes", "--no-build",
                "--link-mode", "hardlink", seconds=INSTALLING,
            )  # fmt: skip
            await asyncio.to_thread(self._make_sure, made, configuration)
            await asyncio.to_thread(self._borrow_bytecode, made)
            await self._compile(made)
            await asyncio.to_thread(_seal, made)
            made.rename(place)

    def _make_sure(self, made: Path, configuration: bytes) -> None:
        """Make anew what a wheel may have put over the interpreter and its configuration. No wheel's script is kept."""
        shutil.rmtree(made / "bin")
        (made / "bin").mkdir()
        (made / "bin" / "python").symlink_to(self._python)
        (made / "pyvenv.cfg").unlink(missing_ok=True)
        (made / "pyvenv.cfg").write_bytes(configuration)

    def _borrow_bytecode(self, made: Path) -> None:
        """Link what the base has compiled of the very same files: most of the time of a build goes there."""
        base = self.path(self._id(self._base, ""))
        for compiled in base.glob("lib/**/__pycache__/*.pyc"):
            source = compiled.parent.parent / f"{compiled.name.split('.')[0]}.py"
            ours = made / source.relative_to(base)
            with suppress(OSError):
                if ours.samefile(source):
                    target = made / compiled.relative_to(base)
                    target.parent.mkdir(exist_ok=True)
                    target.hardlink_to(compiled)

    async def _compile(self, made: Path) -> None:
        """By the platform's Python, which imports nothing of it. What does not compile is left as it is."""
        ended = await run(
            self._python, "-I", "-S", "-B", "-m", "compileall", "-q", "-j", "0", made / "lib", seconds=COMPILING
        )
        if ended.late:
            raise FailedError(f"the packages were not compiled within {COMPILING:g} s")


def _touched(place: Path) -> bool:
    """Whether it is there; if so, it counts as asked for now."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True


def usual_packages() -> dict[str, str]:
    """Return the packages of every environment that this Python builds, by name, with their versions."""
    return _pins(_usual())


def _usual() -> str:
    return files(__package__).joinpath("base.txt").read_text("utf-8")


def _pins(lock: str) -> dict[str, str]:
    """Name and version of each line that is for this Python."""
    pins: dict[str, str] = {}
    for line in lock.splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate():
                pins[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return pins


def _met(requirement: Requirement, pins: dict[str, str]) -> bool:
    """Whether the base has it already. Extras may want more, so they are resolved."""
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    version = pins.get(canonicalize_name(requirement.name))
    return version is not None and not requirement.extras and requirement.specifier.contains(version, prereleases=True)


def _seal(made: Path) -> None:
    """Read-only for all. Raises RejectedError when it is too large, or a file is no plain one."""
    size = 0
    for folder, folders, names in os.walk(made):
        for name in names:
            path = Path(folder) / name
            found = path.lstat()
            size += found.st_size
            if stat.S_ISREG(found.st_mode):
                path.chmod(0o555 if found.st_mode & stat.S_IXUSR else 0o444)
        for name in folders:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o555)
    made.chmod(0o755)  # its owner renames it, and may remove it
    if size > LARGEST:
        raise RejectedError(f"the packages take {size} bytes; at most {LARGEST} are accepted")


def _remove(path: Path) -> None:
    """Also what is sealed."""
    aside = path.with_name(f".removed-{uuid.uuid4().hex}")
    with suppress(OSError):
        path.rename(aside)  # it is gone at once, though removing takes its time
        path = aside
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o755)
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """A directory on the same disk, removed afterwards."""
    path = root / f".building-{uuid.uuid4().hex}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        _remove(path)


@asynccontextmanager
async def _exclusive(path: Path) -> AsyncIterator[None]:
    """One builder at a time, of all tasks and processes; a builder that dies lets go."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(POLL)
        yield
