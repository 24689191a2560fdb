"""The HTTP API, `/api/v1`: one table of routes makes the application, its OpenAPI document and the tests of both.

Whatever comes, the answer is JSON; a refusal is `{"error": text, "code": word, "faults": [{"field", "message"}]}`. What
belongs to another user is 404, as what is not there.
"""

from kubeserve.api.app import build_app, serving

__all__ = ["build_app", "serving"]
