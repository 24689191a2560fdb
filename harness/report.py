"""Where what is rendered belongs: a section of README.md, the pictures of the documents."""

from typing import Final

from harness.environments import ROOT

README: Final = ROOT / "README.md"
PLOTS: Final = ROOT / "docs" / "plots"
END: Final = "<!-- End of what is written. -->\n"
