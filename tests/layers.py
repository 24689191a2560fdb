"""The picture of the code in CONTRIBUTING.md: its layers, and the way of a job through them.

`python -m tests.layers --write CONTRIBUTING.md` draws it from the layers that import-linter checks (pyproject.toml) and
from the first sentence of each module's docstring. Without arguments it is printed; `--check` compares.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path
from textwrap import shorten
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "src" / "greenscale_worker"
BEGIN: Final = "<!-- Written by `python -m tests.layers --write CONTRIBUTING.md`; do not edit. -->\n"
END: Final = "<!-- End of what `python -m tests.layers` wrote. -->\n"
JOB: Final = ("queues", "worker", "execution", "backends")  # what a job passes, in that order
NAME_WIDTH: Final = 14
TEXT_WIDTH: Final = 57  # so that a line has 80 characters


def layers() -> list[list[str]]:
    """Read the modules of each layer, the uppermost layer first, without the package's name."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    whole = next(each for each in contracts if each["type"] == "layers" and "containers" not in each)
    rows = (layer.replace(":", "|").split("|") for layer in whole["layers"])
    return [[name.strip().removeprefix(f"{PACKAGE.name}.") for name in row] for row in rows]


def description(module: str) -> str:
    """Give the first sentence of a module's docstring, or what fits of it."""
    path = PACKAGE / module
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    words = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").replace("`", "").split())
    sentence = words.partition(". ")[0].removesuffix(".")
    if len(sentence) > TEXT_WIDTH:
        sentence = re.split(r"[:;] ", sentence)[0]
    return shorten(sentence, TEXT_WIDTH, placeholder=" …")


def picture() -> str:
    """Draw it: a line for each module, a rule between layers, and numbers beside what a job passes.

    Raises ValueError for a module with a name too long to be drawn.
    """
    too_long = [module for row in layers() for module in row if len(module) > NAME_WIDTH]
    if too_long:
        raise ValueError(f"{', '.join(too_long)}: the picture has {NAME_WIDTH} columns for a name")
    rule = "─" * (NAME_WIDTH + TEXT_WIDTH + 7)
    blocks = []
    for row in layers():
        lines = []
        for module in sorted(row, key=lambda name: (name not in JOB, name)):
            number = JOB.index(module) + 1 if module in JOB else " "
            lines.append(f"│ {number}  {module:<{NAME_WIDTH}}  {description(module):<{TEXT_WIDTH}} │\n")
        blocks.append("".join(lines))
    return f"```text\n┌{rule}┐\n" + f"├{rule}┤\n".join(blocks) + f"└{rule}┘\n```\n"


def written(text: str) -> str:
    """Give a document with the picture drawn anew. Raises ValueError where it has no place for one."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the picture: {BEGIN.strip()} and {END.strip()} are missing")
    return f"{before}{BEGIN}\n{picture()}\n{END}{after}"


def main(*arguments: str) -> int:
    """Print the picture, write it into a document (`--write`), or say whether the one in there is fresh (`--check`)."""
    if not arguments:
        sys.stdout.write(picture())
        return 0
    option, name = arguments
    path = ROOT / name
    text = written(path.read_text())
    if option == "--write":
        path.write_text(text)
    elif text != path.read_text():
        sys.stderr.write(f"{name} is stale: make docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
