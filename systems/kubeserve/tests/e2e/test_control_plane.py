"""The control plane on the real API server that KUBECONFIG names, as `test_api_server.py` says: a user's whole way."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import yaml
from harness.redis_server import RedisServer

from api_server import ApiServer, Loan, SaysNoError
from kube_api import status_of
from kubeserve.manifests import namespace_of
from models import IRIS, make
from stack import Stack

LOOK_SECONDS = 0.2
pytestmark = [
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG names no API server to try this on"),
    pytest.mark.timeout(300),
]


@pytest.fixture(params=["postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def loan() -> AsyncIterator[Loan]:
    async with Loan.taken() as taken:
        if await taken.admin.get("/api/v1/nodes"):
            pytest.skip("the cluster has nodes: there a kubelet says how pods fare, and not this test")
        yield taken


@pytest.fixture
async def stack(
    loan: Loan, tmp_path: Path, science: Path, redis_server: RedisServer, stores: dict[str, str]
) -> AsyncIterator[Stack]:
    path = _config(loan.account, tmp_path / "account")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(path))
        async with Stack.open(tmp_path, science, f"{redis_server.url}/0", door=False, **stores) as made:
            yield made


def _config(account: ApiServer, path: Path) -> Path:
    """Write KUBECONFIG's file anew, with the account in the place of its users."""
    user = account.config.user
    assert user is not None
    told = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    told["users"] = [{"name": each["name"], "user": {"token": user.token}} for each in told["users"]]
    path.touch(0o600)
    path.write_text(yaml.safe_dump(told))
    return path


async def _kubelet(admin: ApiServer, namespace: str) -> None:
    """Let every pod of the namespace be ready, as it comes."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    while True:
        for pod in await admin.get(pods):
            if pod["status"]["phase"] != "Running":
                with suppress(SaysNoError, httpx2.HTTPError):  # it has gone
                    await admin.merge(f"{pods}/{pod['metadata']['name']}/status", {"status": status_of("ready")})
        await asyncio.sleep(LOOK_SECONDS)


async def test_who_registers_has_a_namespace_and_deploys_rolls_back_and_deletes_there(
    stack: Stack, loan: Loan, science: Path, tmp_path: Path
) -> None:
    person = await stack.person()
    loan.user(person.id)
    namespace = namespace_of(person.id)
    labels = (await loan.admin.get(f"/api/v1/namespaces/{namespace}"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    kubelet = asyncio.create_task(_kubelet(loan.admin, namespace))
    model = await asyncio.to_thread(make, science, tmp_path / "model.joblib", IRIS)
    version = await person.version(model, "iris")
    wanted = {"model_id": version["model_id"], "name": "live", "version_id": version["id"]}
    path = f"/deployments/{(await person.ask('POST', '/deployments', wanted))['id']}"
    await person.until(path, state="ready", active_revision=1)
    second = await person.version(model, "iris", "v2", model_id=version["model_id"])
    await person.ask("PATCH", path, {"version_id": second["id"]})
    await person.until(path, state="ready", active_revision=2)
    await person.ask("POST", f"{path}/rollback", {"revision": 1})
    await person.until(path, state="ready", active_revision=1)
    await person.ask("DELETE", path)
    await person.while_(path, 200)
    kubelet.cancel()
    await asyncio.wait({kubelet})
    for plural in ("pods", "secrets", "services"):
        assert await loan.admin.get(f"/api/v1/namespaces/{namespace}/{plural}") == []
