"""`greenscale-worker serve`: runs the gateway."""

import argparse
import asyncio
import errno
import gc
import signal
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from greenscale_worker.cli.context import open_client
from greenscale_worker.cli.process import run_logged
from greenscale_worker.cli.usage import add_command
from greenscale_worker.errors import ConfigError, QueueUnavailableError

if TYPE_CHECKING:
    from greenscale_worker.backends.chat import ChatBackend
    from greenscale_worker.batches.creating import Creator
    from greenscale_worker.batches.feeder import Feeder
    from greenscale_worker.config import Settings
    from greenscale_worker.files.objects import FileObjects
    from greenscale_worker.gateway.core import Gateway
    from greenscale_worker.queues import QueueClient
    from greenscale_worker.webhooks.service import Webhooks

DESCRIPTION: Final = """\
Serve the queue over HTTP, until SIGTERM or Ctrl-C: submit jobs, follow, cancel
and read them, dead letters, and the numbers of the queue. /docs is a page for
people, /openapi.json the same for machines.

It listens on GREENSCALE_GATEWAY_HOST (127.0.0.1) and GREENSCALE_GATEWAY_PORT
(8400). Where others can reach it, it needs keys: `greenscale-worker keys`.
Workers are other processes: `greenscale-worker`."""
NOTES: Final = """\
SIGTERM: those who wait for a job have GREENSCALE_DRAIN_SECONDS to be answered,
then they are told where to look; again: now. No job is lost by it."""
EXAMPLES: Final = """\
greenscale-worker serve
curl http://127.0.0.1:8400/v1/jobs -H 'Prefer: wait=60' \\
  -d '{"prompt": "What is 2+2?"}'"""
CODES: Final = """\
0  stopped by SIGTERM or Ctrl-C
2  a wrong setting, a port that is in use, or an address that others can reach
   while there are no keys"""
GARBAGE_THRESHOLD: Final = 50_000  # as of a worker: a request leaves few cycles behind
AGAIN_SECONDS: Final = 1.0
SAY_AGAIN_SECONDS: Final = 60.0
RAISED_FILES: Final = 65_536
# Log events of the workers beside it, of which it has too many, or which those of the jobs log as well.
OF_WORKERS: Final = ("job", "redis_not_persistent", "redis_may_evict")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    text = "serve the queue over HTTP"
    parser = add_command(subparsers, "serve", text, DESCRIPTION, notes=NOTES, examples=EXAMPLES, codes=CODES)
    parser.set_defaults(run=run)


def run(_args: argparse.Namespace) -> int:
    """Serve until a signal. Raises ConfigError."""
    return run_logged(_serve, left_out=OF_WORKERS)


async def _serve(settings: "Settings") -> int:
    from greenscale_worker.telemetry import log

    if not settings.result_ttl_seconds:
        raise ConfigError(
            "GREENSCALE_RESULT_TTL_SECONDS is 0, so that no answer is kept that a gateway could give; expected: above 0"
        )
    _allow_many_connections()
    _say_once_that_files_are_out()
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        gateway = await _open(settings, stack)

        def stop() -> None:
            (gateway.hurry if stopping.is_set() else stopping).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        if not gateway.options.open_without_keys and not await _has_keys(gateway, settings.gateway_host, stopping):
            return 0
        await _start_workers(settings, gateway, stopping, stack)
        await _answer(settings, gateway, stopping)
    log.info("stopped")
    return 0


async def _open(settings: "Settings", stack: AsyncExitStack) -> "Gateway":
    """Open the gateway with all it needs. Raises ConfigError."""
    from greenscale_worker.batches.places import KnownPlaces
    from greenscale_worker.config import chat_options, queue_name
    from greenscale_worker.files.store import open_files
    from greenscale_worker.gateway.core import Gateway, GatewayOptions, is_loopback

    endpoint = _endpoint(settings)
    options = GatewayOptions(
        queue=queue_name(settings),
        max_bytes=settings.max_payload_bytes,
        chat=settings.backend == "chat",
        drain=settings.drain_seconds,
        key=settings.gateway_key.get_secret_value() if settings.gateway_key else None,
        model=None if endpoint is None else chat_options(settings, model_optional=True).model,
        max_tokens_parameter=settings.max_tokens_parameter,
        list_models=None if endpoint is None else endpoint.models,
        open_without_keys=is_loopback(settings.gateway_host),
    )
    queue = await stack.enter_async_context(aclosing(await open_client(settings)))
    if endpoint is not None:
        stack.push_async_callback(endpoint.aclose)
    files, batch_jobs = None, None
    if settings.files_url:
        batch_jobs = await _own_queue(settings, "batches", stack)
        files = open_files(settings.files_url, KnownPlaces(batch_jobs))
        await stack.enter_async_context(aclosing(files))
    webhooks = await _webhooks(settings, stack)
    return Gateway(queue, options, files, webhooks=webhooks, batch_jobs=batch_jobs)


async def _start_workers(
    settings: "Settings", gateway: "Gateway", stopping: asyncio.Event, stack: AsyncExitStack
) -> None:
    """Run webhooks, and batches where there are files, beside the gateway until `stopping` is set."""
    from greenscale_worker.batches import feeder
    from greenscale_worker.cli.beside import beside
    from greenscale_worker.webhooks import delivery

    start = partial(beside, settings, stopping=stopping, hurry=gateway.hurry)
    if gateway.webhooks is not None:
        deliveries = gateway.webhooks.deliveries
        await stack.enter_async_context(start("webhooks", deliveries, lanes=delivery.LANES, policy=delivery.POLICY))
    if gateway.batching is not None and gateway.file_objects is not None:
        feeding = _feeder(settings, gateway, gateway.batching, gateway.file_objects, stopping)
        await stack.enter_async_context(start("batches", feeding, lanes=feeder.LANES, policy=feeder.POLICY))


async def _answer(settings: "Settings", gateway: "Gateway", stopping: asyncio.Event) -> None:
    """Answer requests until `stopping` is set. Raises ConfigError if it cannot listen."""
    from greenscale_worker.config import redis_options
    from greenscale_worker.config.rules import masked
    from greenscale_worker.gateway.app import serving
    from greenscale_worker.telemetry import log

    async with serving(gateway, settings.gateway_host, settings.gateway_port) as port:
        name = f"[{settings.gateway_host}]" if ":" in settings.gateway_host else settings.gateway_host
        log.info(
            "gateway_started",
            url=f"http://{name}:{port}",
            queue=gateway.options.queue,
            kind=settings.queue,
            redis=masked(redis_options(settings).url),
        )
        gc.freeze()
        gc.set_threshold(GARBAGE_THRESHOLD)
        await stopping.wait()
        log.info("draining", seconds=gateway.options.drain)


async def _webhooks(settings: "Settings", stack: AsyncExitStack) -> "Webhooks":
    """Open the queue of webhooks."""
    from greenscale_worker.webhooks.sender import Sender
    from greenscale_worker.webhooks.service import Webhooks

    client = await _own_queue(settings, "webhooks", stack)
    webhooks = Webhooks(client, sender=Sender(allow_private=settings.webhooks_allow_private))
    stack.push_async_callback(webhooks.aclose)
    return webhooks


async def _own_queue(settings: "Settings", part: str, stack: AsyncExitStack) -> "QueueClient":
    """Open a queue of the gateways' own, which is a list beside that of the jobs, whatever kind that is."""
    from greenscale_worker.config import own_queue_options, redis_options
    from greenscale_worker.queues.registry import open_client

    client = await open_client("list", redis_options(settings), own_queue_options(settings, part))
    return await stack.enter_async_context(aclosing(client))


def _feeder(
    settings: "Settings", gateway: "Gateway", batching: "Creator", objects: "FileObjects", stopping: asyncio.Event
) -> "Feeder":
    """Return what runs batches; once `stopping` is set, its steps end soon."""
    from greenscale_worker.batches.feeder import Feeder, FeederOptions

    async def others() -> int:
        depth = await batching.jobs.depth()
        return depth.waiting + depth.delayed

    return Feeder(
        batching.batches,
        objects,
        gateway.queue,
        options=FeederOptions(max_bytes=settings.max_payload_bytes, answers_last=settings.result_ttl_seconds),
        tell=None if gateway.webhooks is None else gateway.webhooks.events.tell,
        others=others,
        hurried=stopping,
    )


def _endpoint(settings: "Settings") -> "ChatBackend | None":
    """Return the endpoint, to ask it for its models; None if the settings name none. Raises ConfigError."""
    from greenscale_worker.backends.chat import ChatBackend
    from greenscale_worker.config import chat_options, has_endpoint

    if settings.backend != "chat" or not has_endpoint(settings):
        return None
    return ChatBackend(chat_options(settings, model_optional=True))


async def _has_keys(gateway: "Gateway", host: str, stopping: asyncio.Event) -> bool:
    """Return whether there are keys, False if stopped before that is known. Raises ConfigError if there are none."""
    while not gateway.keyring.exists:
        try:
            await gateway.keyring.refresh()
        except QueueUnavailableError as error:
            gateway.queue_is_away(str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await stopping.wait()
                return False
        else:
            if not gateway.keyring.exists:
                raise ConfigError(
                    f"GREENSCALE_GATEWAY_HOST: {host} can be reached by others, and there are no keys; expected:"
                    " `greenscale-worker keys create`, or GREENSCALE_GATEWAY_KEY, or 127.0.0.1"
                )
    return True


def _say_once_that_files_are_out() -> None:
    """Log it once a minute: asyncio would write hundreds of tracebacks a second, and do nothing else meanwhile."""
    from greenscale_worker.telemetry import log

    said_at = float("-inf")

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal said_at
        if "_start_serving" in repr(context.get("handle")):
            return  # asyncio listens again a second after files were out, also if the gateway was stopped meanwhile
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() - said_at > SAY_AGAIN_SECONDS:
            said_at = loop.time()
            log.warning("out_of_files", error=error.strerror)

    asyncio.get_running_loop().set_exception_handler(handle)


def _allow_many_connections() -> None:
    """Raise the limit of open files, which is often 1,024, as far as the system lets us."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = RAISED_FILES if hard == resource.RLIM_INFINITY else min(hard, RAISED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
