"""The documents say what there is: tests, settings, commands and what make can do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kubeserve.cli import COMMANDS, main
from kubeserve.settings import SECRETS, Settings

SYSTEM = Path(__file__).parents[1]
PAGES = [SYSTEM / "README.md", SYSTEM / "SECURITY.md", *sorted((SYSTEM / "docs").glob("*.md"))]
PROVED = [SYSTEM / "docs" / "promises.md", SYSTEM / "docs" / "hostile.md"]
WITH_ACTIONS = {"cluster", "keys", "models", "versions"}
KINDS = 40


def rows(text: str) -> list[list[str]]:
    """The rows of its tables, cell by cell, without their heads."""
    lines = re.findall(r"^\|(?!---).*\|$(?!\n\|---)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named_in(row: list[str]) -> list[str]:
    return re.findall(r"`((?:\.\./\.\./)?tests/[^`]+)`", row[-1])


def test_what_is_promised_has_tests_that_there_are() -> None:
    promised = [row for page in PROVED for row in rows(page.read_text())]
    named = {test for row in promised for test in named_in(row)}
    assert [row for row in promised if not named_in(row)] == []
    ours = {test for test in named if not test.startswith("../")}
    files = sorted({test.partition("::")[0] for test in ours})
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", *files]
    told = subprocess.run(command, cwd=SYSTEM, capture_output=True, text=True, timeout=100, check=True)  # noqa: S603
    there = set(told.stdout.splitlines())
    assert ours - there - {test.partition("[")[0] for test in there} == set()
    for test in named - ours:
        file, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (SYSTEM / file).read_text(), re.MULTILINE), test


def test_there_are_so_many_kinds_of_harm() -> None:
    kinds = [row[0] for row in rows((SYSTEM / "docs" / "hostile.md").read_text())]
    assert len(set(kinds)) == len(kinds) >= KINDS


def test_every_setting_is_told_with_its_default() -> None:
    section = (SYSTEM / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    told: dict[str, str] = {}
    for names, default, _ in rows(section):
        found = re.findall(r"`(\w+)`", names)
        values = default.split(", ") if len(found) == default.count(", ") + 1 else [default] * len(found)
        told |= dict(zip(found, values, strict=True))
    own = {str(field.alias): field.default for field in Settings.model_fields.values()}
    of_others = {name for name in told if name.startswith("REDIS_")} | {"KUBESERVE_URL", "KUBESERVE_TOKEN"}
    assert told.keys() - of_others == own.keys()
    for name, default in own.items():
        if isinstance(default, int | float | str) and not isinstance(default, bool):
            assert str(default) in told[name], name
    assert all(f"`{name}_FILE`" in section for name in SECRETS)


def commands(page: Path) -> list[list[str]]:
    """The calls of `kubeserve` in its blocks of code, by words."""
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
    return [line.split("#")[0].split() for line in re.findall(r"(?:^|\$\()kubeserve (.*?)\)?$", blocks, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_are_those_that_there_are(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        assert words[0] in COMMANDS, words
        assert main([*words[: 1 + (words[0] in WITH_ACTIONS)], "--help"]) == 0
        helped = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in helped] == [], words
    there = set(re.findall(r"^([a-z0-9-]+):", (SYSTEM / "Makefile").read_text(), re.MULTILINE))
    made = re.findall(r"make -C systems/kubeserve ([a-z][a-z0-9-]*)|`make ([a-z][a-z0-9-]*)", page.read_text())
    assert {name for pair in made for name in pair if name} <= there
