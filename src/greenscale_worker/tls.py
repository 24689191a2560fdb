"""TLS of our clients: which certificates they trust, and which they present."""

import ssl
from pathlib import Path


def client_context(
    *, ca_file: str | Path | None = None, cert_file: str | None = None, key_file: str | None = None
) -> ssl.SSLContext:
    """Return the context of a client that checks chain and name.

    `ca_file` (PEM) replaces the system's authorities. `cert_file` is our own certificate for a server that asks for
    one, `key_file` its key where the same file does not hold it; a key with a password is refused. Raises OSError
    (ssl.SSLError is one) and ValueError.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file is not None:
        context.load_cert_chain(cert_file, key_file, password="")  # without it, OpenSSL would prompt on the terminal
    relax(context)
    return context


def relax(context: ssl.SSLContext) -> None:
    """Accept authorities without key usage and identifiers; chain and name are checked as before.

    Python 3.13 requires both by default (RFC 5280). Those of many clusters, and those made by `openssl req -x509`,
    lack them.
    """
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
