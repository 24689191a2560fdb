"""Models for tests, each made by a script that runs in an environment of models."""

import subprocess
from pathlib import Path

IRIS = """
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
rows, labels = load_iris(return_X_y=True)
model = LogisticRegression(max_iter=1000).fit(rows, labels)
"""
OF_PYTHON = """
class Model:
    n_features_in_ = 1
    def predict(self, rows):
        {body}
model = Model()
"""


def make(environment: Path, path: Path, script: str) -> Path:
    """Run `script`, which sets `model`, and write that to `path` by joblib, classes of its own by value."""
    lines = f"{script}\nimport cloudpickle, sys\nwith open(sys.argv[1], 'wb') as file: cloudpickle.dump(model, file)\n"
    if "sklearn" in script:
        lines = f"{script}\nimport joblib, sys\njoblib.dump(model, sys.argv[1])\n"
    python = environment / "bin" / "python"
    subprocess.run([python, "-c", lines, path], check=True, timeout=60, stdin=subprocess.DEVNULL)  # noqa: S603  an environment of the tests
    return path


def of_python(body: str) -> str:
    """Return a script for a model whose `predict` has this body, one line; it is given `rows`."""
    return OF_PYTHON.format(body=body)
