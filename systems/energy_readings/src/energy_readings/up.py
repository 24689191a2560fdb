"""All four components on one machine, each in a process of its own; when one ends, all do."""

import asyncio
import signal
import sys
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout

from energy_readings.connection import AWAY, connect
from energy_readings.settings import Settings

ROLES: Final = ("ingest", "process", "readings", "page")
FAILED: Final = 1
START_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 0.1
GOODBYE_SECONDS: Final = 40.0  # the worker's drain time, and some to spare
NO_REDIS: Final = """\
energy-readings: Redis does not answer: {error}
Start one, 7 or newer:  redis-server --appendonly yes     (or: docker run --rm -p 6379:6379 redis:7-alpine)
or say where it is:     REDIS_HOST=… REDIS_PORT=… REDIS_PASSWORD=… energy-readings up
"""

Processes = dict[str, asyncio.subprocess.Process]


def up(settings: Settings) -> int:
    """Start all, and wait for SIGTERM or Ctrl-C (0), or for one of them to end (1). Raises ConfigError."""
    return asyncio.run(_up(settings))


async def _up(settings: Settings) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    if (error := await _redis_fault(settings)) is not None:
        sys.stderr.write(NO_REDIS.format(error=error))
        return FAILED
    processes = {role: await _start(role) for role in ROLES}
    stopped = asyncio.create_task(stopping.wait())
    ends = {asyncio.create_task(process.wait(), name=role) for role, process in processes.items()}
    saying = asyncio.create_task(_say_when_up(settings))
    try:
        await asyncio.wait({stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
        ended = sorted(task.get_name() for task in ends if task.done())
        for role in ended if not stopping.is_set() else ():
            sys.stderr.write(f"energy-readings: {role} has ended with {processes[role].returncode}; so do the others\n")
        return 0 if stopping.is_set() else FAILED
    finally:
        saying.cancel()
        stopped.cancel()
        await _end(processes, ends)


async def _redis_fault(settings: Settings) -> str | None:
    client = connect(settings)
    try:
        await client.ping()
    except AWAY as error:
        return str(error) or type(error).__name__
    finally:
        await client.aclose()
    return None


async def _start(role: str) -> asyncio.subprocess.Process:
    # A session of its own: Ctrl-C reaches this process only, which then ends the others in order.
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "energy_readings", role, start_new_session=True, stdin=asyncio.subprocess.DEVNULL
    )


async def _say_when_up(settings: Settings) -> None:
    urls = {
        "ingestion": settings.ingest,
        "readings": settings.readings,
        "page": f"http://127.0.0.1:{settings.page_port}",
    }
    async with ClientSession(timeout=ClientTimeout(total=1)) as session:
        for url in urls.values():
            while not await _healthy(session, url):  # noqa: ASYNC110  another process: nobody here can tell us
                await asyncio.sleep(LOOK_SECONDS)
    lines = [f"  {name:<10} {url}" for name, url in urls.items()]
    sys.stdout.write("\n".join(["energy-readings is up, Ctrl-C ends it:", *lines, ""]))
    sys.stdout.flush()


async def _healthy(session: ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/health") as reply:
            return reply.ok
    except (ClientError, TimeoutError):
        return False


async def _end(processes: Processes, ends: set[asyncio.Task[int]]) -> None:
    for process in processes.values():
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
    _, late = await asyncio.wait(ends, timeout=GOODBYE_SECONDS)
    for task in late:
        processes[task.get_name()].kill()
        await task
