"""Which files a version may have: one model, and beside it requirements.txt and sample.json."""

from collections.abc import Iterable
from typing import Final

from kubeserve.domain import LARGEST_MODEL, LARGEST_REQUIREMENTS, LARGEST_SAMPLE, REQUIREMENTS, SAMPLE, SUFFIXES
from kubeserve.errors import ConflictError, Fault, KubeServeError, TooLargeError
from kubeserve.objects import check_name

LONGEST: Final = 180  # bytes of a name: what is on its way has a longer one
BESIDE: Final = {REQUIREMENTS: LARGEST_REQUIREMENTS, SAMPLE: LARGEST_SAMPLE}  # a model, each with its largest size
ACCEPTED: Final = f"{', '.join(SUFFIXES)}, and {' and '.join(BESIDE)}"


def check_file(name: str, size: int | None = None) -> int:
    """Return how many bytes a file of this name may have.

    Raises KubeServeError if no file of a version may be called so, TooLargeError if `size` is more than that.
    """
    check_name(name)
    if len(name.encode()) > LONGEST:
        raise _refused(f"the name of a file has at most {LONGEST} bytes")
    if name not in BESIDE and not is_model(name):
        raise _refused(f"{name!r} is not accepted: {ACCEPTED} are")
    largest = LARGEST_MODEL if is_model(name) else BESIDE[name]
    if size is not None and size > largest:
        raise too_large(name, largest)
    return largest


def is_model(name: str) -> bool:
    """Return whether it is a model by its suffix."""
    return name.lower().endswith(SUFFIXES)


def check_beside(name: str, others: Iterable[str]) -> None:
    """Raise ConflictError if `name` would be the second model of a version that has the files `others`."""
    for other in others:
        if is_model(name) and is_model(other) and other != name:
            raise ConflictError(
                f"a version has one model, and this one has {other!r}: remove that first", code="second"
            )


def too_large(name: str, largest: int) -> TooLargeError:
    """Say how much is accepted."""
    most = f"{largest // 1024**2} MiB" if largest >= 1024**2 else f"{largest // 1024} KiB"
    return TooLargeError(f"{name!r} is too large: at most {most} ({largest} bytes) are accepted")


def _refused(why: str) -> KubeServeError:
    return KubeServeError(why, code="bad_name", faults=[Fault("name", why)])
