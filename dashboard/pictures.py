"""Draws the pictures of docs/dashboard.md: the page before a gateway that tells of a day. `python pictures.py`."""

import math
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
sys.path[:0] = [str(HERE / "tests")]

from browser import DESK, PHONE, Reader, open_chromium  # noqa: E402  of the tests, whose gateway it is, too
from conftest import Fake  # noqa: E402
from system import free_port, page  # noqa: E402

FOLDER: Final = HERE.parent / "docs" / "dashboard"
LARGEST: Final = 150_000  # bytes of a picture
NOW: Final = datetime.now(UTC).replace(microsecond=0)
PROMPT: Final = "Why do we put jobs into a queue?"
ANSWER: Final = """So that none is lost.

1. The queue keeps a job until its answer is recorded, whatever ends meanwhile.
2. A worker that dies loses its lease, and another one takes the job over.
3. Where nothing waits, no replica has to run."""

ANSWERED: Final = "5d0c6f0e-2f4b-4d53-9a0e-8c1f6f2b7a10"
FAILED: Final = "b7e1a9c4-60d2-4f7e-8f35-21c4d90e6a55"
BEGUN: Final = "batch_fe5ddb6580d34e9d4cd51262"


def main() -> None:
    """Draw all of them."""
    FOLDER.mkdir(exist_ok=True)
    fake = Fake()
    fake.set(stats=stats(), history=history(), jobs=jobs(), dead=dead(), batches=batches())
    with tempfile.TemporaryDirectory() as folder:
        served = page(Path(folder), free_port(), fake.url)
        served.start()
        chrome = open_chromium(Path(folder) / "browser")
        try:
            draw(Reader(chrome, served.url))
        finally:
            chrome.quit()
            served.stop()
            fake.stop()


def draw(reader: Reader) -> None:
    """Draw each picture."""
    width, _ = DESK
    reader.open(f"?job={ANSWERED}", (width, 760))
    reader.sees("So that none is lost")
    reader.fill("Prompt", PROMPT)
    keep(reader, "ask")
    reader.open("now", (width, 900), dark=True)
    reader.sees("Most replicas")
    keep(reader, "now")
    reader.open(f"jobs?job={FAILED}", PHONE)
    reader.sees("max_tokens is too large")
    keep(reader, "jobs")
    reader.open(f"batches?batch={BEGUN}", (width, 760), dark=True)
    reader.sees("31,250 answered")
    keep(reader, "batches")
    reader.open("savings", (width, 830))
    reader.sees("Replicas over time")
    reader.fill("Price of a replica-hour", "2.5\t")
    keep(reader, "savings")


def keep(reader: Reader, name: str) -> None:
    """Write what is seen, once it is drawn: charts are, a moment after their words."""
    reader.ask("new Promise(done => setTimeout(done, 2000))")
    reader.ask("document.activeElement.blur()")
    picture = reader.picture()
    if len(picture) > LARGEST:
        raise SystemExit(f"{name}: {len(picture)} bytes, more than {LARGEST}")
    (FOLDER / f"{name}.webp").write_bytes(picture)


def ago(seconds: float) -> str:
    """Write the time so many seconds ago."""
    return (NOW - timedelta(seconds=seconds)).isoformat()


def some_id(number: int) -> str:
    """Return an id as the page makes them."""
    return f"3f8a1c2e-7b4d-4e1a-9c55-0d1e2f3a{number:04x}"


def stats() -> dict[str, Any]:
    """Return a queue at work."""
    names = [f"greenscale-worker-7d9c5b8f6d-{end}:1" for end in ("k2xvd", "m9qzt", "x7r4h")]
    workers = [
        {
            "name": name,
            "beat_seconds": 0.4 + number,
            "why": None,
            "running": [
                {"id": some_id(257 * number + 31 * lane), "attempts": 1 + (lane == number), "since_seconds": 2.5 * lane}
                for lane in range(1, 4)
            ],
        }
        for number, name in enumerate(names)
    ]
    depth = {
        "waiting": 1204, "interactive": 3, "standard": 1150, "background": 51, "scheduled": 12, "running": 9,
        "delayed": 4, "held": 0, "dead": 7, "oldest_seconds": 96.0, "paused": False,
    }  # fmt: skip
    return {"queue": "jobs", "depth": depth, "rate_per_second": 8.2, "remaining_seconds": 149.0, "reasons": [],
            "workers": workers}  # fmt: skip


def history() -> dict[str, Any]:
    """Return an hour that stands for a day: busy, idle, busy again."""
    steps = []
    for minute in range(60):
        replicas = max(0, round(2.2 + 2.8 * math.sin(minute / 8)))
        ended = replicas * (140 + 25 * math.sin(minute))
        steps.append(
            {
                "at": ago(60 * (60 - minute) * 24), "ended": round(ended), "failed": float(minute % 13 == 0),
                "prompt_tokens": round(ended * 55), "completion_tokens": round(ended * 180),
                "call_seconds": ended * (1.4 + 0.3 * math.cos(minute / 5)), "replicas_peak": replicas,
                "replica_seconds": replicas * 60,
            }
        )  # fmt: skip
    measured = sum(step["replica_seconds"] for step in steps) * 24
    saved = 5 * 86_400 - measured
    savings = {
        "replicas_always_on": 5, "window_seconds": 86_400, "always_on_replica_seconds": 5 * 86_400,
        "measured_replica_seconds": measured, "saved_replica_seconds": saved, "price_per_replica_hour": 2.5,
        "saved": saved / 3600 * 2.5,
    }  # fmt: skip
    return {"since": ago(86_400), "until": ago(0), "step_seconds": 60, "series": steps, "savings": savings}


def jobs() -> dict[str, Any]:
    """Return an answered job, one that failed, and others beside them."""
    times = {"submitted_at": ago(9), "claimed_at": ago(8.6), "finished_at": ago(6)}
    usage = {"prompt_tokens": 17, "completion_tokens": 61}
    worker = {"worker": "greenscale-worker-7d9c5b8f6d-k2xvd:1", "attempts": 1, "model": "meta/llama-3.3-70b-instruct"}
    error = {"code": "http_400", "message": "HTTP 400: max_tokens is too large: 9000, at most 8192 are accepted"}
    found = {
        ANSWERED: {"state": "succeeded", "result": ANSWER, "usage": usage, **worker, **times},
        FAILED: {"state": "failed", "error": error, **worker, **times},
    }
    states = ("running", "running", "waiting", "delayed", "succeeded", "succeeded", "cancelled", "succeeded")
    found |= {some_id(17 * n): {"state": state, **worker, **times} for n, state in enumerate(states, 1)}
    return {job_id: {"id": job_id, **job} for job_id, job in found.items()}


def batches() -> dict[str, Any]:
    """Return a batch that runs, and others that have ended."""
    now = int(time.time())
    counts = (
        (BEGUN, "in_progress", 50_000, 31_250, 12),
        ("batch_fe5ddb661b024e07a2f0c3d8", "completed", 4_000, 3_988, 12),
        ("batch_fe5ddb66c48e19d5b07a4f61", "cancelled", 20_000, 327, 19_673),
        ("batch_fe5ddb67f0a27c3b18e9d4aa", "failed", 0, 0, 0),
    )
    found = {}
    for number, (batch_id, status, total, completed, failed) in enumerate(counts):
        found[batch_id] = {
            "id": batch_id, "status": status, "endpoint": "/v1/chat/completions", "model": "llama-3.3-70b-instruct",
            "created_at": now - 900 - 2_000 * number, "expires_at": now + 80_000,
            "request_counts": {"total": total, "completed": completed, "failed": failed},
        }  # fmt: skip
    return found


def dead() -> dict[str, Any]:
    """Return some dead letters."""
    return {f"{n}": {"id": f"{n}", "job_id": some_id(n), "code": "http_400", "message": "no"} for n in range(7)}


if __name__ == "__main__":
    main()
