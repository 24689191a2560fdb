"""Writes what is rendered from the figures: the document, the README's table, the pictures."""

import subprocess
import tomllib
from pathlib import Path
from typing import Final

from bench.document import render, render_summary
from bench.results import Results
from harness import environments
from harness.environments import REPORT, ROOT
from harness.report import END, PLOTS, README

RESULTS: Final = ROOT / "bench" / "results" / "run.json"
FINDINGS: Final = ROOT / "bench" / "findings.toml"
DOCUMENT: Final = ROOT / "docs" / "benchmarks.md"
BEGIN: Final = "<!-- Written by `python -m bench report`; do not edit. -->\n"


def texts(path: Path = RESULTS) -> dict[Path, str]:
    """Return every file to write, with its whole text."""
    results = Results.load(path)
    findings = tomllib.loads(FINDINGS.read_text())
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    readme = f"{before}{BEGIN}\n{render_summary(results)}\n\n{END}{after}"
    return {DOCUMENT: render(results, findings), README: readme}


def write() -> int:
    """Write texts and pictures."""
    for path, text in texts().items():
        path.write_text(text)
    environments.make(REPORT)
    PLOTS.mkdir(exist_ok=True)
    command = (str(environments.python(REPORT)), "-m", "bench.plots", str(RESULTS), str(PLOTS))
    subprocess.run(command, cwd=ROOT, check=True)
    return 0
