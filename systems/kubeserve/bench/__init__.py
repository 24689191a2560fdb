"""Measures KubeServe on this machine, with servers, models and an environment of the tests."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parents[2]), str(HERE.parent / "tests")]  # the worker's harness, and models of the tests
