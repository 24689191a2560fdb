"""Makes the model of these scripts, iris.onnx, by any Python with scikit-learn and skl2onnx.

Run with `python e2e/make_model.py e2e/iris.onnx`. It is ONNX: no other format is read by every version of its library.
"""

import sys
from pathlib import Path

from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

rows, kinds = load_iris(return_X_y=True)
model = LogisticRegression(max_iter=1000).fit(rows, kinds)
made = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset=15)
Path(sys.argv[1]).write_bytes(made.SerializeToString())
