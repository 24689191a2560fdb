"""The outcome of a run, as saved and as printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import orjson

from chaos.facts import Verdict
from harness.figures import percentile

FOLDER: Final = Path(__file__).with_name("results")
SHOWN: Final = 20
PROMISES: Final = ("lost", "recorded twice", "left over")  # printed even if 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run. `settings` are its arguments; `void` counts faults that found nothing to hit."""

    began: str
    commit: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    seconds: float
    faults: Mapping[str, int]
    void: Mapping[str, int]
    verdict: Verdict = field(default_factory=Verdict)

    def save(self, path: Path) -> None:
        """Save it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(self, option=orjson.OPT_INDENT_2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a saved outcome."""
        kept = orjson.loads(path.read_bytes())
        return cls(**kept | {"verdict": Verdict(**kept["verdict"])})

    def lines(self) -> list[str]:
        """Return the lines to print."""
        counts, waits = self.verdict.counts, sorted(self.verdict.recoveries)
        kinds = [f"{times:7} x {kind}" for kind, times in sorted(self.faults.items())]
        facts = [f"{count:7} {what}" for what, count in sorted({**dict.fromkeys(PROMISES, 0), **counts}.items())]
        lines = ["faults that took place:", *kinds, "outcome:", *facts]
        if waits:
            slowest, median = waits[-1], percentile(waits, 50)
            lines.append(f"seconds until a killed worker's calls were made anew: {median:g}, at most {slowest:g}")
        breaches: Sequence[str] = self.verdict.breaches
        return [*lines, *(f"BROKEN {breach}" for breach in breaches[:SHOWN])]
