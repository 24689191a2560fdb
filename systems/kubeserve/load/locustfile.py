"""What users do at the same time: single rows, batches, and a look at the platform's health.

Run by `python -m load`, which names the deployment in LOAD_DEPLOYMENT and who calls in LOAD_TOKEN.
"""

import os
import random

from locust import HttpUser, between, task

FLOWERS = ([5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3], [7.7, 3.0, 6.1, 2.3])
BATCH = 100


class Caller(HttpUser):
    """Waits a moment between calls, as people and their programs do."""

    wait_time = between(0.05, 0.15)

    def on_start(self) -> None:
        """Say who calls."""
        self.client.headers["Authorization"] = f"Bearer {os.environ['LOAD_TOKEN']}"
        self.path = f"/api/v1/predict/{os.environ['LOAD_DEPLOYMENT']}"

    @task(10)
    def single(self) -> None:
        """Ask for one row."""
        self._ask("single", 1)

    @task(3)
    def batch(self) -> None:
        """Ask for many rows at once."""
        self._ask("batch", BATCH)

    @task(1)
    def health(self) -> None:
        """Look whether all is well."""
        self.client.get("/healthz", name="health")

    def _ask(self, name: str, count: int) -> None:
        """Ask, and count an answer that has not a prediction for each row as a failure."""
        rows = random.choices(FLOWERS, k=count)  # noqa: S311  guards nothing
        with self.client.post(self.path, json={"instances": rows}, name=name, catch_response=True) as answer:
            if answer.status_code == 200 and len(answer.json()["predictions"]) != count:  # noqa: PLR2004  OK
                answer.failure("another number of predictions than rows")
            elif answer.status_code != 200:  # noqa: PLR2004  OK; 202 is an answer that did not come in time
                answer.failure(f"status {answer.status_code}")
