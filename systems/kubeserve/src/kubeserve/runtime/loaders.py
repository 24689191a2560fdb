"""Loads a model file, and asks it. Both run the tenant's code: only inside the walls.

joblib and pickle run whatever the file says. A skops file is loaded with exactly the types that it names itself, which
is no protection either; it tells them, and the walls protect. ONNX is data for a native parser, within the same walls.
"""

from __future__ import annotations

import importlib
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubeserve.runtime import instances, signature
from kubeserve.runtime.answers import predictions_of
from kubeserve.runtime.refusals import RefusedError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_NOTES = 20


class Loaded:
    """A model that answers. `notes` are lines for people, such as a version that differs."""

    def __init__(self, model: Any, kind: str, told: signature.Signature, notes: list[str]) -> None:
        self.model, self.kind, self.signature, self.notes = model, kind, told, notes

    def predict(self, rows: Any) -> list[Any]:
        """One prediction for each row. Raises RefusedError, whatever the model does short of ending the process."""
        asked = instances.rows_of(rows, self.signature)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return predictions_of(self._ask(asked), len(asked))
        except RefusedError:
            raise
        except MemoryError as error:
            raise RefusedError("out_of_memory", "the prediction needs more memory than the model may use") from error
        except BaseException as error:  # a model may raise SystemExit, too
            raise self._blamed(error, asked) from error

    def _ask(self, rows: list[Any]) -> Any:
        raise NotImplementedError

    def _blamed(self, error: BaseException, rows: list[Any]) -> RefusedError:
        """A text or null is what a model that takes numbers objects to; else the model itself failed."""
        suspect = instances.no_number(rows, self.signature) if isinstance(error, (TypeError, ValueError)) else None
        if suspect is None:
            return RefusedError("model_error", one_line(error))
        index, field, value = suspect
        shown = "null" if value is None else repr(value[:40])
        message = f"row {index}: the model does not accept {shown} as {field} ({one_line(error)})"
        return RefusedError("bad_instance", message, index=index, field=field)


class _Estimator(Loaded):
    """Anything with `predict`; it gets data frames if it was fitted with one."""

    def __init__(self, model: Any, notes: list[str]) -> None:
        kind = f"{type(model).__module__}.{type(model).__qualname__}"[:200]
        if not callable(getattr(model, "predict", None)):
            raise RefusedError("not_a_model", f"the file holds a {kind}, which has no method predict")
        super().__init__(model, kind, signature.of_estimator(model), notes)
        named = getattr(model, "feature_names_in_", None) is not None
        self._pandas = instances.if_there("pandas") if named else None

    def _ask(self, rows: list[Any]) -> Any:
        return self.model.predict(instances.table(rows, self.signature, self._pandas))


class _Graph(Loaded):
    """A session of ONNX Runtime. One output is the prediction; of several each is named."""

    def __init__(self, session: Any) -> None:
        super().__init__(session, "onnx", signature.of_onnx(session), [])
        self._ports = [signature.port_of(port) for port in session.get_inputs()]
        sizes = [port.shape[0] for port in session.get_inputs() if port.shape]
        self._one_by_one = 1 in sizes

    def _ask(self, rows: list[Any]) -> Any:
        tensors = instances.tensors(rows, self.signature, self._ports)
        if not self._one_by_one:
            return self._run(tensors)
        alone = [{name: tensor[row : row + 1] for name, tensor in tensors.items()} for row in range(len(rows))]
        return [value for tensor in alone for value in self._run(tensor)]

    def _run(self, tensors: dict[str, Any]) -> Any:
        results = self.model.run(None, tensors)
        if len(results) == 1:
            return results[0]
        names = [port["name"] for port in self.signature["outputs"]]
        return [dict(zip(names, values)) for values in zip(*results)]


def load(path: str, form: str) -> Loaded:
    """Load a model of the form joblib, pickle, skops or onnx. Raises RefusedError, whatever the file does."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = _LOADERS[form](path)
        loaded.notes += [note for note in map(_note, caught) if note][:_MOST_NOTES]
    except RefusedError:
        raise
    except ModuleNotFoundError as error:
        name = str(error.name or "")[:80]
        module = name.partition(".")[0]
        message = (
            f"the model needs the module {name}, which is not installed: "
            f"add {_PACKAGES.get(module, module)} to requirements.txt; if it is a module of your own, "
            f"save the model with cloudpickle after cloudpickle.register_pickle_by_value({module})"
        )
        raise RefusedError("module_missing", message) from error
    except MemoryError as error:
        raise RefusedError("out_of_memory", "loading needs more memory than the model may use") from error
    except BaseException as error:  # a file may raise SystemExit, too
        raise RefusedError("load_failed", _explained(error)) from error
    return loaded


def _joblib(path: str) -> Loaded:
    return _Estimator(importlib.import_module("joblib").load(path), [])


def _pickle(path: str) -> Loaded:
    with Path(path).open("rb") as file:
        return _Estimator(pickle.load(file), [])  # noqa: S301 - inside the walls


def _skops(path: str) -> Loaded:
    skops = importlib.import_module("skops.io")
    types = sorted(str(name)[:200] for name in skops.get_untrusted_types(file=path))
    notes = [f"skops does not know the type {name}" for name in types[:_MOST_NOTES]]
    return _Estimator(skops.load(path, trusted=types), notes)


def _onnx(path: str) -> Loaded:
    runtime = importlib.import_module("onnxruntime")
    runtime.set_default_logger_severity(3)  # errors
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return _Graph(runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


_LOADERS: dict[str, Callable[[str], Loaded]] = {"joblib": _joblib, "pickle": _pickle, "skops": _skops, "onnx": _onnx}
_PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}
FORMS = tuple(_LOADERS)
MODULES = {"joblib": ("joblib",), "pickle": (), "skops": ("skops.io",), "onnx": ("onnxruntime",)}


def _note(caught: warnings.WarningMessage) -> str | None:
    """Of the warnings while loading, those that say what differs between the file and the environment."""
    warning = caught.message
    if type(warning).__name__ != "InconsistentVersionWarning":
        return None
    name, saved = getattr(warning, "estimator_name", "?"), getattr(warning, "original_sklearn_version", "?")
    here = getattr(warning, "current_sklearn_version", "?")
    wanted = f"ask for scikit-learn=={saved} in requirements.txt"
    return f"{name} was saved by scikit-learn {saved} and is loaded by {here}: {wanted}"


def _explained(error: BaseException) -> str:
    """What raised, and what helps in the case that is most common."""
    said = one_line(error)
    if isinstance(error, ValueError) and "lz4" in said.lower():
        return f"{said}. The file is compressed by lz4: add lz4 to requirements.txt, or save it by joblib's compress=3"
    if isinstance(error, AttributeError) and "__main__" in said:
        return f"{said}. What the training script itself defines is not in the file: save the model with cloudpickle"
    return said
