"""Real environments of models, built by uv once and kept between runs in the user's cache directory."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from uv import find_uv_bin

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "kubeserve-tests"
SCIENCE: Final = (  # one place for the versions that tests load models with
    "cloudpickle==3.1.3",
    "joblib==1.6.0",
    "numpy==2.4.6",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "pandas==3.1.1",
    "scikit-learn==1.9.1",
    "scipy==1.17.1",
    "skl2onnx==1.20.0",
    "skops==0.16.0",
)


def environment(requirements: tuple[str, ...] = SCIENCE) -> Path:
    """The directory of an environment with these packages, for this Python. Runs at the same time share it."""
    key = hashlib.sha256("\n".join((sys.version, "compiled", *requirements)).encode()).hexdigest()[:16]
    place = CACHE / key
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / ".complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            _uv("venv", "--python", sys.executable, str(place))
            if requirements:
                _uv(
                    "pip",
                    "install",
                    "--no-build",
                    "--compile-bytecode",
                    "--python",
                    str(place / "bin" / "python"),
                    *requirements,
                )
            compileall = (
                "-I",
                "-S",
                "-m",
                "compileall",
                "-q",
                "-j",
                "2",
                "-x",
                "/tests/",
                str(place / "lib"),
            )  # runtimes write no .pyc
            subprocess.run([sys.executable, *compileall], check=False, stdin=subprocess.DEVNULL, timeout=600)  # noqa: S603
            (place / ".complete").touch()
    return place


def _uv(*arguments: str) -> None:
    subprocess.run([find_uv_bin(), "--quiet", *arguments], check=True, stdin=subprocess.DEVNULL, timeout=600)  # noqa: S603 - uv, as installed
