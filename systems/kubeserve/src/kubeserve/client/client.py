"""What a program does with KubeServe: from an account to predictions."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from kubeserve.client.calls import Calls
from kubeserve.client.upload import Progress, Upload
from kubeserve.errors import UnavailableError, UnprocessableError

TIMEOUT: Final = 120.0  # seconds
PATIENCE: Final = 60.0  # seconds
POLL: Final = 0.3  # seconds
ACCEPTED: Final = 202

Json = dict[str, Any]


class KubeServe:
    """An API as one caller: by a `token`, a `key`, or by `login`. Use with `with`, in one thread at a time.

    `timeout` is the seconds without an answer after which a call has failed, `patience` those for which a call is
    repeated while the server cannot be reached or is not available; `first` (None: the patience) those after which a
    server that has never answered, and cannot be reached, is given up. Every call raises the kind of KubeServeError
    that the server answers, with its message, and UnavailableError when the patience is over.
    """

    def __init__(  # noqa: PLR0913  all but the first by name
        self,
        url: str,
        *,
        token: str | None = None,
        key: str | None = None,
        timeout: float = TIMEOUT,
        patience: float = PATIENCE,
        first: float | None = None,
    ) -> None:
        self._calls = Calls(
            url, token or key, timeout=timeout, patience=patience, first=patience if first is None else first
        )
        self._hashes: dict[str, dict[str, str]] = {}  # of what was uploaded, by version and name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._calls.close()

    def register(self, email: str, password: str) -> Json:
        """Make an account. Returns the user."""
        return self._json("POST", "/auth/register", {"email": email, "password": password})

    def login(self, email: str, password: str) -> Json:
        """Log in, for all calls from now on. Returns the answer with its `token`."""
        answer = self._json("POST", "/auth/login", {"email": email, "password": password}, again=True)
        self._calls.authorize(answer["token"])
        return answer

    def me(self) -> Json:
        """Return the user that calls."""
        return self._json("GET", "/me")

    def keys(self) -> list[Json]:
        """Return one's API keys, without their secrets."""
        return self._list("/keys")

    def create_key(
        self,
        name: str,
        deployment_id: str | None = None,
        *,
        expires_at: datetime | None = None,
        requests_per_minute: int | None = None,
    ) -> Json:
        """Make an API key, for one deployment or for all, perhaps with an end and a limit. Its text is told this once.

        `expires_at` has its zone.
        """
        body = {"name": name, "deployment_id": deployment_id, "requests_per_minute": requests_per_minute}
        return self._json("POST", "/keys", body | {"expires_at": expires_at.isoformat() if expires_at else None})

    def limit_key(self, key_id: str, requests_per_minute: int | None) -> Json:
        """Limit the predictions a minute that are asked for with a key, None: do not."""
        return self._json("PUT", f"/keys/{_part(key_id)}/limit", {"requests_per_minute": requests_per_minute})

    def revoke_key(self, key_id: str) -> None:
        """Let a key be good for nothing from now on."""
        self._calls.ask("DELETE", f"/keys/{_part(key_id)}")

    def models(self) -> list[Json]:
        """Return one's models."""
        return self._list("/models")

    def model(self, model_id: str) -> Json:
        """Return a model."""
        return self._json("GET", f"/models/{_part(model_id)}")

    def create_model(self, name: str, description: str = "") -> Json:
        """Make a model."""
        return self._json("POST", "/models", {"name": name, "description": description})

    def delete_model(self, model_id: str) -> None:
        """Delete a model and its versions."""
        self._calls.ask("DELETE", f"/models/{_part(model_id)}")

    def versions(self, model_id: str) -> list[Json]:
        """Return the versions of a model."""
        return self._list(f"/models/{_part(model_id)}/versions")

    def create_version(self, model_id: str, tag: str) -> Json:
        """Make a version, to upload to."""
        return self._json("POST", f"/models/{_part(model_id)}/versions", {"tag": tag})

    def version(self, version_id: str) -> Json:
        """Return a version with its state, its files and the steps of its proof."""
        return self._json("GET", f"/versions/{_part(version_id)}")

    def delete_version(self, version_id: str) -> None:
        """Delete a version."""
        self._calls.ask("DELETE", f"/versions/{_part(version_id)}")

    def upload(
        self, version_id: str, path: str | Path, name: str | None = None, progress: Progress | None = None
    ) -> str:
        """Send a file in chunks, from where an earlier call ended. Returns its SHA-256 in hex.

        `progress` is called with the bytes that are there, and the bytes of the file.
        """
        path = Path(path)
        name = path.name if name is None else name
        upload = Upload(self._calls, version_id, path, name, progress or (lambda _sent, _size: None))
        upload.send()
        self._hashes.setdefault(version_id, {})[name] = upload.sha256
        return upload.sha256

    def finish(self, version_id: str) -> Json:
        """Say that all files are there, and compare the SHA-256 of those that this client sent. Returns the version."""
        body = {"sha256": self._hashes.get(version_id, {})}
        return self._json("POST", f"/versions/{_part(version_id)}/finish", body, again=True)

    def wait_until_ready(
        self, version_id: str, follow: Callable[[Json], None] | None = None, timeout: float = 600.0
    ) -> Json:
        """Wait for the proof of a version; `follow` is called with each step as it begins and as it ends.

        Raises UnprocessableError if it is rejected, UnavailableError if it failed or takes longer than `timeout`.
        """
        ends = time.monotonic() + timeout
        seen: list[Json] = []
        while True:
            version = self.version(version_id)
            steps = version.get("steps") or []
            for step in steps:
                if follow is not None and step not in seen:
                    follow(step)
            seen = steps
            state, why = version["state"], version.get("state_reason", "")
            if state == "ready":
                return version
            if state in {"rejected", "archived"}:
                raise UnprocessableError(f"the version is {state}: {why}", code=state)
            if state == "failed" or time.monotonic() > ends:
                raise UnavailableError(f"the version is {state}: {why}", code=state)
            time.sleep(POLL)

    def deploy(self, model_id: str, name: str, version_id: str, **spec: Any) -> Json:
        """Deploy a version. `spec` is as in `Spec`, and requests_per_minute of all who call it."""
        return self._json(
            "POST", "/deployments", {"model_id": model_id, "name": name, "version_id": version_id, **spec}
        )

    def deployments(self) -> list[Json]:
        """Return one's deployments."""
        return self._list("/deployments")

    def deployment(self, deployment_id: str) -> Json:
        """Return a deployment with its state and revisions."""
        return self._json("GET", f"/deployments/{_part(deployment_id)}")

    def revise(self, deployment_id: str, **spec: Any) -> Json:
        """Deploy another version (`version_id`) or other figures; what was there answers until that is ready."""
        return self._json("PATCH", f"/deployments/{_part(deployment_id)}", spec)

    def logs(self, deployment_id: str, *, follow: bool = False) -> Iterator[str]:
        """Yield what the models of a deployment wrote, line by line; with `follow` also what they will write.

        Raises UnavailableError when the connection breaks.
        """
        query = "true" if follow else "false"
        for event, told in self._calls.events(f"/deployments/{_part(deployment_id)}/logs?follow={query}"):
            if event == "log":
                yield told["line"]

    def manifests(self, deployment_id: str) -> Json:
        """Return the objects of Kubernetes for a deployment, as a List; its Secrets say what to set."""
        return self._json("GET", f"/deployments/{_part(deployment_id)}/manifests")

    def rollback(self, deployment_id: str, revision: int) -> Json:
        """Let an earlier revision answer again."""
        return self._json("POST", f"/deployments/{_part(deployment_id)}/rollback", {"revision": revision}, again=True)

    def limit(self, deployment_id: str, requests_per_minute: int | None) -> Json:
        """Limit the requests a minute of all who call a deployment together, None: do not. It is no new revision."""
        body = {"requests_per_minute": requests_per_minute}
        return self._json("PUT", f"/deployments/{_part(deployment_id)}/limit", body)

    def usage(
        self, deployment_id: str, begin: datetime | None = None, end: datetime | None = None, *, step: int | None = None
    ) -> Json:
        """Return what a deployment used, in `points` of `step` seconds; without a begin that of the last hour.

        Times have their zone.
        """
        query = _span(begin, end) | ({} if step is None else {"step": str(step)})
        return self._json("GET", f"/deployments/{_part(deployment_id)}/usage", params=query)

    def usage_of_all(self, begin: datetime | None = None, end: datetime | None = None) -> Json:
        """Return what each of one's deployments used, those that are gone, too; without a begin in the last day."""
        return self._json("GET", "/usage", params=_span(begin, end))

    def stop(self, deployment_id: str) -> Json:
        """Let a deployment answer nothing, until `start`."""
        return self._json("POST", f"/deployments/{_part(deployment_id)}/stop", again=True)

    def start(self, deployment_id: str) -> Json:
        """Let a stopped deployment answer again."""
        return self._json("POST", f"/deployments/{_part(deployment_id)}/start", again=True)

    def delete(self, deployment_id: str) -> None:
        """Delete a deployment and all that runs for it."""
        self._calls.ask("DELETE", f"/deployments/{_part(deployment_id)}")

    def predict(self, deployment_id: str, instances: Sequence[Any], timeout: float = TIMEOUT) -> Json:
        """Ask a model, and wait while it wakes. Returns the answer with its `predictions`, one for each instance.

        Raises UnavailableError after `timeout` seconds: the message names the prediction, whose `result` comes.
        """
        ends = time.monotonic() + timeout
        headers = {"Prefer": f"wait={max(1, int(timeout))}"}
        response = self._calls.call(
            "POST",
            f"/predict/{_part(deployment_id)}",
            json={"instances": list(instances)},
            again=True,
            headers=headers,
            timeout=timeout + PATIENCE,
        )
        if response.status_code != ACCEPTED:
            return _object(response.json())
        prediction = _job(response.headers)
        while (answer := self.result(prediction)) is None:
            if time.monotonic() > ends:
                raise UnavailableError(f"no answer within {timeout:g} s: ask for the result of {prediction!r} later")
            time.sleep(POLL)
        return answer

    def predict_async(self, deployment_id: str, instances: Sequence[Any]) -> str:
        """Ask a model without waiting. Returns the id of the prediction, for `result`."""
        response = self._calls.call(
            "POST",
            f"/predict/{_part(deployment_id)}",
            json={"instances": list(instances)},
            headers={"Prefer": "respond-async"},
        )
        return _job(response.headers)

    def result(self, prediction_id: str) -> Json | None:
        """Return the answer to a prediction, None while there is none yet. Raises what the model answers instead."""
        response = self._calls.call("GET", f"/predictions/{_part(prediction_id)}")
        return None if response.status_code == ACCEPTED else _object(response.json())

    def _json(self, method: str, path: str, body: Any = None, *, again: bool | None = None, **more: Any) -> Json:
        return _object(self._calls.ask(method, path, body, again=again, **more))

    def _list(self, path: str) -> list[Json]:
        return [_object(each) for each in self._calls.pages(path)]


def _span(begin: datetime | None, end: datetime | None) -> dict[str, str]:
    return {name: moment.isoformat() for name, moment in (("from", begin), ("to", end)) if moment is not None}


def _part(text: str) -> str:
    return quote(text, safe="")


def _job(headers: Mapping[str, str]) -> str:
    return headers["Location"].rstrip("/").rpartition("/")[2]


def _object(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise UnavailableError("the answer is not the API's: is the address right?")
    return answer
