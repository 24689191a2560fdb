"""What runs in a tenant's environment: the standard library alone, Python 3.9 or newer, Linux.

Run by path, so that nothing of the platform's environment is importable: `ENV/bin/python -I -S -B DIR prove`, or
`zygote --socket PATH …`. `-S` because a `.pth` file of the environment is its code, too: it runs within the walls.
docs/runtime.md has the protocol.
"""

PRELOAD = (  # what most models import, and starts no thread; what an environment lacks is left out
    "numpy", "scipy", "pandas", "joblib", "sklearn", "sklearn.linear_model", "sklearn.ensemble", "sklearn.pipeline",
    "sklearn.preprocessing", "sklearn.compose",
)  # fmt: skip
