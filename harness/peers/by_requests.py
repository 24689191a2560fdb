"""The call to the endpoint, for peers that block: one session for each thread, so that connections are kept."""

import threading

import requests

from harness.job import TIMEOUT, URL, body, text

_local = threading.local()


def ask(prompt: str) -> str:
    if not hasattr(_local, "session"):
        _local.session = requests.Session()
    response = _local.session.post(URL, json=body(prompt), timeout=TIMEOUT)
    response.raise_for_status()
    return text(response.json())
