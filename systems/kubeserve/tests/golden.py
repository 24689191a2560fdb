"""Writes the files that the tests compare manifests with: `make golden`."""

from pathlib import Path
from typing import Final

from kubeserve.manifests.folder import as_yaml
from manifest_cases import CASES

GOLDEN: Final = Path(__file__).parent / "golden"


def main() -> None:
    """Write them all, and remove those of cases that are gone."""
    for path in GOLDEN.glob("*.yaml"):
        path.unlink()
    for name, case in CASES.items():
        (GOLDEN / f"{name}.yaml").write_text(as_yaml(case.all), "utf-8")


if __name__ == "__main__":
    main()
