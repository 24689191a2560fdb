"""Loads a model once and asks it once, within the walls, and tells each step as one line of JSON on stdout.

Whoever runs this bounds its time and its output, and believes nothing that the lines say: the model can write them too.
"""

from __future__ import annotations

import os
import signal
import site
import sys
import time
from typing import Any

from kubeserve.runtime import frames, kernel, landlock, loaders, signature, walls
from kubeserve.runtime.refusals import RefusedError

_LARGEST_LINE = 8 * 1024 * 1024
_LARGEST_REQUEST = 64 * 1024 * 1024
_SCRATCH = 256 * 1024 * 1024


def main(_arguments: list[str]) -> int:
    """Exit status 0 for a model that answered, 1 for one that was refused."""
    parent = os.getppid()
    if not kernel.die_with(parent, signal.SIGKILL):
        return 1
    tell, stage = _Teller(), "walls"
    try:
        request = frames.decode(sys.stdin.buffer.read(_LARGEST_REQUEST))
        tell(step="walls", level=_wall_in(request))
        stage = "load"
        loaded = _load(request, tell)
        stage = "predict"
        _predict(loaded, request.get("sample"), tell)
    except RefusedError as refused:
        tell(error={**refused.said(), "stage": stage})
        return 1
    except (frames.FrameError, KeyError, TypeError, ValueError, OSError) as error:
        tell(error={"code": "bad_request", "message": f"{type(error).__name__}: {error}"[:500], "stage": stage})
        return 1
    return 0


class _Teller:
    """Writes lines where stdout was; what the model prints goes to stderr."""

    def __init__(self) -> None:
        self._to = os.dup2(1, 3)
        os.dup2(2, 1)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))

    def __call__(self, **message: Any) -> None:
        line = frames.encode(message)
        if len(line) > _LARGEST_LINE:
            raise RefusedError("too_large", f"{len(line)} bytes of answer; at most {_LARGEST_LINE} are accepted")
        line += b"\n"
        while line:
            line = line[os.write(self._to, line) :]


def _wall_in(request: dict[str, Any]) -> dict[str, Any]:
    scratch, limits = str(request["scratch"]), dict(request.get("limits") or {})
    level = walls.enclose(scratch, int(limits.get("file", _SCRATCH)))
    walls.clean(scratch)
    os.chdir(scratch)
    level.update(walls.limit(limits, _sizes()))
    level.update(walls.confine("model", [(str(request["model"]), landlock.READ), (scratch, landlock.SCRATCH)]))
    walls.demand(dict(request.get("minimum") or {}), level)
    if sys.flags.no_site:
        site.main()
    return level


def _sizes() -> tuple[int, int]:
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return walls.sizes(statm)
    finally:
        os.close(statm)


def _load(request: dict[str, Any], tell: _Teller) -> loaders.Loaded:
    began = time.monotonic()
    loaded = loaders.load(str(request["model"]), str(request["format"]))
    seconds = round(time.monotonic() - began, 4)
    tell(step="loaded", seconds=seconds, kind=loaded.kind, signature=loaded.signature, notes=loaded.notes)
    return loaded


def _predict(loaded: loaders.Loaded, sample: Any, tell: _Teller) -> None:
    """Ask with the owner's sample, else with made-up rows until one is answered."""
    batches = [sample] if sample is not None else signature.samples(loaded.signature)
    refused = RefusedError("sample_needed", "the model does not tell what it takes: give rows in sample.json")
    for batch in batches:
        began = time.monotonic()
        try:
            predictions = loaded.predict(batch)
        except RefusedError as error:
            refused = error
            continue
        tell(step="predicted", seconds=round(time.monotonic() - began, 4), predictions=predictions)
        return
    if sample is None and refused.code in {"model_error", "bad_instance"}:
        message = f"the model did not answer a made-up row, so give rows in sample.json: {refused.message}"
        raise RefusedError("sample_needed", message)
    raise refused
