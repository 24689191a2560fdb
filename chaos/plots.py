"""Draws the picture of docs/reliability.md, in the benchmark's environment: `python -m chaos.plots FOLDER RUN … PEERS`.

The same figures give the same bytes.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot as plt

from harness.plots import COLOURS, GREY, OTHERS, STYLE

WATCHED: Final = 120


def recovery(runs: dict[str, list[float]], killed: dict[str, dict[str, Any]]) -> Any:
    """Draw the jobs that come back after a kill, by system, and the time of recovery in the long runs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    others = iter(OTHERS)
    for system, outcome in killed.items():
        waits = outcome.get("back_after", [])
        share = [100 * (number + 1) / outcome.get("in_flight", 1) for number in range(len(waits))]
        colour = COLOURS.get(system) or next(others)
        width = 2.2 if system in COLOURS else 1.4
        steps = [0, *waits, WATCHED], [0, *share, share[-1] if share else 0]
        left.step(*steps, where="post", color=colour, linewidth=width, label=system if waits else f"{system}: none")
    left.set_xlim(0, WATCHED)
    left.set_ylim(-2, 103)
    left.set_title("kill -9, default leases: jobs called again, %")
    left.set_xlabel("seconds after the kill")
    left.legend(labelcolor=GREY, fontsize=8, loc="center", bbox_to_anchor=(0.33, 0.5))
    for number, (name, waits) in enumerate(runs.items()):
        rising = sorted(waits)
        share = [100 * (place + 1) / len(rising) for place in range(len(rising))]
        colour = (COLOURS["greenscale"], *OTHERS)[number]
        right.step([0, *rising], [0, *share], where="post", color=colour, label=name.replace("_", " "))
    right.set_xlim(left=0)
    right.set_title("make chaos, leases of 2 s: kills recovered, %")
    right.set_xlabel("seconds until the last call cut off was made anew")
    right.legend(labelcolor=GREY, fontsize=8, loc="lower right")
    for axis in (left, right):
        axis.grid(visible=True)
    return figure


def main() -> None:
    folder, *paths, peers = map(Path, sys.argv[1:])
    runs = {path.stem: json.loads(path.read_text())["verdict"]["recoveries"] for path in paths}
    with mpl.rc_context(STYLE):
        figure = recovery(runs, json.loads(peers.read_text())["outcomes"]["killed"])
        figure.savefig(folder / "recovery.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
