"""What a key may be: a path of names below the root of the store, the same in a directory and in S3."""

import re
import unicodedata
from typing import Final

from kubeserve.errors import Fault, KubeServeError

LONGEST_KEY: Final = 800  # bytes: S3 takes 1024, and an incoming file has a longer one
LONGEST_NAME: Final = 240  # bytes: file systems take 255
RESERVED: Final = re.compile(r"#\d+$")  # how a file that is being written is called in a directory


def check_key(key: str) -> str:
    """Return the key. Raises KubeServeError if it leaves the root, is too long, or has a name that no file may have."""
    if len(key.encode(errors="replace")) > LONGEST_KEY:
        raise _refused(f"it is longer than {LONGEST_KEY} bytes")
    for name in key.split("/"):
        check_name(name)
    return key


def check_name(name: str) -> str:
    """Return the name of a file. Raises KubeServeError if no file may be called so."""
    if not name:
        raise _refused("a name is empty; no slash at the beginning or the end, nor two together")
    if name.startswith("."):
        raise _refused("a name begins with a dot")
    if "/" in name or "\\" in name:
        raise _refused("a name has a slash or a backslash")
    if any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in name):
        raise _refused("a name has characters that cannot be seen")
    if len(name.encode()) > LONGEST_NAME:
        raise _refused(f"a name is longer than {LONGEST_NAME} bytes")
    if RESERVED.search(name):
        raise _refused("a name ends with # and a number")
    return name


def _refused(why: str) -> KubeServeError:
    return KubeServeError(f"this is no name for a file: {why}", code="bad_name", faults=[Fault("name", why)])
