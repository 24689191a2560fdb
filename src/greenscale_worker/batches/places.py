"""Which directories hold files, as the queue of batches keeps it."""

from hashlib import sha256

from greenscale_worker.queues import QueueClient


class KnownPlaces:
    """Directories that gateways of a queue have used; `jobs` is their queue of batches."""

    def __init__(self, jobs: QueueClient) -> None:
        self._jobs = jobs

    async def knows(self, directory: str) -> bool:
        """Return whether it was used before. Raises QueueUnavailableError."""
        return _name(directory) in await self._jobs.keys()

    async def remember(self, directory: str) -> None:
        """Remember that it is used. Raises QueueUnavailableError."""
        await self._jobs.set_key(_name(directory), directory.encode(errors="surrogateescape"))


def _name(directory: str) -> str:
    return "files-" + sha256(directory.encode(errors="surrogateescape")).hexdigest()[:32]
