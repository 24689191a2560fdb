"""Virtual environments for the systems measured, in build/bench; made if missing or stale."""

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from harness.systems import System

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "bench"
PEERS: Final = ROOT / "harness" / "peers"
OURS: Final = "greenscale"
REPORT: Final = "report"
INSTALL_SECONDS: Final = 600


class NotInstalledError(Exception):
    """An environment cannot be made. The message is the installer's last line."""


def python(environment: str) -> Path:
    """Return the path of its interpreter."""
    return FOLDER / environment / "bin" / "python"


def make(environment: str) -> None:
    """Make it unless it exists and is up to date.

    Raises NotInstalledError.
    """
    stamp, wanted = FOLDER / environment / "made-from", _digest(environment)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"making {FOLDER.relative_to(ROOT)}/{environment}", file=sys.stderr, flush=True)
    shutil.rmtree(FOLDER / environment, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(FOLDER / environment))
    pip = (str(python(environment)), "-m", "pip", "--quiet", "--disable-pip-version-check", "install")
    if environment == OURS:
        _run(*pip, "--require-hashes", "-r", str(ROOT / "requirements.txt"))
        _run(*pip, "--no-deps", str(ROOT))
    else:
        _run(*pip, "--require-hashes", "-r", str(_requirements(environment)))
    stamp.write_text(wanted)


def versions(system: System) -> dict[str, str]:
    """Return the versions of its packages, as installed."""
    folders = [str(folder) for folder in (FOLDER / system.environment).glob("lib/python*/site-packages")]
    found = {found.name: found.version for found in importlib.metadata.distributions(path=folders)}
    return {name: found[name] for name in system.packages if name in found}


def _requirements(environment: str) -> Path:
    return PEERS / f"{environment}.txt"


def _digest(environment: str) -> str:
    files: Iterable[Path] = [_requirements(environment)]
    if environment == OURS:
        package = (path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc")
        files = [ROOT / "requirements.txt", ROOT / "pyproject.toml", *sorted(package)]
    digest = hashlib.sha256(sys.version.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode:
        raise NotInstalledError(_last_line([done.stderr, done.stdout]))


def _last_line(texts: Sequence[str]) -> str:
    return next((text.strip().splitlines()[-1] for text in texts if text.strip()), "no word of why")
