"""The systems measured. Each is a process that takes prompts from Redis, posts them to the endpoint, stores answers.

To add one, add an entry here, its application in `peers/NAME.py` and its versions in `peers/NAME.txt`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from harness.redis_server import free_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The Redis and endpoint of a worker, and its number of lanes."""

    redis_port: int
    url: str
    lanes: int

    def variables(self) -> dict[str, str]:
        """Variables that `harness/job.py` reads."""
        return {
            "BENCH_REDIS_PORT": str(self.redis_port),
            "BENCH_URL": self.url,
            "BENCH_LANES": str(self.lanes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """How to install it, start one worker, push jobs and count results; `processes.py` does so."""

    name: str
    environment: str
    """Its folder in build/bench; systems may share one."""
    packages: Sequence[str]
    """Their versions are reported."""
    worker: Callable[[int], Sequence[str]]
    """Returns the arguments of the environment's python that start a worker with so many lanes."""
    producer: str
    """The module that calls `job.produce`."""
    results: Callable[[Any], int]
    """Returns how many answers are stored in this Redis."""
    settings: Mapping[str, str]
    """The settings chosen, and why. All others have their defaults."""
    variables: Callable[[Place], dict[str, str]] = field(default=lambda _: {})
    """Returns its worker's environment variables besides those of the place."""


def keys(pattern: str) -> Callable[[Any], int]:
    """Count results that are one key each."""
    return lambda redis: sum(1 for _ in redis.scan_iter(pattern, count=2000))


def saq_results(redis: Any) -> int:
    """Return the number of complete jobs: SAQ stores the answer in the job itself."""
    jobs = sum(1 for _ in redis.scan_iter("saq:job:default:*", count=2000))
    return jobs - int(redis.zcard("saq:default:incomplete"))


def greenscale_variables(place: Place) -> dict[str, str]:
    """Turn all on: metrics, JSON log, leases, heartbeats."""
    return {
        "GREENSCALE_CONCURRENCY": str(place.lanes),
        "GREENSCALE_HEALTH_PORT": str(free_port()),
        "GREENSCALE_LOG_FORMAT": "json",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(place.redis_port),
        "NEYSA_API_URL": place.url,
        "NEYSA_API_KEY": "",
    }


LIMITS: Final = {"time limit of a job 300 s, results kept 3,600 s": "as GreenScale's defaults"}
THREADS: Final = {"requests, one session per thread": "keeps connections open; a new one per call costs more"}

GREENSCALE: Final = System(
    name="greenscale",
    environment="greenscale",
    packages=("greenscale-worker", "redis", "hiredis", "aiohttp", "pydantic", "orjson"),
    worker=lambda _: ("-m", "greenscale_worker"),
    producer="harness.plain_list",
    results=keys("result:*"),
    settings={
        "defaults, with GREENSCALE_HEALTH_PORT": "leases, heartbeats, retries, metrics and a JSON line for every job",
        "production dependencies alone": "what the image holds",
    },
    variables=greenscale_variables,
)

PEERS: Final[Sequence[System]] = (
    System(
        name="arq",
        environment="arq",
        packages=("arq", "redis", "hiredis", "aiohttp"),
        worker=lambda _: ("-m", "arq", "harness.peers.arq.Worker"),
        producer="harness.peers.arq",
        results=keys("arq:result:*"),
        settings={
            **LIMITS,
            "max_jobs = lanes": "10 by default",
            "poll_delay 0.05 s": "0.5 by default, and a job waits for the next poll; less costs commands while idle",
        },
    ),
    System(
        name="saq",
        environment="saq",
        packages=("saq", "redis", "hiredis", "aiohttp"),
        worker=lambda _: ("-m", "saq", "harness.peers.saq.settings"),
        producer="harness.peers.saq",
        results=saq_results,
        settings={**LIMITS, "concurrency = lanes": "10 by default"},
    ),
    System(
        name="streaq",
        environment="streaq",
        packages=("streaq", "coredis", "aiohttp"),
        worker=lambda _: ("-m", "streaq", "run", "harness.peers.streaq:worker"),
        producer="harness.peers.streaq",
        results=keys("streaq:default:task:results:*"),
        settings={**LIMITS, "concurrency = lanes": "16 by default; it prefetches as many again"},
    ),
    System(
        name="taskiq",
        environment="taskiq",
        packages=("taskiq", "taskiq-redis", "redis", "hiredis", "aiohttp"),
        worker=lambda lanes: (
            *("-m", "taskiq", "worker", "harness.peers.taskiq:broker"),
            *("--workers", "1", "--max-async-tasks", str(lanes)),
        ),
        producer="harness.peers.taskiq",
        results=keys("results:*"),
        settings={
            **LIMITS,
            "RedisStreamBroker": "the broker that acknowledges; its list broker loses what a killed worker held",
            "--workers 1": "2 by default; one process, as the others",
            "--max-async-tasks = lanes": "100 by default",
        },
    ),
    System(
        name="celery",
        environment="celery",
        packages=("celery", "kombu", "redis", "hiredis", "requests"),
        worker=lambda lanes: (
            *("-m", "celery", "-A", "harness.peers.celery", "worker", "--pool", "threads", "--concurrency", str(lanes)),
            *("--without-gossip", "--without-mingle"),
        ),
        producer="harness.peers.celery",
        results=keys("celery-task-meta-*"),
        settings={
            **LIMITS,
            **THREADS,
            "--pool threads": "as many calls at a time by processes would need as many processes",
            "task_acks_late, worker_prefetch_multiplier 1": "its own advice for long jobs that must not be lost",
            "--without-gossip --without-mingle": "spares a start the talk with other workers",
        },
    ),
    System(
        name="dramatiq",
        environment="dramatiq",
        packages=("dramatiq", "redis", "hiredis", "requests"),
        worker=lambda lanes: (
            *("-m", "dramatiq", "harness.peers.dramatiq"),
            *("--processes", "2", "--threads", str(max(1, lanes // 2))),
        ),
        producer="harness.peers.dramatiq",
        results=keys("dramatiq-results:*"),
        settings={
            **LIMITS,
            **THREADS,
            "--processes 2, --threads = lanes / 2": "8 threads by default, in as many processes as there are cores",
            "result keys with their namespace": "so that they can be counted",
        },
    ),
    System(
        name="rq",
        environment="rq",
        packages=("rq", "redis", "hiredis", "requests"),
        worker=lambda lanes: (
            *("-m", "rq.cli", "worker-pool", "jobs", "--quiet"),
            *("--num-workers", str(min(16, lanes)), "--worker-class", "rq.SimpleWorker"),
        ),
        producer="harness.peers.rq",
        results=lambda redis: int(redis.zcard("rq:finished:jobs")),
        settings={
            **LIMITS,
            **THREADS,
            "16 workers at most": "a process each: a hundred would need some 3 GiB",
            "SimpleWorker": "the default one forks for every job",
        },
        variables=lambda place: {"RQ_REDIS_URL": f"redis://127.0.0.1:{place.redis_port}"},
    ),
)
