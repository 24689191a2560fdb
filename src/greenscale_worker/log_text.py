"""Formats log events for people: `14:55:08 job test-001 succeeded in 2 ms, 11 tokens`."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final, TextIO

from structlog.typing import EventDict

from greenscale_worker.for_people import WIDTH, broken, edge_of

COLOURS: Final[Mapping[str, str]] = {"warning": "\x1b[33m", "error": "\x1b[31m"}
PLAIN: Final = "\x1b[0m"
DEAD: Final = "is a dead letter"
# Formats of facts whose names would say nothing; others are written as `name value`.
FORMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("check", "code", "error", "hint", "name", "why"), "{}"),
    "concurrency": "{} lanes",
    "job_id": "job {}",
    "seconds": "{} s",
}


class LogText:
    """Formats an event as one line, and a traceback below if there is one; structlog calls this a processor.

    A line that is too long for `terminal` is broken between words; None: there is no terminal.
    """

    def __init__(self, *, colour: bool, terminal: TextIO | None) -> None:
        self._colour = colour
        self._terminal = terminal
        self._fits = 0  # lines up to this length fit, so the terminal is not asked

    def __call__(self, _logger: object, level: str, facts: EventDict) -> bytes:
        """Return the time of day, the level of a warning or an error, the event and its facts."""
        event, exception = facts.pop("event"), facts.pop("exception", None)
        said = SENTENCES[event](facts) if event in SENTENCES else _sentence(event, facts)
        word = level.upper() if level in COLOURS else ""
        time = f"{datetime.now().astimezone():%H:%M:%S}"
        lines = [self._fitted(f"{time} {word} {_harmless(said)}" if word else f"{time} {_harmless(said)}")]
        if self._colour and word:
            lines[0] = lines[0].replace(word, f"{COLOURS[level]}{word}{PLAIN}", 1)
        if exception is not None:
            lines += map(_harmless, str(exception).splitlines())
        return "\n".join(lines).encode()

    def _fitted(self, line: str) -> str:
        """Break a line at the edge of the terminal, which is asked only for a line that may not fit."""
        if self._terminal is None or len(line) <= self._fits:
            return line
        edge = edge_of(self._terminal) or WIDTH
        self._fits = min(edge, WIDTH)
        return broken(line, edge)


def _sentence(event: str, facts: EventDict) -> str:
    return ": ".join(filter(None, (_words(event), ", ".join(_told(facts)))))


def _told(facts: EventDict) -> list[str]:
    """Format all facts that are not empty."""
    known = {name: value for name, value in facts.items() if value is not None and value != ""}
    return [FORMS.get(name, f"{_words(name)} {{}}").format(value) for name, value in known.items()]


def _job(facts: EventDict) -> str:
    """Describe how a job ended: how long its answer took or it has to wait, why, its tokens, and which attempt it was.

    Facts for programs only are left out.
    """
    of = defaultdict[str, object](str, facts)
    outcome, time = _words(str(of["outcome"])), ""
    if outcome == "succeeded" and of["run_seconds"]:
        time = f" in {_span(of['run_seconds'])}"
    elif outcome == "failed":
        outcome = DEAD
    elif of["delay"]:
        outcome, time = outcome.replace("released", "delayed"), f" for {_span(of['delay'])}"
    told = [f"{_named(of)} {outcome}{time}{_reason(of['code'])}"]
    told += [f"{of['tokens']} tokens"] * bool(of["tokens"])
    told += [f"attempt {of['attempt']}"] * (of["attempt"] not in ("", 0, 1))
    return ", ".join(told + _told({name: of[name] for name in ("payload", "answer") if name in facts}))


def _job_buried(facts: EventDict) -> str:
    of = defaultdict[str, object](str, facts)
    return f"{_named(of)} {DEAD}{_reason(of['code'])}"


def _job_taken_over(facts: EventDict) -> str:
    of = defaultdict[str, object](str, facts)
    crashes = "a crash" if of["crashes"] == 1 else f"{of['crashes']} crashes"
    return f"{_named(of)} taken over after {crashes} (run {of['run']})"


def _named(facts: Mapping[str, object]) -> str:
    return f"job {facts['job_id'] or 'without an id'}"


def _waiting_for_backend(facts: EventDict) -> str:
    return f"{_sentence('waiting_for_backend', facts)}; jobs wait meanwhile, and it goes on by itself"


def _worker_started(facts: EventDict) -> str:
    words = "worker started: {kind} {queue} at {redis}, {backend}, {concurrency} lanes"
    return words.format_map(defaultdict(str, facts))


def _draining(facts: EventDict) -> str:
    running = f"{facts['running']} running, " if "running" in facts else ""  # a gateway runs no jobs
    return f"draining: {running}for at most {facts.get('seconds', '')} s"


def _probe_failed(facts: EventDict) -> str:
    return "probe failed: {code}, the next one in {seconds} s".format_map(defaultdict(str, facts))


SENTENCES: Final[Mapping[str, Callable[[EventDict], str]]] = {
    "draining": _draining,
    "job": _job,
    "job_buried": _job_buried,
    "job_taken_over": _job_taken_over,
    "probe_failed": _probe_failed,
    "waiting_for_backend": _waiting_for_backend,
    "worker_started": _worker_started,
}


def _reason(code: object) -> str:
    """Return the cause; an HTTP status in HTTP's own words, as those of the endpoint may quote a prompt."""
    if not code:
        return ""
    try:
        phrase = HTTPStatus(int(str(code).removeprefix("http_"))).phrase
    except ValueError:
        return f": {code}"
    return f": {code} {phrase}"


def _span(seconds: object) -> str:
    if not isinstance(seconds, int | float):
        return str(seconds)
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _harmless(text: str) -> str:
    """Escape characters that would end the line, or could move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
