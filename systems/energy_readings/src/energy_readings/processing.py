"""What GreenScale's worker does with an entry of the stream: it stores its readings (GREENSCALE_BACKEND)."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

from greenscale_worker import Job, Output, PermanentError, TransientError, batched

from energy_readings.connection import AWAY, connect
from energy_readings.reading import Reading, ValidationError, faults, one_line, parse
from energy_readings.settings import read
from energy_readings.store import Store

MOST_JOBS: Final = 100  # that share a round trip
STORED: Final = ""  # the answer to a job: nobody reads it

# What the worker is told beside where Redis is; the environment goes before these.
WORKER: Final = {
    "GREENSCALE_QUEUE": "stream",
    "REDIS_STREAM_NAME": "energy_readings",
    "GREENSCALE_STREAM_GROUP": "processing_group",
    "GREENSCALE_BACKEND": "energy_readings.processing:Processing",
    "GREENSCALE_CONCURRENCY": "200",
    "GREENSCALE_RESULT_TTL_SECONDS": "0",
    "GREENSCALE_LOG_LEVEL": "warning",
}


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Complete the environment of a worker."""
    return {**environ, **{name: value for name, value in WORKER.items() if not environ.get(name)}}


class Processing:
    """The worker's backend, set up by the environment at its start. Raises ConfigError."""

    def __init__(self) -> None:
        settings = read(os.environ)
        self._client = connect(settings)
        self._store = store = Store(self._client, keep_readings=settings.keep_readings, keep_days=settings.keep_days)

        @batched(most=MOST_JOBS)
        async def handle(jobs: Sequence[Job]) -> list[str | Exception]:
            return await store_all(store, jobs)

        self._handle = handle

    async def infer(self, job: Job) -> Output:
        """Store the readings of an entry, in one round trip with what else there is."""
        return Output(await self._handle(job))

    async def ready(self) -> bool:
        """Say whether Redis would store a reading."""
        try:
            await self._store.check()
        except AWAY:
            return False
        return True

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


async def store_all(store: Store, jobs: Sequence[Job]) -> list[str | Exception]:
    """Store the readings of many entries in one round trip; gives for each that it is done, or why it is not.

    It may be cut off anywhere and done again: a reading that is there is not stored again.
    """
    outcomes: list[str | Exception] = [STORED] * len(jobs)
    by_site: dict[str, list[Reading]] = {}
    sites: list[set[str]] = [set() for _ in jobs]
    for number, job in enumerate(jobs):
        try:
            for reading in readings_of(job):
                by_site.setdefault(reading.site_id, []).append(reading)
                sites[number].add(reading.site_id)
        except PermanentError as error:
            outcomes[number] = error
    failed = await _add(store, by_site)
    for number, its in enumerate(sites):
        for site in its & failed.keys():
            outcomes[number] = failed[site]
    return outcomes


def readings_of(job: Job) -> list[Reading]:
    """Read an entry: the fields of a reading, or an array of them as JSON in the field `readings`.

    Raises PermanentError: no further attempt makes a reading of it.
    """
    text = job.payload.get("readings")
    try:
        if isinstance(text, str) and len(job.payload) == 1:
            return parse(text)
        return [Reading.model_validate_strings(job.payload)]
    except ValidationError as error:
        raise PermanentError("bad_reading", one_line(faults(error))) from None


async def _add(store: Store, by_site: dict[str, list[Reading]]) -> dict[str, Exception]:
    """Add them; gives the sites that failed, and whose fault it was: that of Redis, or of what lies in their keys."""
    try:
        failed = await store.add(by_site) if by_site else {}
    except AWAY as error:
        failed = dict.fromkeys(by_site, error)
    return {
        site: TransientError(
            "not_stored",
            f"{site}: {type(error).__name__}: {error}",
            prior="unknown" if str(error).startswith("WRONGTYPE") else "endpoint",
        )
        for site, error in failed.items()
    }
