"""What comes from outside, before a database sees it."""

import unicodedata
from typing import Final

from kubeserve.domain import NAME
from kubeserve.errors import Fault, KubeServeError

LONGEST_LINE: Final = 500
LONGEST_DESCRIPTION: Final = 2000
MOST_A_MINUTE: Final = 1_000_000


def named(field: str, text: str) -> str:
    """Give a name back. Raises KubeServeError unless it may name a model, a version, an alias or a deployment."""
    if NAME.fullmatch(text):
        return text
    raise refused(field, "1 to 63 of a-z, 0-9, '.', '_' and '-' are accepted, with a letter or a digit at both ends")


def written(field: str, text: str, longest: int = LONGEST_DESCRIPTION) -> str:
    """Give a text of people's back, without space at its ends. Raises KubeServeError if it cannot be kept."""
    text = unicodedata.normalize("NFC", text.strip())
    sound = all(character.isprintable() or character in "\n\t" for character in text)
    if sound and len(text) <= longest:
        return text
    raise refused(field, f"at most {longest} characters that can be printed are accepted")


def per_minute(number: int | None) -> int | None:
    """Give a limit of requests a minute back, None for none. Raises KubeServeError if it is not accepted."""
    if number is None or 1 <= number <= MOST_A_MINUTE:
        return number
    raise refused("requests_per_minute", f"1 to {MOST_A_MINUTE:,} are accepted")


def line(text: str) -> str:
    """Make one line, that may be kept and shown, of what something said."""
    shown = "".join(character if character.isprintable() else " " for character in text[: 4 * LONGEST_LINE])
    shown = " ".join(shown.split())
    return shown if len(shown) <= LONGEST_LINE else f"{shown[: LONGEST_LINE - 1]}…"


def refused(field: str, message: str) -> KubeServeError:
    """Refuse one field, saying what is accepted."""
    return KubeServeError(f"{field}: {message}", faults=[Fault(field, message)])
