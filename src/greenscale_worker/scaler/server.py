"""Listens for KEDA, with TLS or without."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from greenscale_worker.errors import ConfigError
from greenscale_worker.scaler.service import Service

GOODBYE_SECONDS: Final = 2.0
OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second scaler on the same port is told so, instead of getting half of the calls
    ("grpc.keepalive_time_ms", 60_000),  # a client that vanished is dropped within 80 s
    ("grpc.keepalive_timeout_ms", 20_000),
)


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """PEM files: our certificate, its key, and the authority that clients must have theirs from; None: any client."""

    cert: str
    key: str
    ca: str | None = None


@asynccontextmanager
async def serving(service: Service, address: str, tls: TLSFiles | None = None) -> AsyncIterator[int]:
    """Serve on `host:port` until the block is left. Yields the port, which port 0 leaves to the system.

    At the end streams end well, and calls have two seconds. Raises ConfigError if it cannot listen.
    """
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((service.handlers(),))
    try:
        port = server.add_secure_port(address, _credentials(tls)) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        where = f"GREENSCALE_SCALER_LISTEN: cannot listen on {address}"
        raise ConfigError(f"{where}; an address of this machine and a free port are accepted") from error
    await server.start()
    try:
        yield port
    finally:
        service.stop()
        await server.stop(GOODBYE_SECONDS)


def _credentials(tls: TLSFiles) -> grpc.ServerCredentials:
    """Read the files again for each connection, as certificates are renewed; what cannot be read changes nothing."""
    last = _contents(tls)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        try:
            found = _contents(tls)
        except OSError:
            return None
        if found == last:
            return None
        last = found
        return _configuration(*found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(*last),
        renewed,  # type: ignore[arg-type]  # None, which says that nothing changed, is forgotten in its types
        require_client_authentication=tls.ca is not None,
    )


def _contents(tls: TLSFiles) -> tuple[bytes, bytes, bytes | None]:
    return Path(tls.key).read_bytes(), Path(tls.cert).read_bytes(), Path(tls.ca).read_bytes() if tls.ca else None


def _configuration(key: bytes, cert: bytes, ca: bytes | None) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)
