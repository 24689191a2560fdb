"""A file of requirements is names and versions; every other line is refused, each by its number."""

import re
from pathlib import Path

import pytest

from kubeserve.intake.requirements import MOST_LINES, RequirementsError, canonical, parse_requirements


@pytest.mark.parametrize(
    ("content", "requirements"),
    [
        (b"", []),
        (b"\n# nothing\n\n", []),
        (b"pandas", ["pandas"]),
        (b"\xef\xbb\xbfpandas>=2\r\nNumPy == 2.4.6  # pinned\r\n", ["pandas>=2", "numpy==2.4.6"]),
        (b"scikit_learn[tests,docs]>=1.4,<2", ["scikit-learn[docs,tests]<2,>=1.4"]),
        (b"tomli; python_version < '3.11'", ['tomli; python_version < "3.11"']),
        (b"a.b-c ~= 1.0\nd(>=1)", ["a-b-c~=1.0", "d>=1"]),
    ],
)
def test_names_versions_extras_and_markers_are_accepted(content: bytes, requirements: list[str]) -> None:
    assert [canonical(requirement) for requirement in parse_requirements(content)] == requirements


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("-i https://evil.example/simple", "is an option"),
        ("-r /etc/hostname", "is an option"),
        ("-c other.txt", "is an option"),
        ("-e .", "is an option"),
        ("--index-url=https://evil.example", "is an option"),
        ("--extra-index-url https://evil.example", "is an option"),
        ("--find-links /", "is an option"),
        ("--pre", "is an option"),
        ("numpy==1.0 --hash=sha256:" + "0" * 64, "has an option"),
        ("numpy --global-option=x", "has an option"),
        ("https://evil.example/x-1-py3-none-any.whl", "names a URL"),
        ("file:///etc/passwd", "names a URL"),
        ("numpy @ https://evil.example/numpy.whl", "names a URL"),
        ("numpy@https://evil.example/numpy.whl", "names a URL"),
        ("numpy @ file:///etc/passwd", "names a URL"),
        ("numpy @ git+https://evil.example/numpy", "names a repository"),
        ("git+https://evil.example/numpy", "names a repository"),
        ("git+ssh://git@evil.example/numpy", "names a repository"),
        ("hg+http://evil.example/x", "names a repository"),
        ("/etc/passwd", "names a file"),
        ("./x", "names a file"),
        ("../x", "names a file"),
        ("~/x", "names a file"),
        ("x/y", "names a file"),
        ("x-1.0-py3-none-any.whl", "names a file"),
        ("C:\\x", "names a file"),
        ("other.txt", "names a file"),
        ("num\\", "goes on in the next line"),
        ("${HOME}", "names an environment variable"),
        ("numpy==$VERSION", "names an environment variable"),
        ("numpy\x00", "has a control character"),
        ("numpy\x0b-r x", "has a control character"),
        ("numpy\u2028-r hostname", "has an option"),
        ("numpy = 1", "is not a requirement"),
        ("numpy pandas", "is not a requirement"),
        ("numpy; os_name", "is not a requirement"),
        ("x" * 1001, "is longer than 1000 characters"),
    ],
)
def test_every_other_line_is_refused_by_its_number(line: str, why: str) -> None:
    with pytest.raises(RequirementsError) as refused:
        parse_requirements(f"numpy\n\n{line}\n".encode())

    assert [fault.field for fault in refused.value.faults] == ["line 3"]
    assert why in refused.value.faults[0].message
    assert "pandas[excel]>=2,<3" in str(refused.value)  # what is accepted


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(RequirementsError) as refused:
        parse_requirements(b"-r a\nnumpy\n/b\nc @ http://d\n")

    assert [fault.field for fault in refused.value.faults] == ["line 1", "line 3", "line 4"]


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(RequirementsError, match=r"line 2 is not UTF-8"):
        parse_requirements(b"numpy\n\xff\xfe\n")


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(RequirementsError, match=f"line {MOST_LINES + 1} is one too many"):
        parse_requirements(b"numpy\n" * 1_000_000)


def test_the_readme_names_the_versions_of_the_lock() -> None:
    system = Path(__file__).parents[1]
    lock = (system / "src" / "kubeserve" / "intake" / "base.txt").read_text()
    section = (system / "README.md").read_text().partition("## What a model is proved with")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z0-9-]+) \| ([0-9].*) \|$", section, re.MULTILINE)
    assert len(rows) == 7
    for name, told in rows:
        locked = re.findall(rf"^{name}==([0-9.]+)", lock, re.MULTILINE)
        assert locked == re.findall(r"([0-9]+\.[0-9]+\.[0-9]+)", told), name
