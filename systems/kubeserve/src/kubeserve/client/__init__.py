"""The Python client: `KubeServe(url)`. Answers are the dictionaries of the API; errors are those of `kubeserve.errors`.

with KubeServe("http://127.0.0.1:8600", key="ks_…") as kubeserve:
print(kubeserve.predict(deployment_id, [[5.1, 3.5, 1.4, 0.2]])["predictions"])
"""

from kubeserve.client.client import KubeServe

__all__ = ["KubeServe"]
