"""The pages say what the code says, of metrics, events and settings; and every link leads somewhere."""

import re
import subprocess
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from greenscale_worker.config import load
from greenscale_worker.config.catalogue import catalogue
from greenscale_worker.gateway.metrics import GatewayMetrics
from greenscale_worker.job import Usage
from greenscale_worker.outcome_log import LOSSES
from greenscale_worker.queues import Binding
from greenscale_worker.scaler.metrics import ScalerMetrics
from greenscale_worker.telemetry import Event, Metrics
from greenscale_worker.worker import VERDICTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLE = ROOT / ".env.example"
ELSEWHERE = ("*.md", "kustomize/**/*.md", "systems/*/*.md", "systems/*/docs/*.md")
PAGES = sorted({*DOCS.rglob("*.md"), *chain.from_iterable(ROOT.glob(each) for each in ELSEWHERE)})
LEVELS = r"log\.(\w+)\(\s*\"(\w+)\""
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def rows(page: Path) -> Iterator[list[str]]:
    """The rows of all tables of a page, cell by cell."""
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def words(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r"`([^`]*)`", cell)


def named(page: Path) -> dict[str, list[str]]:
    """The rows that begin with a name in backticks, by that name."""
    return {words(row[0])[0]: row for row in rows(page) if words(row[0])}


def shown() -> dict[str, set[str]]:
    """The metrics of a worker that has counted all there is, each with the names of its labels."""
    metrics = Metrics()
    metrics.finished("failed", "http_400")
    metrics.started(1)
    metrics.called(1)
    metrics.tokens(Usage(prompt_tokens=1, completion_tokens=1))
    metrics.retried("http_429")
    metrics.busy(lambda: 1)
    metrics.gate(shut=True, breaker=True)
    metrics.depth(waiting=1, running=1, delayed=1, held=1, dead=1)
    metrics.held("limit", ("limit", "pause"))
    metrics.engine(1, 1)
    metrics.reaped(1)
    metrics.lost("taken")
    gateway = GatewayMetrics()
    with gateway.answering("GET /v1/jobs"):
        gateway.problem("not_found")
    gateway.webhook("retried", "http_5xx")
    scaler = ScalerMetrics()
    scaler.calls.labels("GetMetrics", "OK").inc()
    scaler.look.labels("arrivals").observe(1)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families((metrics.render() + gateway.render() + scaler.render()).decode()):
        if family.name.startswith("greenscale_") and not family.name.endswith("_created"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = set(chain.from_iterable(sample.labels for sample in family.samples)) - {"le"}
            found[name] = found.get(name, set()) | labels
    return found


def test_the_page_of_metrics_has_each_with_its_labels() -> None:
    told = {name: set(words(row[1])) for name, row in named(DOCS / "metrics.md").items() if name.startswith("greens")}
    assert told == shown()


def test_the_page_of_metrics_has_each_outcome() -> None:
    _, _, section = (DOCS / "metrics.md").read_text().partition("## Outcomes")
    told = set(re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE))
    bound = set(get_args(Binding)) - {"run", "conflict"}
    assert told == {"succeeded", "failed", "released", "not_ours"} | bound | {*VERDICTS.values(), *LOSSES.values()}


def test_the_page_of_events_has_each_with_its_level() -> None:
    told = {name: set(row[1].split(" or ")) for name, row in named(DOCS / "log-events.md").items()}
    assert told.keys() == set(get_args(Event))
    logged: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for level, event in re.findall(LEVELS, path.read_text()):
            logged.setdefault(event, set()).add(level)
    # Which of the two is chosen where it is said.
    logged |= {"breaker_opened": {"warning", "error"}, "job": {"info", "warning"}}
    assert told == logged


def test_the_example_of_settings_sets_nothing() -> None:
    assert load({}, EXAMPLE) == load({})


def test_the_example_of_settings_names_settings_and_values_that_are_accepted(tmp_path: Path) -> None:
    """Each by itself; and what it shows for a default is the default."""
    names = {setting.name: setting for setting in catalogue()}
    lines = re.findall(r"^#(\w+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    assert len(lines) > 10
    for name, value in lines:
        file = tmp_path / ".env"
        file.write_text(f"{name}={value}\n")
        setting = names[name]
        default = setting.info.default
        loaded = getattr(load({}, file), setting.field)
        assert default is None or loaded == default, name
        assert not load({}, file).notices


def test_tables_of_the_first_page_fit_a_phone() -> None:
    assert max(len(row) for row in rows(ROOT / "README.md")) <= 4


def anchors(page: Path) -> set[str]:
    """What may follow the # in a link to it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_lines_of_code_on_the_page_of_up_and_what_make_can_do_fit_80_columns() -> None:
    page = (ROOT / "docs/up.md").read_text()
    code = [
        line
        for block in re.findall(r"^```\w*\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    made = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S607  as people type it
    assert len(code) > 4
    assert len(made) > 8
    assert [line for line in code + made if len(line) > 80] == []
