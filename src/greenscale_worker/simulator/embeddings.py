"""The protocol of embeddings: reads requests, and answers each input with a vector that depends on it alone."""

import struct
from base64 import b64encode
from dataclasses import dataclass
from hashlib import shake_256
from typing import Any, Final

import orjson

DIMENSIONS: Final = 256
MOST_DIMENSIONS: Final = 4096


def inputs_of(data: dict[str, Any]) -> list[Any]:
    """Return the inputs of a request: strings, or lists of tokens. Raises ValueError that says what is wrong."""
    given = data.get("input")
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    if not all(_is_input(each) for each in inputs):
        raise ValueError("input: a string or a list of strings or of tokens is expected")
    dimensions = data.get("dimensions", DIMENSIONS)
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"dimensions: a whole number from 1 to {MOST_DIMENSIONS} is expected")
    if data.get("encoding_format", "float") not in {"float", "base64"}:
        raise ValueError("encoding_format: float or base64 is expected")
    return inputs


def _is_input(given: object) -> bool:
    if isinstance(given, list):
        return bool(given) and all(isinstance(token, int) for token in given)
    return isinstance(given, str) and given != ""


def tokens_in(given: Any) -> int:
    """Count the tokens of an input: about one for four characters."""
    return len(given) if isinstance(given, list) else 1 + len(given) // 4


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A good answer. Its vectors have length 1; base64 holds the same numbers, as 32-bit floats, lowest byte first."""

    model: str
    inputs: list[Any]
    dimensions: int
    base64: bool

    def body(self, *, choices: bool = True) -> bytes:
        """Write it; `choices` False leaves the vectors out."""
        data = [
            {"object": "embedding", "index": index, "embedding": self._embedding(given)}
            for index, given in enumerate(self.inputs)
        ]
        tokens = sum(map(tokens_in, self.inputs))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps({"object": "list", "data": data if choices else [], "model": self.model, "usage": usage})

    def _embedding(self, given: Any) -> list[float] | str:
        noise = shake_256(orjson.dumps(given)).digest(2 * self.dimensions)
        numbers = struct.unpack(f"<{self.dimensions}h", noise)
        length = sum(number * number for number in numbers) ** 0.5 or 1.0
        packed = struct.pack(f"<{self.dimensions}f", *(number / length for number in numbers))
        return b64encode(packed).decode() if self.base64 else list(struct.unpack(f"<{self.dimensions}f", packed))
