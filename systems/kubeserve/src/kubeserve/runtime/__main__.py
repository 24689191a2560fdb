"""`python -I -S -B DIR COMMAND`: gives this directory its name among the modules, then runs `prove` or `zygote`.

The directory leaves the path, so that no module of a tenant's is shadowed by one of ours, or finds it by chance.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def main() -> int:
    """Run the command that the arguments name."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    parent = ModuleType("kubeserve")
    parent.__path__ = []
    spec = importlib.util.spec_from_file_location(
        "kubeserve.runtime", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    if spec is None or spec.loader is None:
        return 2
    package = importlib.util.module_from_spec(spec)
    sys.modules.update({"kubeserve": parent, "kubeserve.runtime": package})
    spec.loader.exec_module(package)
    if sys.argv[1:2] not in (["prove"], ["zygote"]):
        sys.stderr.write("usage: python -I -S -B DIRECTORY prove | zygote --socket PATH …\n")
        return 2
    command = importlib.import_module(f"kubeserve.runtime.{sys.argv[1]}")
    return int(command.main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
