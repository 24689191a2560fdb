"""What a model predicted, as JSON: one value for each row asked."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
from typing import Any

from kubeserve.runtime.refusals import RefusedError

_DEEPEST = 16


def predictions_of(result: Any, rows: int) -> list[Any]:
    """The predictions of that many rows, in their order.

    Raises RefusedError: `bad_prediction` for another number of them or a type that JSON has no form for, `not_finite`
    with the row's index for NaN and infinities.
    """
    values = _listed(result)
    if values is None:
        raise RefusedError(
            "bad_prediction", f"the model answered {_kind(result)}; one prediction for each row is needed"
        )
    if len(values) != rows:
        raise RefusedError("bad_prediction", f"the model answered {len(values)} predictions for {rows} rows")
    return [_value(value, index, 0) for index, value in enumerate(values)]


def _listed(result: Any) -> list[Any] | None:
    """Rows of an array, a sparse matrix, a data frame or series, or a list."""
    if hasattr(result, "to_dict") and hasattr(result, "columns"):
        listed = result.to_dict("records")
    elif hasattr(result, "toarray"):
        listed = result.toarray().tolist()
    else:
        listed = result.tolist() if hasattr(result, "tolist") else result
    if isinstance(listed, tuple):
        listed = list(listed)
    return listed if isinstance(listed, list) else None


def _value(value: Any, index: int, depth: int) -> Any:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RefusedError("not_finite", f"the prediction of row {index} is {float(value)}", index=index)
        return value
    if depth > _DEEPEST:
        raise RefusedError("bad_prediction", f"the prediction of row {index} is nested too deep", index=index)
    if isinstance(value, dict):
        return {str(key): _value(item, index, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_value(item, index, depth + 1) for item in value]
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return _value(value.tolist(), index, depth + 1)
    return _of_other_types(value, index, depth)


def _of_other_types(value: Any, index: int, depth: int) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return _value(float(value), index, depth)
    raise RefusedError("bad_prediction", f"the prediction of row {index} is {_kind(value)}", index=index)


def _kind(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"[:120]
