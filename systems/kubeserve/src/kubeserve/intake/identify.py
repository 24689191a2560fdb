"""Tells the format of a model by its content. Its suffix must not say otherwise."""

import mmap
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from kubeserve.domain import SUFFIXES, Format
from kubeserve.intake.onnx import is_onnx
from kubeserve.intake.streams import compression, opened
from kubeserve.intake.verdicts import RejectedError

HEAD: Final = 4096
PICKLES: Final = frozenset({".joblib", ".pkl", ".pickle"})  # joblib is often written to .pkl: one family
EXPECTED: Final = {".skops": "a file of skops", ".onnx": "an ONNX model"}
JOBLIB_MARK: Final = b"joblib.numpy_pickle"
HIGHEST_PROTOCOL: Final = 5
ENOUGH: Final = 16  # opcodes that are plausible in a row: text is none
_OLD_STARTS: Final = re.compile(rb"c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n|\(|\]|\}|\)")  # of protocols 0 and 1
_NAMES: Final = {
    b"PK\x03\x04": "a zip",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an array of numpy",
    b"{": "JSON",
    b"<": "HTML or XML",
    b"\x7fELF": "a program",
    b"#!": "a script",
    b"%PDF": "a PDF",
    b"ZF": "a file of joblib older than 0.10, which cannot be read safely",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a file is: its format, and the compression around it."""

    format: Format
    compression: str | None = None

    def __str__(self) -> str:
        return f"{self.format}, compressed by {self.compression}" if self.compression else f"{self.format}"


def identify(path: Path, name: str) -> Identity:
    """What the file is by its content; `name` is the one it was uploaded under.

    Raises RejectedError when it is empty, none of the formats, or another one than its suffix says.
    """
    suffix = PurePath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise RejectedError(f"{name} is no name of a model: it ends in none of {' '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise RejectedError(f"{name} is empty")
    identity = _identity(path)
    expected = EXPECTED.get(suffix, "a pickle, of joblib or plain")
    if identity is None:
        raise RejectedError(f"{name} is {_guess(path)}; {suffix} says {expected}")
    fits = suffix in PICKLES if identity.format in {Format.JOBLIB, Format.PICKLE} else suffix == f".{identity.format}"
    if not fits:
        raise RejectedError(f"{name} holds {identity}, and its suffix says {expected}: name it for what it is")
    return identity


def _identity(path: Path) -> Identity | None:
    with path.open("rb") as file:
        head = file.read(HEAD)
    if compressed_by := compression(head):
        return _compressed(path, compressed_by)
    if is_pickle(head):
        return Identity(Format.JOBLIB if _mentions_joblib(path) else Format.PICKLE, None)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Identity(Format.SKOPS, None) if _has_schema(path) else None
    return Identity(Format.ONNX, None) if is_onnx(head) else None


def _compressed(path: Path, compressed_by: str) -> Identity | None:
    if compressed_by == "lz4":  # needs a package that only the environment of the model may have
        return Identity(Format.JOBLIB, compressed_by)
    with opened(path, compressed_by) as source:
        return Identity(Format.JOBLIB, compressed_by) if is_pickle(source.read(HEAD)) else None


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins so is a pickle, of any protocol."""
    if head[:1] == b"\x80":
        return len(head) > 1 and 0 < head[1] <= HIGHEST_PROTOCOL
    if not _OLD_STARTS.match(head):
        return False
    count = 0
    try:
        for count, (opcode, _, _) in enumerate(pickletools.genops(head), start=1):
            if opcode.name == "STOP" or count == ENOUGH:
                return True
    except ValueError:  # the head may end within an argument
        return len(head) == HEAD and count > 1
    return False


def _mentions_joblib(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(JOBLIB_MARK) >= 0


def _has_schema(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "schema.json" in archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise RejectedError(f"the zip is damaged or truncated ({error})") from None


def _guess(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(HEAD)
    if compressed_by := compression(head):
        return f"compressed by {compressed_by}, and what is in it is no pickle"
    for start, name in _NAMES.items():
        if head.startswith(start):
            return (
                f"{name}, no model of a format that is accepted"
                if start != b"PK\x03\x04"
                else "a zip, but none of skops"
            )
    return "text" if head.isascii() and b"\x00" not in head else "of no format that is accepted"
