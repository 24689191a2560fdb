"""Writes what is rendered from saved runs: the document, the README's table, the picture."""

import subprocess
import tomllib
from pathlib import Path
from typing import Final

from chaos.document import NAMES, render, render_summary
from chaos.outcome import FOLDER, Outcome
from chaos.peers import KEPT, Comparison
from harness import environments
from harness.environments import REPORT, ROOT
from harness.report import END, PLOTS, README

FINDINGS: Final = ROOT / "chaos" / "findings.toml"
DOCUMENT: Final = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- Written by `python -m chaos report`; do not edit. -->\n"


def texts() -> dict[Path, str]:
    """Return every file to write, with its whole text."""
    runs = {path.stem: Outcome.load(path) for path in _kept()}
    comparison = Comparison.load()
    findings = tomllib.loads(FINDINGS.read_text())
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme = f"{before}{BEGIN}\n{render_summary(runs, comparison)}\n\n{END}{after}"
    return {DOCUMENT: render(runs, comparison, findings), README: readme}


def write() -> int:
    """Write texts and picture."""
    for path, text in texts().items():
        path.write_text(text)
    environments.make(REPORT)
    PLOTS.mkdir(exist_ok=True)
    command = (str(environments.python(REPORT)), "-m", "chaos.plots", str(PLOTS), *map(str, _kept()), str(KEPT))
    subprocess.run(command, cwd=ROOT, check=True)
    return 0


def _kept() -> list[Path]:
    """Return the files of saved runs, the longest run first."""
    return [path for name in NAMES if (path := FOLDER / f"{name}.json").exists()]
