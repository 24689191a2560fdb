"""Hostile and broken files, and how each must end: the words that its rejection has, or None where it passes."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Case:
    name: str
    content: Callable[[], bytes]
    ends: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.content.__name__}"


class Calls:
    """Pickles to a call of a function by its name; nothing of it is imported here."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.module, self.name, self.arguments = module, name, arguments

    def dumped(self) -> bytes:
        body = b"(" + b"".join(pickle.dumps(argument, 2)[2:-1] for argument in self.arguments) + b"t"
        return b"\x80\x02c%s\n%s\n%sR." % (self.module.encode(), self.name.encode(), body)


def calls(module: str, name: str, *arguments: Any) -> Callable[[], bytes]:
    def content() -> bytes:
        return Calls(module, name, *arguments).dumped()

    content.__name__ = f"{module}.{name}"
    return content


PLAIN: Final = pickle.dumps({"weights": [1.0, 2.0], "name": "x" * 100}, 4)


def empty() -> bytes:
    return b""


def truncated_pickle() -> bytes:
    return PLAIN[:-20]


def two_pickles() -> bytes:
    return PLAIN + PLAIN


def pickle_and_trailing_bytes() -> bytes:
    return PLAIN + b"#!/bin/sh\n"


def pickle_with_a_zip_behind() -> bytes:
    return PLAIN + skops()


def damaged_pickle() -> bytes:
    return PLAIN[:20] + b"\xff\xff" + PLAIN[20:]


def truncated_zlib() -> bytes:
    return zlib.compress(PLAIN * 10)[:-30]


def zlib_with_trailing_bytes() -> bytes:
    return zlib.compress(PLAIN) + b"more"


def gzip_of_two_pickles() -> bytes:
    return gzip.compress(PLAIN) + gzip.compress(PLAIN)


def zlib_of_text() -> bytes:
    return zlib.compress(b"hello " * 100)


def _bomb(compress: Callable[[bytes], bytes]) -> bytes:
    return compress(b"\x80\x04B" + struct.pack("<I", 80_000_000) + bytes(80_000_000) + b".")


def zlib_bomb() -> bytes:
    return _bomb(zlib.compress)


def bz2_bomb() -> bytes:
    return _bomb(bz2.compress)


def xz_bomb() -> bytes:
    return _bomb(lambda data: lzma.compress(data, preset=0))


def lzma_with_a_dictionary_of_4_gib() -> bytes:
    return b"\x5d\x00\x00" + b"\xff\xff\xff" + b"\xff" * 8 + bytes(100)


def bytes_longer_than_memory() -> bytes:
    return b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x."


def bytes_of_protocol_9() -> bytes:
    return b"\x80\x09" + PLAIN[2:]


def marks_without_end() -> bytes:
    return b"\x80\x02" + b"(" * 300_000


def deep_tuples() -> bytes:
    return b"\x80\x02)" + b"\x85" * 300_000 + b"."


def memo_that_is_not_there() -> bytes:
    return b"\x80\x02h\x01h\x02\x93."


def joblib_array_longer_than_the_file() -> bytes:
    shape = pickle.dumps((1 << 40, 1 << 10), 2)[2:-1]
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R"
    return (
        b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(X\x05\x00\x00\x00shape"
        + shape + b"X\x05\x00\x00\x00dtype" + dtype + b"ub" + bytes(64) + b"."
    )  # fmt: skip


def call_behind_a_joblib_array() -> bytes:
    array = joblib_array_longer_than_the_file().replace(pickle.dumps((1 << 40, 1 << 10), 2)[2:-1], b"K\x04\x85")
    start = array[: array.index(b"ub") + 2]
    return start + bytes(32) + Calls("os", "system", "id").dumped()[2:]


def call_in_a_zlib_joblib() -> bytes:
    return zlib.compress(call_behind_a_joblib_array())


def instance_of_popen() -> bytes:
    return b"(S'id'\nisubprocess\nPopen\n."


def name_put_together_from_the_memo() -> bytes:
    return b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93\x8c\x02id\x85R."


def zip_of(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def skops(node: Any = None) -> bytes:
    return zip_of(
        {"schema.json": json.dumps(node or {"__class__": "Ridge", "__module__": "sklearn.linear_model"}).encode()}
    )


def zip_without_schema() -> bytes:
    return zip_of({"model.pkl": PLAIN})


def zip_bomb() -> bytes:
    return zip_of({"schema.json": b"{}", "array.npy": bytes(80_000_000)})


def zip_of_10_000_entries() -> bytes:
    return zip_of({"schema.json": b"{}", **{f"{n}.npy": b"" for n in range(10_000)}}, zipfile.ZIP_STORED)


def zip_that_climbs_out() -> bytes:
    return zip_of({"schema.json": b"{}", "../../etc/passwd": b""})


def truncated_zip() -> bytes:
    return skops()[:-30]


def zip_with_a_huge_size_declared() -> bytes:
    return skops().replace(struct.pack("<I", 60), struct.pack("<I", 0xFFFFFFF0))


def skops_with_json_without_end() -> bytes:
    return zip_of({"schema.json": b"[" * 500_000})


def skops_that_names_a_call() -> bytes:
    return skops({"__loader__": "FunctionNode", "content": {"module_path": "os", "function": "system"}})


def _message(number: int, content: bytes) -> bytes:
    length = b""
    size = len(content)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def onnx_model(graph: bytes = b"") -> bytes:
    return b"\x08\x08" + _message(7, graph or _message(2, b"g")) + _message(8, b"\x10\x15")


def truncated_onnx() -> bytes:
    return onnx_model(_message(2, b"g" * 100))[:-20]


def two_onnx() -> bytes:
    return onnx_model() + onnx_model()


def onnx_with_data_in_etc_passwd() -> bytes:
    entry = _message(1, b"location") + _message(2, b"../../../etc/passwd")
    return onnx_model(_message(5, _message(13, entry) + b"\x70\x01"))


def text() -> bytes:
    return b"hello, I am a model\n"


def program() -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(100)


def hdf5() -> bytes:
    return b"\x89HDF\r\n\x1a\n" + bytes(100)


def zeros() -> bytes:
    return bytes(10_000)


def plain_pickle() -> bytes:
    return PLAIN


CASES: Final = (
    Case("m.pkl", plain_pickle, None),
    Case("m.joblib", plain_pickle, None),
    Case("m.skops", skops, None),
    Case("m.onnx", onnx_model, None),
    Case("m.pkl", empty, "is empty"),
    Case("m.sh", plain_pickle, "is no name of a model"),
    Case("m.onnx", plain_pickle, "holds pickle, and its suffix says an ONNX model"),
    Case("m.skops", plain_pickle, "holds pickle, and its suffix says a file of skops"),
    Case("m.pkl", skops, "holds skops, and its suffix says a pickle"),
    Case("m.joblib", onnx_model, "holds onnx, and its suffix says a pickle"),
    Case("m.pkl", text, "is text"),
    Case("m.pkl", program, "a program"),
    Case("m.joblib", hdf5, "an HDF5 file"),
    Case("m.onnx", zeros, "of no format"),
    Case("m.pkl", truncated_pickle, "truncated"),
    Case("m.pkl", two_pickles, "goes on after the end"),
    Case("m.pkl", pickle_and_trailing_bytes, "goes on after the end"),
    Case("m.pkl", pickle_with_a_zip_behind, "goes on after the end"),
    Case("m.pkl", damaged_pickle, "damaged"),
    Case("m.joblib", truncated_zlib, "truncated"),
    Case("m.joblib", zlib_with_trailing_bytes, "damaged"),
    Case("m.joblib", gzip_of_two_pickles, "goes on after the end"),
    Case("m.joblib", zlib_of_text, "no pickle"),
    Case("m.joblib", zlib_bomb, "a bomb"),
    Case("m.joblib", bz2_bomb, "a bomb"),
    Case("m.joblib", xz_bomb, "a bomb"),
    Case("m.joblib", lzma_with_a_dictionary_of_4_gib, ""),
    Case("m.pkl", bytes_longer_than_memory, "truncated"),
    Case("m.pkl", bytes_of_protocol_9, "of no format"),
    Case("m.pkl", marks_without_end, "truncated"),
    Case("m.pkl", deep_tuples, None),  # refused by what loads it, in the sandbox
    Case("m.pkl", memo_that_is_not_there, None),  # the same
    Case("m.joblib", joblib_array_longer_than_the_file, "truncated"),
    Case("m.joblib", call_behind_a_joblib_array, "malicious"),
    Case("m.joblib", call_in_a_zlib_joblib, "malicious"),
    Case("m.pkl", instance_of_popen, "malicious"),
    Case("m.pkl", name_put_together_from_the_memo, "malicious"),
    Case("m.pkl", calls("os", "system", "id"), "malicious"),
    Case("m.pkl", calls("posix", "fork"), "malicious"),
    Case("m.pkl", calls("subprocess", "Popen", "id"), "malicious"),
    Case("m.pkl", calls("builtins", "eval", "1"), "malicious"),
    Case("m.pkl", calls("__builtin__", "exec", "1"), "malicious"),
    Case("m.pkl", calls("builtins", "open", "/etc/passwd"), "malicious"),
    Case("m.pkl", calls("socket", "create_connection", ("10.0.0.1", 80)), "malicious"),
    Case("m.pkl", calls("ctypes", "CDLL", None), "malicious"),
    Case("m.pkl", calls("shutil", "rmtree", "/"), "malicious"),
    Case("m.pkl", calls("importlib", "import_module", "os"), "malicious"),
    Case("m.pkl", calls("runpy", "run_path", "/x"), "malicious"),
    Case("m.pkl", calls("urllib.request", "urlopen", "http://10.0.0.1"), "malicious"),
    Case("m.pkl", calls("pickle", "loads", b"x"), "malicious"),
    Case("m.pkl", calls("joblib", "load", "/x"), "malicious"),
    Case("m.pkl", calls("numpy.testing._private.utils", "runstring", "1", {}), "malicious"),
    Case("m.skops", zip_without_schema, "a zip, but none of skops"),
    Case("m.skops", zip_bomb, "a bomb"),
    Case("m.skops", zip_of_10_000_entries, "10001 entries"),
    Case("m.skops", zip_that_climbs_out, "lies outside"),
    Case("m.skops", truncated_zip, "damaged or truncated"),
    Case("m.skops", zip_with_a_huge_size_declared, ""),
    Case("m.skops", skops_with_json_without_end, "not JSON"),
    Case("m.skops", skops_that_names_a_call, "malicious"),
    Case("m.onnx", truncated_onnx, "truncated"),
    Case("m.onnx", two_onnx, "2 graphs"),
    Case("m.onnx", onnx_with_data_in_etc_passwd, "keeps data in other files"),
)
