"""What producers and readers use: submit jobs, wait for their answers, list and cancel them (docs/producers.md).

    async with Client.from_env() as client:
        job_id = await client.submit("What is 2+2?", metadata={"tenant": "a"})
        answer = await client.wait(job_id, timeout=60)

`SyncClient` is the same for programs without an event loop.
"""

from greenscale_worker.client.asynchronous import Client, Completed
from greenscale_worker.client.synchronous import SyncClient

__all__ = ["Client", "Completed", "SyncClient"]
