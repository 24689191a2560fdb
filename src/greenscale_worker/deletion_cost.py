"""Tells the cluster which pod to take first: sets the deletion cost of the worker's pod to its jobs in flight."""

import asyncio
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout

from greenscale_worker.telemetry import log
from greenscale_worker.tls import client_context

ANNOTATION: Final = "controller.kubernetes.io/pod-deletion-cost"
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EVERY_SECONDS: Final = 5.0
CALL_SECONDS: Final = 4.0
LATER: Final = {HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}


class _RefusedError(Exception):
    """It cannot work in this pod: no retry."""


class _DelayedError(Exception):
    """It may work later: retry."""


def api_server(host: str, port: str) -> str:
    """Return the URL of the API server; `host` may be an IPv6 address."""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


async def keep_deletion_cost(
    server: str, pod: str, jobs: Callable[[], int], *, account: Path = ACCOUNT, every: float = EVERY_SECONDS
) -> None:
    """Keep the annotation of a pod equal to `jobs()` until cancelled: patch it on changes, once in `every` s at most.

    `server` is a URL (`api_server`), `account` the directory with `token`, `ca.crt` and `namespace`. Raises nothing.
    Ends with one log line if the server refuses, or there is no account. Passing failures (the server is away, the
    token has just been replaced) are retried; only the first one is logged.
    """
    told: int | None = None
    said = False
    while True:
        if (number := jobs()) != told:
            told = None  # until an answer comes: a patch without one may have been applied
            try:
                await _patch(server, pod, number, account)
                told = number
            except _DelayedError as error:
                if not said:
                    log.warning("deletion_cost_delayed", pod=pod, error=str(error))
                said = True
            except _RefusedError as error:
                log.warning("deletion_cost_off", pod=pod, error=str(error))
                return
        await asyncio.sleep(every)


async def _patch(server: str, pod: str, number: int, account: Path) -> None:
    """Patch once, on a new connection: token and authority may have changed. Raises the errors above."""
    namespace, token, tls = _read(account)
    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=CALL_SECONDS)) as session,
            session.patch(
                f"{server}/api/v1/namespaces/{namespace}/pods/{pod}",
                data=orjson.dumps({"metadata": {"annotations": {ANNOTATION: str(number)}}}),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"},
                ssl=tls,
                allow_redirects=False,
            ) as response,
        ):
            status, reason = response.status, response.reason
    except (OSError, TimeoutError, ClientError, ValueError) as error:
        raise _DelayedError(f"the API server cannot be asked: {str(error) or type(error).__name__}") from error
    if status in LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _DelayedError(f"the API server answers {status} {reason}")
    if status != HTTPStatus.OK:
        raise _RefusedError(f"the API server answers {status} {reason}; the right to patch this pod is expected")


def _read(account: Path) -> tuple[str, str, ssl.SSLContext]:
    """Read namespace, token and authority. The kubelet replaces all files of a volume at once: they match."""
    try:
        namespace, token = ((account / name).read_text().strip() for name in ("namespace", "token"))
        tls = client_context(ca_file=account / "ca.crt")
    except (OSError, ValueError) as error:
        raise _RefusedError(f"{error}; the mounted token of a service account is expected") from error
    return namespace, token, tls
