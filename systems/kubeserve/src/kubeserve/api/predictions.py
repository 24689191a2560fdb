"""Predictions: asked for, waited for, asked for later. What was accepted is answered, whoever dies meanwhile."""

import asyncio
import re
from time import monotonic
from typing import Any, Final

from aiohttp import web

from kubeserve.api.answers import json_answer
from kubeserve.api.call import Call
from kubeserve.api.reading import read_body
from kubeserve.api.shapes import PredictionShape
from kubeserve.domain import Deployment, DeploymentState, Desired
from kubeserve.errors import ConflictError, KubeServeError, NotFoundError, UnavailableError
from kubeserve.predictions import Answer, deployment_of, problem, rows_of
from kubeserve.queueing import LARGEST_BODY

SLACK_SECONDS: Final = 60.0  # beside a prediction's own time: to wake, and to wait for others
LONGEST_WAIT: Final = 600.0
HOPELESS_WAIT: Final = 2.0  # while no revision comes up
RETRY_SECONDS: Final = 2
WAIT: Final = re.compile(r"wait\s*=\s*\"?(\d{1,6})\"?")


class CancelledError(KubeServeError):
    """A prediction that was cancelled has no answer."""

    status = 410
    code = "cancelled"


async def predict(call: Call) -> PredictionShape | web.Response:
    """Ask a model. `Prefer: wait=N` waits for N seconds at most, `Prefer: respond-async` not at all; then 202.

    A replica that is awake is asked by HTTP, and of that answer nothing is kept: its `id` is null. Whatever does not
    come of it in that time becomes a job, which 202 names.
    """
    deployment = await _asked(call, call.part("deployment_id"))
    if deployment.desired is Desired.STOPPED:
        raise ConflictError(f"the deployment {deployment.name!r} is stopped: start it first", code="stopped")
    rows = rows_of(await read_body(call.request, LARGEST_BODY))
    ends = monotonic() + (patience := _patience(call.request, deployment))
    answer = await call.plane.gateway.ask(deployment, rows, patience) if patience else None
    if answer is None:
        prediction_id = await call.plane.predictions.submit(deployment.id, rows)
        answer = await _waited(call, deployment, prediction_id, max(0.0, ends - monotonic()))
    return await _told(call, deployment, answer)


async def prediction(call: Call) -> PredictionShape | web.Response:
    """Read a prediction: its answer, 202 while there is none, or why it failed. It is kept for an hour."""
    prediction_id = call.part("prediction_id")
    deployment = await _asked(call, deployment_of(prediction_id))
    return await _told(call, deployment, await call.plane.predictions.look(prediction_id))


async def cancel_prediction(call: Call) -> None:
    """Cancel a prediction that has not ended."""
    prediction_id = call.part("prediction_id")
    await _asked(call, deployment_of(prediction_id))
    await call.plane.predictions.cancel(prediction_id)


async def _asked(call: Call, deployment_id: str) -> Deployment:
    deployment = await call.state.deployment(call.owner_id, deployment_id)
    if deployment.desired is Desired.DELETED:
        raise NotFoundError("there is no such deployment")
    return deployment


def _patience(request: web.Request, deployment: Deployment) -> float:
    preferred = ", ".join(request.headers.getall("Prefer", []))
    if found := WAIT.search(preferred):
        return min(LONGEST_WAIT, float(found[1]))
    if "respond-async" in preferred:
        return 0.0
    if deployment.state is DeploymentState.FAILED and deployment.active is None:
        return HOPELESS_WAIT
    timeouts = [revision.spec.timeout for revision in deployment.revisions if revision.number == deployment.target]
    return min(LONGEST_WAIT, *timeouts) + SLACK_SECONDS


async def _waited(call: Call, deployment: Deployment, prediction_id: str, seconds: float) -> Answer:
    """Wait for the end, not for longer than this process lasts."""
    open_ = Answer(prediction_id, "queued")
    if not seconds:
        return open_
    end = asyncio.create_task(call.plane.predictions.wait(prediction_id, seconds))
    stopping = asyncio.create_task(call.plane.stopping.wait())
    try:
        await asyncio.wait({end, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not end.done():
            return open_
        return end.result()
    except UnavailableError:
        call.state.changed()
        await _asked(call, deployment.id)  # NotFoundError: it was deleted meanwhile
        raise
    finally:
        for task in (end, stopping):
            task.cancel()
        await asyncio.gather(end, stopping, return_exceptions=True)


async def _told(call: Call, deployment: Deployment, answer: Answer) -> PredictionShape | web.Response:
    if answer.state == "failed":
        raise problem(answer)
    if answer.state == "cancelled":
        raise CancelledError("the prediction was cancelled")
    if answer.answer is None:
        return await _open(call, deployment, answer)
    given: dict[str, Any] = answer.answer
    return json_answer(  # a PredictionShape, whose values are not checked and copied once more
        {
            "id": answer.id,
            "predictions": given["predictions"],
            "model": (await call.state.model(call.owner_id, deployment.model_id)).name,
            "version": given["version"],
            "deployment": deployment.id,
            "revision": given["revision"],
        }
    )


async def _open(call: Call, deployment: Deployment, answer: Answer) -> web.Response:
    """Say where the answer will be, and why there is none yet, if the deployment says so."""
    place = f"/api/v1/predictions/{answer.id}"
    now = await call.state.deployment(call.owner_id, deployment.id)
    body = {
        "id": answer.id,
        "state": answer.state,
        "location": place,
        "deployment_state": now.state,
        "reason": now.state_reason,
    }
    return json_answer(body, 202, {"Location": place, "Retry-After": str(RETRY_SECONDS)})
