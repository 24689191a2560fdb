"""What a pickle would import and do, told by reading its opcodes; nothing is imported or called.

joblib puts the bytes of arrays between the opcodes, where a reader of pickles alone goes astray and what follows stays
unseen. So the few values that say how long an array is are followed here as the unpickler would.
"""

import pickletools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

from kubeserve.intake.streams import CHUNK, Source
from kubeserve.intake.verdicts import RejectedError

LARGE: Final = 256  # bytes of one argument that the scanner need not see: it takes data for code
MOST_PROGRAM: Final = 64 * 1024**2  # bytes of opcodes that are kept for the scanner
SHORT: Final = 256  # characters of a text that may be a name
DEEPEST: Final = 16  # pickles in arrays of objects in pickles
WIDTHS: Final = {"U": 4}  # bytes per character of numpy's dtypes, where it is not 1
HAS_OBJECTS: Final = 0x01  # of a dtype's flags
PAYLOADS: Final = {  # a large argument is told to the scanner as an empty one
    "BINBYTES": b"C\x00", "BINBYTES8": b"C\x00", "BYTEARRAY8": b"\x96" + bytes(8), "BINUNICODE": b"\x8c\x00",
    "BINUNICODE8": b"\x8c\x00", "BINSTRING": b"U\x00",
}  # fmt: skip


class IncompleteError(Exception):
    """The rest cannot be followed: the time is up, or it holds what is not known here. What was found stands."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle imports."""

    name: str


@dataclass(slots=True)
class Made:
    """What a call would return; `state` is what BUILD gave it."""

    of: Any
    arguments: Any
    state: Any = None


@dataclass(slots=True)
class Findings:
    """`globals` in order of appearance; `programs`: each pickle's opcodes without large data, for a scanner."""

    globals: dict[str, None] = field(default_factory=dict)
    programs: list[bytes] = field(default_factory=list)
    incomplete: str = ""


_MARK: Final = object()
_Stack = list[Any]


class Tape:
    """A source as `pickletools` wants it, which remembers what was read since it was last asked."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = b""
        self._at = 0
        self.recorded = bytearray()
        self.position = 0

    def read(self, size: int, *, record: bool = True) -> bytes:
        """So many bytes, fewer only at the end."""
        parts = []
        while size > 0 and self._fill():
            part = self._next(size)
            size -= len(part)
            parts.append(part)
        found = b"".join(parts)
        if record:
            self.recorded += found[: max(0, LARGE + 1 - len(self.recorded))]
        return found

    def skip(self, size: int) -> bool:
        """Whether there was so much to be passed over."""
        while size > 0 and self._fill():
            size -= len(self._next(size))
        return size == 0

    def readline(self) -> bytes:
        """Up to the next line feed; no line of a pickle is longer than a chunk."""
        line = b""
        while not line.endswith(b"\n") and len(line) < CHUNK and self._fill():
            line += self.read(self._buffer.find(b"\n", self._at) + 1 - self._at or len(self._buffer) - self._at)
        return line

    def tell(self) -> int:
        """How many bytes were read."""
        return self.position

    def taken(self) -> bytes:
        """What was read since the last call, cut after LARGE bytes."""
        taken = bytes(self.recorded)
        self.recorded.clear()
        return taken

    def _next(self, size: int) -> bytes:
        part = self._buffer[self._at : self._at + size]
        self._at += len(part)
        self.position += len(part)
        return part

    def _fill(self) -> bool:
        if self._at >= len(self._buffer):
            self._buffer, self._at = self._source.read(CHUNK), 0
        return self._at < len(self._buffer)


def read_pickle(source: Source, seconds: float, *, joblib: bool) -> Findings:
    """Read one pickle to its end, which must be the end of the source.

    Raises RejectedError for one that is truncated, damaged, or followed by more. What cannot be read in `seconds`, or
    followed, is told as `incomplete`.
    """
    tape, findings = Tape(source), Findings()
    try:
        _Reader(tape, findings, time.monotonic() + seconds, joblib=joblib).read()
        if tape.read(1):
            raise RejectedError(f"the file goes on after the end of its pickle, at byte {tape.position}")
    except IncompleteError as error:
        findings.incomplete = str(error)
    return findings


class _Reader:
    """Follows one pickle. Values that do not matter are None."""

    def __init__(self, tape: Tape, findings: Findings, ends: float, *, joblib: bool, depth: int = 0) -> None:
        self._tape = tape
        self._findings = findings
        self._ends = ends
        self._joblib = joblib
        self._depth = depth
        self._stack: _Stack = []
        self._memo: dict[int, Any] = {}
        self._program = bytearray()

    def read(self) -> None:
        count = 0
        try:
            for opcode, argument, _ in pickletools.genops(self._tape):  # type: ignore[arg-type]  # needs no more than these
                count += 1
                if count % 4096 == 0 and time.monotonic() > self._ends:
                    raise IncompleteError(f"not read beyond byte {self._tape.position}: the time was up")
                self._keep(opcode.name)
                self._follow(opcode, argument)
        except (ValueError, UnicodeDecodeError) as error:
            raise self._damage(str(error)) from None
        finally:
            self._findings.programs.append(bytes(self._program))

    def _damage(self, what: str) -> Exception:
        at = self._tape.position
        if not self._tape.read(1):
            return RejectedError(f"the file is truncated: its pickle has no end, at byte {at}")
        return RejectedError(f"the file is damaged at byte {at}: {what}")

    def _keep(self, name: str) -> None:
        raw = self._tape.taken()
        if name == "FRAME":  # its length would no longer be right
            return
        self._program += PAYLOADS.get(name, b"") if len(raw) > LARGE else raw
        if len(self._program) > MOST_PROGRAM:
            raise IncompleteError(f"not read beyond byte {self._tape.position}: too many instructions")

    def _follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        special = _SPECIAL.get(opcode.name)
        if special is not None:
            special(self, argument)
            return
        taken = self._pop(opcode)
        kept = argument if isinstance(argument, int) or (isinstance(argument, str) and len(argument) <= SHORT) else None
        for made in opcode.stack_after:
            self._stack.append(_MARK if made is pickletools.markobject else kept)
        if opcode.name.startswith(("TUPLE", "EMPTY_TUPLE")):
            self._stack[-1] = tuple(taken)
        elif opcode.name in {"DICT", "EMPTY_DICT"}:
            self._stack[-1] = {}
        elif opcode.name in {"NEWTRUE", "NEWFALSE"}:
            self._stack[-1] = opcode.name == "NEWTRUE"

    def _pop(self, opcode: pickletools.OpcodeInfo) -> _Stack:
        if pickletools.markobject in opcode.stack_before:
            taken = self._to_mark()
            above = opcode.stack_before.index(pickletools.markobject)
        else:
            taken, above = [], len(opcode.stack_before)
        return [*reversed([self._one() for _ in range(above)]), *taken]

    def _one(self) -> Any:
        return self._stack.pop() if self._stack else None

    def _to_mark(self) -> _Stack:
        taken = []
        while self._stack and (value := self._stack.pop()) is not _MARK:
            taken.append(value)
        return taken[::-1]

    def name(self, module: Any, name: Any) -> None:
        """Import a name; one that is put together where it cannot be followed is `?`."""
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"
        self._findings.globals.setdefault(full)
        self._stack.append(Global(full))

    def named(self, argument: str) -> None:
        self.name(*argument.split(" ", 1))

    def stack_named(self, _: Any) -> None:
        name, module = self._one(), self._one()
        self.name(module, name)

    def inst(self, argument: str) -> None:
        arguments = tuple(self._to_mark())
        self.named(argument)
        self._stack.append(Made(self._one(), arguments))

    def obj(self, _: Any) -> None:
        of, *arguments = self._to_mark() or [None]
        self._stack.append(Made(of, tuple(arguments)))

    def call(self, _: Any) -> None:
        arguments, of = self._one(), self._one()
        reconstructs = isinstance(of, Global) and of.name.endswith("._reconstructor")
        if reconstructs and isinstance(arguments, tuple) and arguments:  # protocols 0 and 1
            of = arguments[0]
        self._stack.append(Made(of, arguments))

    def call_with_names(self, _: Any) -> None:
        _names, arguments, of = self._one(), self._one(), self._one()
        self._stack.append(Made(of, arguments))

    def put(self, place: Any) -> None:
        self._memo[place] = self._stack[-1] if self._stack else None

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def get(self, place: Any) -> None:
        self._stack.append(self._memo.get(place))

    def duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1] if self._stack else None)

    def set_item(self, _: Any) -> None:
        value, key = self._one(), self._one()
        self._set({key: value} if isinstance(key, str) else {})

    def set_items(self, _: Any) -> None:
        items = self._to_mark()
        self._set({k: v for k, v in zip(items[::2], items[1::2], strict=False) if isinstance(k, str)})

    def _set(self, items: dict[str, Any]) -> None:
        if self._stack and isinstance(self._stack[-1], dict):
            self._stack[-1].update(items)

    def build(self, _: Any) -> None:
        state = self._one()
        made = self._stack[-1] if self._stack else None
        if isinstance(made, Made):
            made.state = state
            if self._joblib and isinstance(made.of, Global) and made.of.name.endswith(".NumpyArrayWrapper"):
                self._pass_array(made.state if isinstance(made.state, dict) else {})

    def _pass_array(self, state: dict[str, Any]) -> None:
        """Pass over an array as joblib's `NumpyArrayWrapper.read_array` reads it."""
        size = _itemsize(state.get("dtype"))
        shape = state.get("shape")
        if size is None or not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise IncompleteError(f"not read beyond byte {self._tape.position}: an array of a kind that is not known")
        if size == 0:
            self._read_objects()
            return
        padding = int.from_bytes(self._tape.read(1, record=False)) if state.get("numpy_array_alignment_bytes") else 0
        padded = self._tape.skip(padding)
        if not padded or not self._tape.skip(size * prod(shape)):
            raise RejectedError(f"the file is truncated: an array of {size * prod(shape)} bytes has no end")

    def _read_objects(self) -> None:
        if self._depth == DEEPEST:
            raise RejectedError(f"the file is damaged: arrays of objects in one another, more than {DEEPEST} deep")
        _Reader(self._tape, self._findings, self._ends, joblib=False, depth=self._depth + 1).read()


def _itemsize(dtype: Any) -> int | None:
    """The bytes of one element; 0 for objects, which follow as a pickle; None where it is not known."""
    if not isinstance(dtype, Made) or not isinstance(dtype.arguments, tuple) or not dtype.arguments:
        return None
    code = dtype.arguments[0]
    if not isinstance(code, str) or not code[1:].isdecimal():
        return None
    flags = dtype.state[-1] if isinstance(dtype.state, tuple) and dtype.state else 0
    if code[0] == "O" or (code[0] == "V" and isinstance(flags, int) and flags & HAS_OBJECTS):
        return 0
    return int(code[1:]) * WIDTHS.get(code[0], 1)


_SPECIAL: Final[dict[str, Callable[[_Reader, Any], None]]] = {
    "GLOBAL": _Reader.named,
    "STACK_GLOBAL": _Reader.stack_named,
    "INST": _Reader.inst,
    "OBJ": _Reader.obj,
    "REDUCE": _Reader.call,
    "NEWOBJ": _Reader.call,
    "NEWOBJ_EX": _Reader.call_with_names,
    "PUT": _Reader.put,
    "BINPUT": _Reader.put,
    "LONG_BINPUT": _Reader.put,
    "MEMOIZE": _Reader.memoize,
    "GET": _Reader.get,
    "BINGET": _Reader.get,
    "LONG_BINGET": _Reader.get,
    "DUP": _Reader.duplicate,
    "SETITEM": _Reader.set_item,
    "SETITEMS": _Reader.set_items,
    "BUILD": _Reader.build,
}
