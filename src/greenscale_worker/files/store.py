"""Opens the store that GREENSCALE_FILES names."""

import re
from importlib.util import find_spec
from typing import Final

from greenscale_worker.errors import ConfigError
from greenscale_worker.files import Files
from greenscale_worker.files.marker import Places

MEMORY: Final = "memory:"  # for tests: it goes with the process
BUCKET: Final = re.compile(r"s3://([^/?#@:]+)(?:/([^?#]*))?")
ACCEPTED: Final = "a directory, or s3://bucket/prefix"


def names_a_store(url: str) -> bool:
    """Return whether it is a directory, `s3://bucket/prefix` or `memory:`."""
    return bool(url) and url.isprintable() and (url == MEMORY or ":/" not in url or BUCKET.fullmatch(url) is not None)


def open_files(url: str, places: Places | None = None) -> Files:
    """Open a directory (made if it is missing), `s3://bucket/prefix`, or `memory:`. Nothing is asked of S3 yet.

    The variables AWS_* name the endpoint, the region and the credentials of S3, as for all its clients. An S3 must
    refuse a PUT with `If-None-Match: *` if the key is there, show what was written at once, and list keys in order.
    A directory is marked at its first use. `places` remembers which ones were used: one of them without its marker is
    unavailable, since its file system is not mounted; without `places`, one that loses its marker while it is open.
    Raises ConfigError for another URL, a directory that cannot be made, and without the extra `files`.
    """
    if not names_a_store(url):
        raise ConfigError(f"GREENSCALE_FILES: {url[:200]!r} names no store of files; expected: {ACCEPTED}")
    if find_spec("obstore") is None:
        raise ConfigError(
            "GREENSCALE_FILES needs obstore, which is not installed; expected: pip install 'greenscale-worker[files]'"
        )
    from greenscale_worker.files import by_obstore  # noqa: PLC0415  only who keeps files needs obstore

    if url == MEMORY:
        return by_obstore.in_memory()
    if (bucket := BUCKET.fullmatch(url)) is not None:
        return by_obstore.in_s3(bucket[1], (bucket[2] or "").strip("/"))
    return by_obstore.in_directory(url, places)
