"""Each script has in front of it the parts whose functions it calls: Lua would find out only when it gets there."""

import re
from collections import defaultdict
from typing import Final

import pytest

from greenscale_worker.queues.redis.factory import CLIENT_SCRIPTS, LETTER_SCRIPTS, SHARED, WORKER_SCRIPTS
from greenscale_worker.queues.redis.script_loader import load, read_script
from tests.support.actors import STORES
from tests.support.jobs import KINDS

ALL: Final = (*WORKER_SCRIPTS, *CLIENT_SCRIPTS, *LETTER_SCRIPTS, "check_format")
FUNCTION: Final = re.compile(r"^(?:local )?function ([\w.]+)\(", re.MULTILINE)


def code_of(source: bytes) -> str:
    return re.sub(r"--.*", "", source.decode())


def bodies(code: str) -> dict[str, str]:
    """The text of each top-level function, and under "" all that runs at once."""
    found, name = defaultdict[str, str](str), ""
    for line in code.splitlines():
        head = FUNCTION.match(line)
        name = head[1] if head else name
        found[name] += f"{line}\n"
        if line == "end" or (head and line.rstrip().endswith(" end")):
            name = ""
    return found


def called(text: str, names: set[str]) -> set[str]:
    return {name for name in names if re.search(rf"(?<![\w.]){re.escape(name)}\b", text)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", ALL)
def test_every_function_that_a_script_can_reach_is_there(script: str, kind: str) -> None:
    parts = ("prelude", STORES[kind].script, *SHARED)
    known = {name for part in parts for name in FUNCTION.findall(code_of(read_script(part)))}
    here = bodies(code_of(load(STORES[kind].script, script, shared=SHARED)[script].source))
    reached, new = set[str](), {""}
    while new:
        assert new <= here.keys(), f"{script} calls {new - here.keys()}"
        reached |= new
        new = {name for function in new for name in called(here[function], known)} - reached
