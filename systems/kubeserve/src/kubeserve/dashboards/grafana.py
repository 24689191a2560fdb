"""Brings dashboards into Grafana by its HTTP API."""

from typing import Any, Final

import requests

from kubeserve.errors import ForbiddenError, KubeServeError, UnavailableError

PATIENCE: Final = 30.0
REFUSED: Final = frozenset({401, 403})
MAY_NOT: Final = "Grafana refuses: GRAFANA_TOKEN of a service account that may edit dashboards is expected"


def send(url: str, token: str, board: dict[str, Any]) -> str:
    """Put a dashboard in the place of the one with its uid. Return its address.

    Without a token, name and password of the address are used. Raises UnavailableError, ForbiddenError, KubeServeError.
    """
    root = url.rstrip("/")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {"dashboard": board, "overwrite": True}
    try:
        answer = requests.post(f"{root}/api/dashboards/db", json=body, headers=headers, timeout=PATIENCE)
    except requests.RequestException as error:
        raise UnavailableError(f"Grafana does not answer: {type(error).__name__}") from None
    if answer.status_code in REFUSED:
        raise ForbiddenError(MAY_NOT)
    try:
        told = answer.json()
        if answer.ok:
            return str(told["url"])
        message = str(told["message"])[:200]
    except (ValueError, KeyError, TypeError):
        message = "an answer that is not Grafana's"
    raise KubeServeError(f"Grafana answers {answer.status_code}: {message}")
