"""What GreenScale's worker does with an entry of the stream: it stores its readings (GREENSCALE_BACKEND)."""

from collections.abc import Sequence
from typing import Final

from greenscale_worker.errors import ConfigError, PermanentError, QueueUnavailableError, TransientError
from greenscale_worker.job import Job
from greenscale_worker.queues.redis_common.errors import mapped

from energy_readings.reading import Reading, ValidationError, faults, one_line, parse
from energy_readings.store import Store

STORED: Final = ""  # the answer to a job: nobody reads it

# What the worker is told beside where Redis is; the environment goes before these.
WORKER: Final = {
    "GREENSCALE_QUEUE": "stream",
    "REDIS_STREAM_NAME": "energy_readings",
    "GREENSCALE_STREAM_GROUP": "processing_group",
    "GREENSCALE_BACKEND": "energy_readings.processing:store",
    "GREENSCALE_CONCURRENCY": "200",
    "GREENSCALE_RESULT_TTL_SECONDS": "0",
    "GREENSCALE_LOG_LEVEL": "warning",
}


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


async def store_all(store: Store, jobs: Sequence[Job]) -> list[str | Exception]:
    """Store the readings of many entries, with one round trip; gives for each that it is done, or why it is not.

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
    failed = {site: _explained(error) for site, error in (await _add(store, by_site)).items()}
    for number, its in enumerate(sites):
        for site in its & failed.keys():
            outcomes[number] = failed[site]
    return outcomes


async def _add(store: Store, by_site: dict[str, list[Reading]]) -> dict[str, Exception]:
    if not by_site:
        return {}
    try:
        with mapped():
            return await store.add(by_site)
    except (QueueUnavailableError, ConfigError) as error:
        return dict.fromkeys(by_site, error)


def _explained(error: Exception) -> Exception:
    """Say of what Redis refused whose fault it is: never the reading's."""
    return TransientError("store_unavailable", f"{type(error).__name__}: {error}", counted=False)
