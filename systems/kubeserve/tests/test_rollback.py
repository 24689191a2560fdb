"""Revisions over HTTP, as an owner lives with them: a new one that fails, the way back, and where there is none."""

import asyncio
from itertools import pairwise
from typing import Any

from kubeserve.domain import VersionState as State
from models import make, of_python
from stack import Person, Stack
from test_api_predictions import deploy, deployed


async def version(stack: Stack, person: Person, model_id: str, tag: str, script: str | None) -> str:
    """Make one more version of a model, past its proof: of what a script makes, or of what is no model."""
    registry, path = stack.plane.registry, stack.data / "m.pkl"
    path.write_bytes(b"no model")
    if script is not None:
        await asyncio.to_thread(make, stack.data / "environments" / "science", path, script)
    made = await registry.create_version(person.id, model_id, tag)
    await person.ask("PUT", f"/versions/{made.id}/files/m.pkl", data=path.read_bytes())
    await stack.plane.uploads.finish(person.id, made.id)
    for before, after in pairwise((State.SCANNING, State.BUILDING, State.CHECKING, State.READY)):
        fields = {"format": "pickle", "environment": "science"}
        await registry.set_state(made.id, after, "as usual", expected={before}, **fields)
    return made.id


async def answers(person: Person, deployment_id: str) -> tuple[Any, int]:
    told = await person.ask("POST", f"/predict/{deployment_id}", [[1]])
    return told["predictions"][0], told["revision"]


async def test_the_way_back_while_the_new_revision_fails(stack: Stack) -> None:
    anna = await stack.person()
    made = await deploy(stack, anna, of_python("return ['one' for row in rows]"))
    path = f"/deployments/{made['id']}"
    await anna.until(path, active_revision=1, state="ready")
    bad = await version(stack, anna, made["model_id"], "v2", None)
    assert (await anna.ask("PATCH", path, {"version_id": bad}))["target_revision"] == 2
    failing = await anna.until(path, state="degraded")
    assert (failing["active_revision"], "revision 2: " in failing["state_reason"]) == (1, True)
    assert await answers(anna, made["id"]) == ("one", 1)
    await anna.ask("POST", f"{path}/rollback", {"revision": 1})
    back = await anna.until(path, state="ready", target_revision=1)
    assert (back["active_revision"], back["state_reason"]) == (1, "")
    good = await version(stack, anna, made["model_id"], "v3", of_python("return ['three' for row in rows]"))
    await anna.ask("PATCH", path, {"version_id": good})
    await anna.until(path, active_revision=3, state="ready")
    assert await answers(anna, made["id"]) == ("three", 3)
    assert [each["number"] for each in (await anna.ask("GET", path))["revisions"]] == [1, 2, 3]
    for revision in (2, 1):  # to the one that fails, and away from it before it has
        await anna.ask("POST", f"{path}/rollback", {"revision": revision})
    await anna.until(path, active_revision=1, state="ready")
    assert await answers(anna, made["id"]) == ("one", 1)


async def test_what_there_is_no_way_back_to_is_told(doorless: Stack) -> None:
    anna = await doorless.person()
    deployment_id = await deployed(doorless, anna)
    path = f"/deployments/{deployment_id}"
    first = (await anna.ask("GET", path))["revisions"][0]["version_id"]
    for number in (0, -1, 2, 10**30):
        status, told, _ = await anna.call("POST", f"{path}/rollback", {"revision": number})
        assert (status, told["error"]) == (404, "there is no such revision; 1 to 1 are there")
    status, told, _ = await anna.call("DELETE", f"/versions/{first}")
    assert (status, "d" in told["error"]) == (409, True), "a version to which there is a way back is not deleted"
    await anna.ask("POST", f"/versions/{first}/archive")
    assert (await anna.ask("POST", f"{path}/rollback", {"revision": 1}))["target_revision"] == 1
    await anna.ask("POST", f"{path}/stop")
    stopped = await anna.ask("POST", f"{path}/rollback", {"revision": 1})
    assert stopped["desired"] == "stopped", "the way back starts nothing"
    await anna.ask("DELETE", path)
    status, told, _ = await anna.call("POST", f"{path}/rollback", {"revision": 1})
    assert (status, "being deleted" in told["error"]) == (409, True)
