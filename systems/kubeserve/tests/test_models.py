"""Real models of each format in a replica: what they say of themselves, what they accept and what they answer."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicas import Replica, Zygote, prove

TRAIN = """
import os, sys, pickle, warnings
import cloudpickle, joblib, numpy as np, pandas as pd, skops.io
from skl2onnx import to_onnx
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
os.chdir(sys.argv[1])
X, y = load_iris(return_X_y=True)
logistic = LogisticRegression(max_iter=500).fit(X, y)
joblib.dump(logistic, 'logistic.joblib')
joblib.dump(logistic, 'compressed.joblib', compress=3)
pickle.dump(logistic, open('logistic.pickle', 'wb'))
skops.io.dump(logistic, 'logistic.skops')
pickle.dump(LinearRegression().fit(X, X[:, :2]), open('two.pickle', 'wb'))
pickle.dump(DecisionTreeClassifier().fit(X, np.stack([y, y], 1)), open('labels.pickle', 'wb'))
pickle.dump(KMeans(3, n_init=1).fit(X), open('clusters.pickle', 'wb'))
search = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {}, cv=2)
pickle.dump(search.fit(X, y), open('search.pickle', 'wb'))
pickle.dump(HistGradientBoostingRegressor(max_iter=5).fit(X, y), open('gaps.pickle', 'wb'))
frame = pd.DataFrame({'age': [20.0, 30, 40, 50], 'city': ['Bonn', 'Köln', 'Bonn', 'Köln']})
columns = ColumnTransformer([('c', OneHotEncoder(), ['city']), ('a', 'passthrough', ['age'])])
line = make_pipeline(columns, LogisticRegression()).fit(frame, ['no', 'yes', 'no', 'yes'])
pickle.dump(line, open('frame.pickle', 'wb'))
line = make_pipeline(CountVectorizer(), LogisticRegression()).fit(['good', 'bad'], [1, 0])
pickle.dump(line, open('texts.pickle', 'wb'))
class Own:
    def predict(self, rows): return [str(row) for row in rows]
cloudpickle.dump(Own(), open('own.pickle', 'wb'))
pickle.dump(Own(), open('lost.pickle', 'wb'))
old = logistic.__class__.__getstate__
logistic.__class__.__getstate__ = lambda self: {**old(self), '_sklearn_version': '1.0.2'}
pickle.dump(logistic, open('old.pickle', 'wb'))
logistic.__class__.__getstate__ = old
to = dict(options={'zipmap': False})
open('logistic.onnx', 'wb').write(to_onnx(logistic, X[:1].astype('float32'), **to).SerializeToString())
open('maps.onnx', 'wb').write(to_onnx(logistic, X[:1].astype('float32')).SerializeToString())
open('linear.onnx', 'wb').write(to_onnx(LinearRegression().fit(X, y), X[:1].astype('float32')).SerializeToString())
import onnx.helper as h
F = 1
image = [h.make_tensor_value_info('image', F, [1, 2, 3])], [h.make_tensor_value_info('sum', F, [1])]
graph = h.make_graph([h.make_node('ReduceSum', ['image', 'axes'], ['sum'], keepdims=0)], 'g', *image,
    [h.make_tensor('axes', 7, [2], [1, 2])])
model = h.make_model(graph, opset_imports=[h.make_opsetid('', 13)], ir_version=8)
open('image.onnx', 'wb').write(model.SerializeToString())
ab = [h.make_tensor_value_info(n, F, ['N', 1]) for n in 'ab']
graph = h.make_graph([h.make_node('Add', ['a', 'b'], ['c'])], 'g', ab, [h.make_tensor_value_info('c', F, ['N', 1])])
model = h.make_model(graph, opset_imports=[h.make_opsetid('', 13)], ir_version=8)
open('sum.onnx', 'wb').write(model.SerializeToString())
"""
IRIS = [5.1, 3.5, 1.4, 0.2]
Load = Callable[[str], Replica]


@pytest.fixture(scope="module")
def zygote(science: Path) -> Iterator[Zygote]:
    with Zygote(
        science / "bin" / "python", "--preload", "joblib,sklearn.pipeline,pandas,skops.io,onnxruntime"
    ) as zygote:
        train = [str(science / "bin" / "python"), "-W", "ignore", "-c", TRAIN, str(zygote.models)]
        subprocess.run(train, check=True, timeout=300)  # noqa: S603 - written above
        yield zygote


@pytest.fixture(scope="module")
def load(zygote: Zygote) -> Load:
    """The replica of a model file, by its name."""
    running: dict[str, Replica] = {}

    def one(name: str) -> Replica:
        if name not in running:
            running[name] = zygote.replica(zygote.models / name, name.rpartition(".")[2])
        return running[name]

    return one


@pytest.mark.parametrize("name", ["logistic.joblib", "compressed.joblib", "logistic.pickle", "logistic.skops"])
def test_a_classifier_of_each_format(name: str, load: Load) -> None:
    ready = load(name).ask("ready")
    assert ready["kind"] == "sklearn.linear_model._logistic.LogisticRegression"
    assert ready["signature"] == {
        "kind": "tabular",
        "features": 4,
        "inputs": [{"name": f"x{n}", "datatype": "FP64"} for n in range(4)],
        "outputs": [{"name": "prediction", "datatype": "INT64"}],
        "classes": [0, 1, 2],
    }
    assert load(name).predict(IRIS, [6.7, 3.0, 5.2, 2.3]) == {"predictions": [0, 2]}
    assert load(name).predict(dict(zip(("x3", "x2", "x1", "x0"), reversed(IRIS), strict=True))) == {"predictions": [0]}


def test_a_graph_names_each_of_several_outputs(load: Load) -> None:
    (answer,) = load("logistic.onnx").predict(IRIS)["predictions"]
    assert answer["label"] == 0
    assert sum(answer["probabilities"]) == pytest.approx(1)
    (answer,) = load("maps.onnx").predict(IRIS)["predictions"]
    assert set(answer["output_probability"]) == {"0", "1", "2"}
    assert load("linear.onnx").predict(IRIS, IRIS)["predictions"][1] == [pytest.approx(0, abs=0.2)]


def test_a_graph_of_tensors_takes_nested_lists_one_by_one_where_it_must(load: Load) -> None:
    replica = load("image.onnx")
    signature = replica.ask("ready")["signature"]
    assert signature["kind"] == "tensor"
    assert signature["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [2, 3]}]
    image = [[1, 2, 3], [4, 5, 6]]
    assert replica.predict(image, {"image": image}) == {"predictions": [21, 21]}
    error = replica.predict(image, [[1]])["error"]
    assert (error["code"], error["index"], error["field"]) == ("bad_instance", 1, "image")


def test_a_graph_of_columns_takes_rows(load: Load) -> None:
    replica = load("sum.onnx")
    assert replica.ask("ready")["signature"]["features"] == 2
    assert replica.predict([1, 2], {"b": 3, "a": 4}) == {"predictions": [[3], [7]]}


SHAPES = {
    "two.pickle": [{"name": "prediction", "datatype": "FP64", "shape": [2]}],
    "labels.pickle": [{"name": "prediction", "datatype": "INT64", "shape": [2]}],
    "clusters.pickle": [{"name": "prediction", "datatype": "INT64"}],
    "search.pickle": [{"name": "prediction", "datatype": "INT64"}],
    "gaps.pickle": [{"name": "prediction", "datatype": "FP64"}],
}


@pytest.mark.parametrize(("name", "outputs"), SHAPES.items(), ids=SHAPES.keys())
def test_what_a_model_gives(name: str, outputs: list[Any], load: Load) -> None:
    signature = load(name).ask("ready")["signature"]
    assert (signature["features"], signature["outputs"]) == (4, outputs)
    (prediction,) = load(name).predict(IRIS)["predictions"]
    assert (len(prediction) if "shape" in outputs[0] else 1) == outputs[0].get("shape", [1])[0]


def test_a_model_of_a_data_frame_gets_one(load: Load) -> None:
    replica = load("frame.pickle")
    signature = replica.ask("ready")["signature"]
    assert [port["name"] for port in signature["inputs"]] == ["age", "city"]
    assert signature["classes"] == ["no", "yes"]
    assert replica.predict({"city": "Bonn", "age": 20}, [50, "Köln"]) == {"predictions": ["no", "yes"]}
    error = replica.predict([20, "Bonn"], [20, "Rom"])["error"]
    assert (error["code"], error["field"]) == ("bad_instance", "city")
    assert replica.log.read_text().count("UserWarning") == 0


def test_a_model_of_texts_gets_them(load: Load) -> None:
    assert load("texts.pickle").ask("ready")["signature"]["features"] is None
    assert load("texts.pickle").predict("good", "bad bad") == {"predictions": [1, 0]}


def test_a_missing_value_is_for_the_model_to_judge(load: Load) -> None:
    assert "predictions" in load("gaps.pickle").predict([None, 1, 2, 3])
    error = load("logistic.pickle").predict(IRIS, [5.1, None, 1.4, 0.2])["error"]
    assert (error["code"], error["index"], error["field"]) == ("bad_instance", 1, "x1")


WRONG = {
    "too short": ([1, 2, 3], 1, None),
    "too long": ([1, 2, 3, 4, 5], 1, None),
    "no list": ("abcd", 1, None),
    "a text": ([1, 2, "x", 4], 1, "x2"),
    "a list within": ([1, 2, [3], 4], 1, "x2"),
    "a field that is missing": ({"x0": 1, "x1": 2, "x3": 4}, 1, "x2"),
    "a field too many": ({"x0": 1, "x1": 2, "x2": 3, "x3": 4, "y": 5}, 1, "y"),
    "a number beyond numbers": ([1, 10**400, 3, 4], 1, "x1"),
}


@pytest.mark.parametrize(("row", "index", "field"), WRONG.values(), ids=WRONG.keys())
def test_a_row_that_is_wrong_is_told_by_index_and_field(row: Any, index: int, field: str | None, load: Load) -> None:
    error = load("logistic.pickle").predict(IRIS, row)["error"]
    assert (error["code"], error["index"], error.get("field")) == ("bad_instance", index, field), error


@pytest.mark.parametrize("instances", [None, [], {}, "rows", 3])
def test_what_is_no_list_of_rows_is_told(instances: Any, load: Load) -> None:
    assert load("logistic.pickle").ask("predict", instances)["error"]["code"] == "bad_instance"


def test_another_version_of_scikit_learn_is_named(load: Load) -> None:
    notes = load("old.pickle").ask("ready")["notes"]
    assert notes[0].startswith("LogisticRegression was saved by scikit-learn 1.0.2 and is loaded by ")


def test_a_class_of_the_script_is_found_where_cloudpickle_kept_it(load: Load) -> None:
    assert load("own.pickle").predict([1.0]) == {"predictions": ["[1.]"]}
    assert "save the model with cloudpickle" in load("lost.pickle").ask("ready")["error"]["message"]


@pytest.mark.parametrize("name", ["logistic.skops", "search.pickle", "logistic.onnx", "sum.onnx", "image.onnx"])
def test_a_proof_without_a_sample_makes_one_up(name: str, zygote: Zygote, science: Path, tmp_path: Path) -> None:
    content, form = (zygote.models / name).read_bytes(), name.rpartition(".")[2]
    status, lines, _ = prove(science / "bin" / "python", tmp_path, content, format=form)
    assert [line.get("step") for line in lines] == ["walls", "loaded", "predicted"], lines
    assert status == 0


def test_a_sample_is_asked_for_where_none_can_be_made_up(zygote: Zygote, science: Path, tmp_path: Path) -> None:
    _, lines, _ = prove(science / "bin" / "python", tmp_path, (zygote.models / "frame.pickle").read_bytes())
    assert lines[-1]["error"]["code"] == "sample_needed"
    assert "give rows in sample.json" in lines[-1]["error"]["message"]
