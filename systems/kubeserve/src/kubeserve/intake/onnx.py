"""An ONNX model, told by the fields of its protobuf, without its libraries.

Field numbers are those of onnx.proto: ModelProto, GraphProto, TensorProto, OperatorSetIdProto.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kubeserve.intake.verdicts import RejectedError

MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSET = 1, 7, 8
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
OPSET_DOMAIN, NODE_DOMAIN = 1, 7
MODEL_FIELDS: Final = frozenset({*range(1, 9), 14, 20, 25, 26})
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT: Final = 10
MOST_FIELDS: Final = 1_000_000  # of one message
MOST_DOMAINS: Final = 32

_Field = tuple[int, int, int]  # number, where its content starts and ends; a number's content is empty


class _NotProtobufError(ValueError):
    pass


def is_onnx(head: bytes) -> bool:
    """Whether a file that begins so is a model: first the version of its format, then a field that a model has."""
    try:
        first, at = _varint(head, 0, len(head))
        at = _varint(head, at, len(head))[1]
        second = _varint(head, at, len(head))[0]
    except _NotProtobufError:
        return False
    return first == MODEL_IR_VERSION << 3 | VARINT and second >> 3 in MODEL_FIELDS


def onnx_domains(path: Path) -> tuple[str, ...]:
    """The sets of operators that it uses, as `ai.onnx`. Raises RejectedError for what onnxruntime cannot take."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return _domains(content)
        except _NotProtobufError as error:
            raise RejectedError(f"the ONNX file is truncated or damaged: {error}") from None


def _domains(content: mmap.mmap) -> tuple[str, ...]:
    found: dict[str, None] = {}
    graphs = 0
    for number, start, end in _fields(content, 0, len(content)):
        if number == MODEL_GRAPH:
            graphs += 1
            _check_graph(content, start, end)
        elif number == MODEL_OPSET and len(found) < MOST_DOMAINS:
            names = [content[s:e] for n, s, e in _fields(content, start, end) if n == OPSET_DOMAIN]
            found.setdefault((names[-1] if names else b"").decode("utf-8", "replace")[:100] or "ai.onnx")
    if graphs != 1:
        raise RejectedError(
            f"the ONNX file has {graphs} graphs where a model has one: it is truncated, or several in one"
        )
    return tuple(found)


def _check_graph(content: mmap.mmap, start: int, end: int) -> None:
    for number, tensor, tensor_end in _fields(content, start, end):
        if number == GRAPH_INITIALIZER and any(
            n in {TENSOR_EXTERNAL, TENSOR_LOCATION} for n, _, _ in _fields(content, tensor, tensor_end)
        ):
            raise RejectedError("the ONNX file keeps data in other files; save it with save_as_external_data=False")


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[_Field]:
    for _ in range(MOST_FIELDS):
        if at == end:
            return
        key, at = _varint(content, at, end)
        number, kind = key >> 3, key & 7
        start = at
        if kind == VARINT:
            start = at = _varint(content, at, end)[1]
        elif kind == BYTES:
            length, start = _varint(content, at, end)
            at = start + length
        elif kind in {FIXED64, FIXED32}:
            at += 8 if kind == FIXED64 else 4
        else:
            raise _NotProtobufError(f"byte {at} is none of a message")
        if number == 0 or at > end:
            raise _NotProtobufError(f"a field at byte {start} goes beyond its end")
        yield number, start, at
    raise _NotProtobufError(f"more than {MOST_FIELDS} fields")


def _varint(content: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for index in range(LONGEST_VARINT):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at
    raise _NotProtobufError(f"a number at byte {at} has no end")
