"""Reads `requirements.txt`: names, extras, versions and markers, and nothing else.

A line that names a place (an index, a URL, a path, a repository) or another file would make the platform fetch from
where an uploader says, and read its own files for him; so each such line is refused.
"""

import re
from collections.abc import Iterator
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from kubeserve.errors import Fault

MOST_LINES: Final = 500
LONGEST_LINE: Final = 1000
ACCEPTED: Final = "a line is a name with extras, versions and a marker, such as pandas[excel]>=2,<3"
_COMMENT: Final = re.compile(r"(^|\s)#.*$")
_REFUSED: Final = (
    (re.compile(r"\x00|[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]"), "has a control character"),
    (re.compile(r"\\$"), "goes on in the next line"),
    (re.compile(r"^-"), "is an option"),
    (re.compile(r"\$\{?\w+\}?"), "names an environment variable"),
    (re.compile(r"^(git|hg|svn|bzr)\+|\s@\s*(git|hg|svn|bzr)\+"), "names a repository"),
    (re.compile(r"^\w[\w+.-]*:/|\s*@\s*\w+:|^\S+\s*@\s"), "names a URL"),
    (re.compile(r"^[./~]|^\w:\\|^[^;<>=!~]*[/\\]|\.(whl|zip|tar\.gz|txt)$"), "names a file"),
    (re.compile(r"\s--?\w"), "has an option"),
)


class RequirementsError(Exception):
    """`faults`: every line that is not accepted, and why; `field` is `line N`."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{fault.field} {fault.message}" for fault in faults) + f". Accepted: {ACCEPTED}")
        self.faults = tuple(faults)


def parse_requirements(file: bytes) -> tuple[Requirement, ...]:
    """What the file asks for, in its order, without comments and blank lines. Raises RequirementsError."""
    try:
        text = file.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.count(b"\n", 0, error.start) + 1
        raise RequirementsError([Fault(f"line {line}", "is not UTF-8")]) from None
    faults: list[Fault] = []
    found: list[Requirement] = []
    for number, content in _lines(text):
        read = _read(content)
        if isinstance(read, str):
            faults.append(Fault(f"line {number}", read))
        else:
            found.append(read)
        if len(found) + len(faults) > MOST_LINES:
            faults.append(Fault(f"line {number}", f"is one too many: at most {MOST_LINES} requirements are accepted"))
            break
    if faults:
        raise RequirementsError(faults)
    return tuple(found)


def canonical(requirement: Requirement) -> str:
    """One spelling of the same requirement, as uv reads it."""
    plain = Requirement(str(requirement))
    plain.name = canonicalize_name(plain.name)
    return str(plain)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Only line feeds part lines, with or without a carriage return: other separators hide nothing."""
    for number, line in enumerate(text.split("\n"), start=1):
        if content := _COMMENT.sub("", line.removesuffix("\r")).strip(" \t"):
            yield number, content


def _read(line: str) -> Requirement | str:
    """The requirement, or what is wrong with the line."""
    if len(line) > LONGEST_LINE:
        return f"is longer than {LONGEST_LINE} characters"
    for pattern, what in _REFUSED:
        if pattern.search(line):
            return f"{what}, which is not accepted"
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        return f"is not a requirement: {str(error).splitlines()[0]}"
    return "names a URL, which is not accepted" if requirement.url else requirement
