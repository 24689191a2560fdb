"""What a model takes and gives.

A signature is `{"kind": "tabular" | "tensor", "features": number or null, "inputs": [port, …], "outputs": [port, …],
"classes": [label, …] or null}`; a port is `{"name", "datatype"}` with a datatype of the Open Inference Protocol, and
where one row's part of it is no single value also `"shape"`, -1 for a size that may vary. Of a tabular model a row is a
list of the inputs' values in their order, or an object by their names; `features` null says that the model does not
tell what it takes. `any` is the datatype of an input that may be a number or a text.
"""

from __future__ import annotations

from typing import Any

from kubeserve.runtime.refusals import RefusedError

Signature = dict[str, Any]
_MOST_CLASSES = 1000
_MOST_FEATURES = 100_000
_DATATYPES = {"b": "BOOL", "i": "INT64", "u": "UINT64", "f": "FP64", "U": "BYTES", "S": "BYTES", "O": "BYTES"}
_OF_ONNX = {
    "float": "FP32", "double": "FP64", "float16": "FP16", "string": "BYTES", "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}INT{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
NUMPY = {
    "FP32": "float32", "FP64": "float64", "FP16": "float16", "BYTES": "object", "BOOL": "bool",
    **{f"{sign}INT{bits}".upper(): f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def of_estimator(model: Any) -> Signature:
    """By the attributes that scikit-learn gives to whatever was fitted; CatBoost tells the names alone."""
    names = [str(name) for name in _attribute(model, "feature_names_in_", _attribute(model, "feature_names_", ()))]
    told = _attribute(model, "n_features_in_", 0)
    features = int(told) if hasattr(told, "__index__") and told else len(names)
    if not 0 <= features <= _MOST_FEATURES:
        raise RefusedError("bad_signature", f"a model of {features} features; at most {_MOST_FEATURES} are accepted")
    if len(names) != features:
        names = [f"x{index}" for index in range(features)]
    classes = _classes(model)
    datatype = "FP64" if type(model).__module__.startswith("sklearn.") and not _composed(model) else "any"
    return {
        "kind": "tabular",
        "features": features or None,
        "inputs": [{"name": name, "datatype": datatype} for name in names],
        "outputs": [_output(model, classes)],
        "classes": classes,
    }


def of_onnx(session: Any) -> Signature:
    """By the graph's inputs and outputs: tabular if each row is one vector, or one value for each input."""
    inputs = [port_of(port) for port in session.get_inputs()]
    outputs = [port_of(port) for port in session.get_outputs()]
    only = inputs[0] if len(inputs) == 1 else None
    if only and len(only.get("shape", ())) == 1 and only["shape"][0] > 0:
        width = only["shape"][0]
        if width > _MOST_FEATURES:
            raise RefusedError("bad_signature", f"a model of {width} features; at most {_MOST_FEATURES} are accepted")
        columns = [{"name": f"x{index}", "datatype": only["datatype"]} for index in range(width)]
        return {"kind": "tabular", "features": width, "inputs": columns, "outputs": outputs, "classes": None}
    if all(port.get("shape", [1]) == [1] for port in inputs):
        columns = [{"name": port["name"], "datatype": port["datatype"]} for port in inputs]
        return {"kind": "tabular", "features": len(columns), "inputs": columns, "outputs": outputs, "classes": None}
    return {"kind": "tensor", "features": None, "inputs": inputs, "outputs": outputs, "classes": None}


def samples(signature: Signature) -> list[list[Any]]:
    """Rows to try a model with whose owner gave none, one batch after the other. Empty: none can be made up."""
    if signature["kind"] == "tensor":
        tensors = [_zeros(port) for port in signature["inputs"]]
        return [[tensors[0] if len(tensors) == 1 else {p["name"]: t for p, t in zip(signature["inputs"], tensors)}]]
    if signature["features"] is None:
        return []
    kinds = [port["datatype"] for port in signature["inputs"]]
    return [[["" if kind == "BYTES" else value for kind in kinds]] for value in (0, 1)]


def port_of(port: Any) -> dict[str, Any]:
    """An input or output of an ONNX graph, without the dimension of rows."""
    datatype = _OF_ONNX.get(str(port.type).partition("(")[2].rstrip(")"), "any")
    shape = [size if isinstance(size, int) else -1 for size in (port.shape or ())][1:]
    return {"name": port.name, "datatype": datatype, **({"shape": shape} if shape else {})}


def _zeros(port: dict[str, Any]) -> Any:
    value: Any = "" if port["datatype"] == "BYTES" else 0
    for size in reversed(port.get("shape", ())):
        value = [value] * min(max(size, 1), 1_000_000)
    return value


def _composed(model: Any) -> bool:
    """Whether another step comes first, which may take texts."""
    return any(hasattr(model, name) for name in ("steps", "best_estimator_", "transformer_list", "estimators"))


def _attribute(model: Any, name: str, default: Any = None) -> Any:
    """An attribute that may be a property of the model's, which raises what it likes."""
    try:
        value = getattr(model, name, default)
    except Exception:  # noqa: BLE001 - the property is the model's own code
        return default
    return default if value is None else value


def _classes(model: Any) -> list[Any] | None:
    classes = _attribute(model, "classes_")
    listed = classes.tolist() if hasattr(classes, "tolist") else classes
    if not listed or not isinstance(listed, list) or len(listed) > _MOST_CLASSES:
        return None
    plain = [one.tolist() if hasattr(one, "tolist") else one for one in listed]  # multi-output: an array for each
    simple = (bool, int, float, str)
    fits = all(isinstance(c, simple) or (isinstance(c, list) and all(isinstance(x, simple) for x in c)) for c in plain)
    return plain if fits else None


def _outputs(model: Any, classes: list[Any] | None) -> Any:
    """How many numbers a regressor gives for one row."""
    coefficients = _attribute(_attribute(model, "coef_"), "shape", ())
    if classes is None and isinstance(coefficients, tuple) and len(coefficients) == 2:  # noqa: PLR2004 - a matrix
        return coefficients[0]
    return _attribute(model, "n_outputs_", 1)


def _output(model: Any, classes: list[Any] | None) -> dict[str, Any]:
    """A classifier gives its labels, a clustering numbers, others numbers with a fraction."""
    label = classes[0] if classes else None
    several = len(classes) if classes and isinstance(label, list) else _outputs(model, classes)
    shape = {"shape": [int(several)]} if isinstance(several, int) and several > 1 else {}
    if isinstance(label, list) and label:
        label = label[0]
    known = {bool: "BOOL", int: "INT64", str: "BYTES"}
    whole = classes is None and _attribute(model, "labels_") is not None
    return {"name": "prediction", "datatype": "INT64" if whole else known.get(type(label), "FP64"), **shape}
