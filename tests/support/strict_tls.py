"""Contexts of TLS as strict as those of Python 3.13, which refuse what `openssl req -x509` makes in one line."""

import ssl
from typing import Any

import pytest


def be_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every new context ask authorities for key usage and identifiers, as Python 3.13 does."""
    make = ssl.create_default_context

    def strict(*args: Any, **options: Any) -> ssl.SSLContext:
        context = make(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
