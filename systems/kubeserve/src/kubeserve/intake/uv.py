"""Runs uv as the platform needs it: from an index alone, wheels alone, and with its errors in people's words."""

import re
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from uv import find_uv_bin

from kubeserve.intake.processes import Ended, run
from kubeserve.intake.verdicts import FailedError, RejectedError

LARGEST_FILE: Final = 4 * 1024**3
LONGEST_REASON: Final = 600
NO_SOLUTION: Final = 1  # uv's status when the requirements are at fault; 2 is for all else
OF_THE_OPERATOR: Final = re.compile(  # where the index is, and how to reach it
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|INDEX_STRATEGY|INDEX_\w+_(USERNAME|PASSWORD)"
    r"|INSECURE_HOST|SYSTEM_CERTS|NATIVE_TLS|HTTP_TIMEOUT|HTTP_RETRIES|EXCLUDE_NEWER|OFFLINE)"
    r"|SSL_CERT_(FILE|DIR)|(?i:https?|all|no)_proxy|NETRC"
)
OF_PIP: Final = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX"}
_CREDENTIALS: Final = re.compile(r"//[^/@\s]+@")
_AWAY: Final = re.compile(r"authentication credentials|403 Forbidden|network was disabled")  # hints beside NO_SOLUTION
_ANSWER: Final = re.compile(r"cause: (Because .*?)(?=\n\n|\Z)", re.DOTALL)
_TWICE: Final = re.compile(r"there is no version of (([\w.-]+)[^\s,]*) and you require \1(?=[\s,.]|$)")
_HINT: Final = re.compile(r"hint: (You require .*?)(?=\n\n|\Z)", re.DOTALL)


class Uv:
    """uv with a private cache and home, no configuration of the machine, and the operator's settings of the index."""

    def __init__(self, cache: Path, environ: Mapping[str, str]) -> None:
        self._cache = cache
        kept = {ours: environ[theirs] for theirs, ours in OF_PIP.items() if theirs in environ}
        kept |= {name: value for name, value in environ.items() if OF_THE_OPERATOR.fullmatch(name)}
        self.environment = {**kept, "HOME": str(cache), "PATH": "", "UV_PYTHON_DOWNLOADS": "never"}

    async def __call__(self, *arguments: str | Path, seconds: float) -> None:
        """Run one command. Raises RejectedError when what was asked for is at fault, else FailedError."""
        try:
            ended = await run(
                find_uv_bin(), *arguments, "--no-config", "--cache-dir", self._cache, "--quiet", "--color", "never",
                seconds=seconds, environment=self.environment, limits={resource.RLIMIT_FSIZE: LARGEST_FILE},
            )  # fmt: skip
        except OSError as error:
            raise FailedError(f"uv cannot be started: {error}") from None
        if ended.late:
            raise FailedError(f"the packages were not there after {seconds:g} s")
        if ended.status:
            raise _reason(ended)


def _reason(ended: Ended) -> Exception:
    said = _CREDENTIALS.sub("//", ended.err.decode("utf-8", "replace"))
    if ended.status == -signal.SIGXFSZ:
        return RejectedError(f"a package holds a file of more than {LARGEST_FILE} bytes")
    if "Failed to install" in said and "os error" not in said:
        return RejectedError(f"a package cannot be installed: {_short(said)}")
    if ended.status != NO_SOLUTION or _AWAY.search(said):
        return FailedError(f"the index of packages, or the disk, does not serve: {_short(said)}")
    answer = _ANSWER.search(said)
    reason = _in_words(answer[1] if answer else said)
    hint = _HINT.search(said)
    return RejectedError(f"requirements.txt cannot be met: {reason}{' ' + _short(hint[1]) if hint else ''}")


def _in_words(answer: str) -> str:
    """Uv's explanation, without what it draws from it, and with what it is about."""
    here = f"Python {sys.version_info.major}.{sys.version_info.minor} on {sys.platform}"
    answer = re.sub(r"\s+", " ", answer).removeprefix("Because ")
    answer = re.sub(r",? we can conclude that (your|the) requirements are unsatisfiable\.?", "", answer)
    answer = _TWICE.sub(r"there is no version of \2 that fits \1", answer)
    answer = answer.replace("was not found in the package registry", "does not exist in the index of packages")
    answer = answer.replace(
        "has no usable wheels", f"has no wheel for {here} (packages are not built from source here)"
    )
    return _short(answer)


def _short(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"
