"""Signatures of Standard Webhooks, which `client.webhooks.unwrap()` of the openai client verifies.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Final

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
SHOWN: Final = 4  # characters of a secret in its hint


def new_secret() -> str:
    """Make a secret: `whsec_` and 256 random bits in base64."""
    return PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def hint_of(secret: str) -> str:
    """Return what may be shown of a secret."""
    return f"{PREFIX}…{secret[-SHOWN:]}"


def headers_of(message_id: str, at: int, body: bytes, signing: Iterable[str]) -> dict[str, str]:
    """Return the headers of a message sent `at` a time (seconds since the epoch), with a signature by each secret."""
    signed = f"{message_id}.{at}.".encode() + body
    digests = (hmac.digest(b64decode(secret.removeprefix(PREFIX)), signed, "sha256") for secret in signing)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{b64encode(digest).decode()}" for digest in digests),
    }
