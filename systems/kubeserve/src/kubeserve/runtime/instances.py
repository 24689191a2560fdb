"""The rows of a request, in the form that a model takes. What is wrong is told by row and field."""

from __future__ import annotations

import importlib
import math
from typing import Any

from kubeserve.runtime.refusals import RefusedError
from kubeserve.runtime.signature import NUMPY, Signature

_LARGEST_WHOLE = 2**63


def rows_of(instances: Any, signature: Signature) -> list[Any]:
    """Each row as a list of the inputs' values, in their order; as it came where the model does not tell its inputs.

    Raises RefusedError `bad_instance`.
    """
    if not isinstance(instances, list) or not instances:
        raise RefusedError("bad_instance", "`instances` is a list of at least one row")
    if signature["kind"] == "tensor":
        return instances
    if signature["features"] is None:
        return [_checked(row, index) for index, row in enumerate(instances)]
    return [_row(row, index, signature["inputs"]) for index, row in enumerate(instances)]


def _row(row: Any, index: int, inputs: list[dict[str, Any]]) -> list[Any]:
    names = [port["name"] for port in inputs]
    if isinstance(row, dict):
        for name in names:
            if name not in row:
                raise RefusedError("bad_instance", f"row {index} lacks {name}", index=index, field=name)
        if len(row) > len(names):
            extra = str(next(name for name in row if name not in set(names)))[:80]
            raise RefusedError("bad_instance", f"row {index} has {extra}, which is no input", index=index, field=extra)
        row = [row[name] for name in names]
    elif not isinstance(row, list):
        row = [row] if len(names) == 1 else row
    if not isinstance(row, list) or len(row) != len(names):
        found = f"{len(row)} values" if isinstance(row, list) else "no list"
        raise RefusedError("bad_instance", f"row {index} has {found}; the model takes {len(names)}", index=index)
    return [_cell(value, index, port) for value, port in zip(row, inputs)]


def _cell(value: Any, index: int, port: dict[str, Any]) -> Any:
    datatype, name = port["datatype"], port["name"]
    _simple(value, index, name)
    if datatype == "BYTES" and not isinstance(value, str):
        raise RefusedError("bad_instance", f"row {index}: {name} is a text", index=index, field=name)
    if value is None and datatype.startswith("FP"):  # a missing value, NaN to the model
        return value
    if datatype not in {"BYTES", "any"} and not isinstance(value, (int, float)):
        raise RefusedError("bad_instance", f"row {index}: {name} is a number", index=index, field=name)
    if "INT" in datatype and isinstance(value, float) and not value.is_integer():
        raise RefusedError("bad_instance", f"row {index}: {name} is a whole number", index=index, field=name)
    return value


def _checked(row: Any, index: int) -> Any:
    """A row of a model that does not tell its inputs: a value, or a list or object of values."""
    fields = row.items() if isinstance(row, dict) else enumerate(row) if isinstance(row, list) else [("", row)]
    for name, value in fields:
        _simple(value, index, str(name)[:80])
    return row


def _simple(value: Any, index: int, name: str) -> None:
    if isinstance(value, (list, dict)):
        raise RefusedError(
            "bad_instance", f"row {index}: {name} is one value, no list or object", index=index, field=name
        )
    large = isinstance(value, int) and abs(value) >= _LARGEST_WHOLE
    if large or (isinstance(value, float) and not math.isfinite(value)):
        raise RefusedError("bad_instance", f"row {index}: {name} is too large", index=index, field=name)


def no_number(rows: list[Any], signature: Signature) -> tuple[int, str, Any] | None:
    """The first text or null among the rows, as (row, field, value): most likely what the model objects to."""
    names = [port["name"] for port in signature["inputs"]]
    for index, row in enumerate(rows):
        for place, value in enumerate(row if isinstance(row, list) else ()):
            if value is None or isinstance(value, str):
                return index, names[place] if place < len(names) else str(place), value
    return None


def table(rows: list[Any], signature: Signature, pandas: Any) -> Any:
    """What an estimator takes: a data frame if `pandas` is given, else an array; texts as they are."""
    first = rows[0]
    if signature["features"] is None and not isinstance(first, (list, dict)):
        return rows
    if pandas is not None or isinstance(first, dict):
        names = [port["name"] for port in signature["inputs"]] if signature["features"] is not None else None
        frames = pandas or if_there("pandas")
        return rows if frames is None else frames.DataFrame(rows, columns=names)
    numpy = if_there("numpy")
    if numpy is None:
        return rows
    if any(isinstance(value, str) for row in rows for value in row):
        return numpy.array(rows, dtype=object)
    return numpy.array(rows, dtype="float64")  # null becomes NaN


def if_there(module: str) -> Any:
    """A module of the environment, None where it has none."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def tensors(rows: list[Any], signature: Signature, ports: list[dict[str, Any]]) -> dict[str, Any]:
    """What a graph takes: an array for each of its inputs. Raises RefusedError `bad_instance`."""
    numpy = importlib.import_module("numpy")
    if signature["kind"] == "tabular":
        if len(ports) == 1:
            shaped = rows if "shape" in ports[0] else [row[0] for row in rows]
            return {ports[0]["name"]: numpy.array(shaped, dtype=NUMPY[ports[0]["datatype"]])}
        return {port["name"]: _stacked(numpy, [row[i] if "shape" not in port else [row[i]] for row in rows], port)
                for i, port in enumerate(ports)}  # fmt: skip
    if len(ports) == 1:
        name = ports[0]["name"]
        return {name: _stacked(numpy, [r.get(name) if isinstance(r, dict) else r for r in rows], ports[0])}
    for index, row in enumerate(rows):
        for port in ports:
            if not isinstance(row, dict) or port["name"] not in row:
                raise RefusedError("bad_instance", f"row {index} lacks {port['name']}", index=index, field=port["name"])
    return {port["name"]: _stacked(numpy, [row[port["name"]] for row in rows], port) for port in ports}


def _stacked(numpy: Any, parts: list[Any], port: dict[str, Any]) -> Any:
    wanted, datatype = port.get("shape", []), NUMPY.get(port["datatype"])
    arrays: list[Any] = []
    for index, part in enumerate(parts):
        try:
            array = numpy.array(part, dtype=datatype)
        except (TypeError, ValueError, OverflowError):
            array = None
        fits = array is not None and array.ndim == len(wanted)
        if not fits or any(w not in {-1, got} for w, got in zip(wanted, array.shape)):
            what = f"row {index}: {port['name']} is an array of shape {wanted} of {port['datatype']}"
            raise RefusedError("bad_instance", what, index=index, field=port["name"])
        if arrays and array.shape != arrays[0].shape:
            what = f"row {index}: {port['name']} differs in shape from that of row 0"
            raise RefusedError("bad_instance", what, index=index, field=port["name"])
        arrays.append(array)
    return numpy.stack(arrays)
