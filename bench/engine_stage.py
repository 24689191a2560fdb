"""A Redis with jobs for an inference engine, and a fleet of workers: one for each measurement."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from harness.endpoint import wait
from harness.redis_server import RedisServer
from harness.worker_process import Fleet

MODEL: Final = "tiny"
JOBS: Final = 2000
SHORTEST, LONGEST = 16, 64  # tokens of an answer; `ignore_eos` gives each exactly the length it asks for
DONE_SECONDS: Final = 900.0
NO_CALL: Final = ("gate_shut", "drain")  # codes of jobs given back that were not sent, or not answered


class Stage:
    """A Redis with jobs, and a fleet to start workers in."""

    def __init__(self, redis: Any, fleet: Fleet) -> None:
        self.redis = redis
        self.fleet = fleet
        self._jobs: dict[str, dict[str, Any]] = {}

    def push(self, count: int, **parameters: object) -> None:
        for number in range(len(self._jobs), len(self._jobs) + count):
            tokens = SHORTEST + number % (LONGEST - SHORTEST + 1)
            job = {"job_id": f"job-{number}", "prompt": f"what is the price of job {number}", "max_tokens": tokens}
            self._jobs[f"job-{number}"] = job | {"ignore_eos": True} | parameters
        self.redis.lpush("jobs", *map(json.dumps, list(self._jobs.values())[-count:]))

    def bodies(self) -> list[dict[str, Any]]:
        """Return the requests that a worker makes of the jobs."""
        return [
            {"model": MODEL, "messages": [{"role": "user", "content": job["prompt"]}]}
            | {name: value for name, value in job.items() if name not in {"job_id", "prompt"}}
            for job in self._jobs.values()
        ]

    def tokens(self) -> int:
        """Return how many tokens all answers together have."""
        return sum(int(job["max_tokens"]) for job in self._jobs.values())

    def ended(self) -> int:
        return len(self._jobs) - int(self.redis.llen("jobs")) - int(self.redis.hlen("{jobs}:open"))

    def done(self, seconds: float = DONE_SECONDS) -> bool:
        """Wait until every job has ended; return whether they did in time."""
        return wait(lambda: self.ended() == len(self._jobs), seconds)

    def records(self) -> list[dict[str, str]]:
        pipe = self.redis.pipeline(transaction=False)
        for job_id in self._jobs:
            pipe.hgetall(f"job:{job_id}")
        return list(pipe.execute())

    def failed_calls(self) -> Counter[str]:
        """Count failed calls by code."""
        lines = (line for worker in self.fleet.workers for line in worker.log("job"))
        return Counter(line["code"] for line in lines if line["code"] and line["code"] not in NO_CALL)

    def cut_short(self, records: Sequence[Mapping[str, str]]) -> int:
        """Count successes that are shorter or longer than requested, or were cut off."""
        asked = (job["max_tokens"] for job in self._jobs.values())
        return sum(
            record.get("state") == "succeeded"
            and (record.get("completion_tokens") != str(tokens) or record.get("finish_reason") != "length")
            for record, tokens in zip(records, asked, strict=True)
        )


@contextmanager
def stage(url: str, **settings: object) -> Iterator[Stage]:
    """Set up a stage in front of the engine at this URL, and close it at the end."""
    with tempfile.TemporaryDirectory(prefix="real-engine-") as name:
        server = RedisServer(Path(name) / "redis", docker=False)
        server.start()
        common = {
            "REDIS_URL": server.url,
            "NEYSA_API_URL": f"{url}/v1/chat/completions",
            "GREENSCALE_MODEL": MODEL,
        }
        try:
            with server.client(decode_responses=True) as redis, Fleet(Path(name), **common | settings) as fleet:
                yield Stage(redis, fleet)
        finally:
            server.close()
