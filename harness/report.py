"""Where rendered text and pictures go: a section of README.md, docs/plots."""

from typing import Final

from harness.environments import ROOT

README: Final = ROOT / "README.md"
PLOTS: Final = ROOT / "docs" / "plots"
END: Final = "<!-- End of what is written. -->\n"
