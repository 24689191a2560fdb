"""Files by key, in a directory or in any S3: written once, never changed, read and written in constant memory.

A key is written whole or not at all, and by one writer: the same content again is fine, other content is a
ConflictError. A store that does not answer, refuses our credentials, or has a full disk is an UnavailableError, at the
latest when one request has taken twice the `timeout` of `open_objects`.
"""

from kubeserve.objects.keys import check_key, check_name
from kubeserve.objects.protocol import Digest, Objects
from kubeserve.objects.store import open_objects

__all__ = ["Digest", "Objects", "check_key", "check_name", "open_objects"]
