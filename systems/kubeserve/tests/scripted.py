"""Programs of a test's own in the place of kubectl, docker and others: each call is recorded, and answered as told."""

import json
import os
import shutil
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """\
#!{python} -IS
import json, os, sys
from pathlib import Path
folder = Path({folder!r})
name = Path(sys.argv[0]).name
words = [name, *sys.argv[1:]]
given = "" if sys.stdin is None or os.isatty(0) else sys.stdin.read()
with (folder / "calls").open("a") as file:
    file.write(json.dumps({{"words": words, "given": given}}) + "\\n")
line = " ".join(words)
if words[:2] == ["kubectl", "kustomize"]:
    os.execv({kubectl!r}, words)
for part, answer in json.loads((folder / "answers").read_text()):
    if part in line:
        sys.stdout.write(answer.get("out", ""))
        sys.stderr.write(answer.get("err", ""))
        sys.exit(answer.get("code", 0))
"""


@dataclass
class Scripted:
    """The programs and what they say: the first answer whose text is part of the call; without one, nothing and 0."""

    folder: Path
    answers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        kubectl = shutil.which("kubectl") or ""
        programs = self.folder / "programs"
        programs.mkdir()
        for name in names:
            path = programs / name
            path.write_text(PROGRAM.format(python=sys.executable, folder=str(self.folder), kubectl=kubectl))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(programs))
        self._keep()

    def say(self, part: str, out: Any = "", *, code: int = 0, err: str = "") -> None:
        """Answer calls with this text; a later answer goes before earlier ones."""
        text = out if isinstance(out, str) else json.dumps(out)
        self.answers.insert(0, (part, {"out": text, "code": code, "err": err}))
        self._keep()

    def _keep(self) -> None:
        (self.folder / "answers").write_text(json.dumps(self.answers))

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def lines(self, part: str = "") -> list[str]:
        """The calls with this text, as one types them, without the context."""
        lines = [" ".join(call["words"]).replace(" --context kind-test", "") for call in self.calls]
        return [line for line in lines if part in line]

    def given(self, part: str) -> list[str]:
        """What such calls read."""
        return [call["given"] for call in self.calls if part in " ".join(call["words"])]

    def forget(self) -> None:
        (self.folder / "calls").unlink(missing_ok=True)


def needs_kubectl() -> str:
    """The real one, which renders. Skips without it."""
    return shutil.which("kubectl", path=os.defpath + ":" + os.environ["PATH"]) or pytest.skip("there is no kubectl")
