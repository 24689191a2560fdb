"""A real API server, as a test borrows it: a namespace, an account with the platform's rights, and its fence.

All of it has a name of its own, so that a platform that is installed there keeps what is its, and goes in the end.
"""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx2
import yaml
from harness.eventually import POLL
from lightkube import KubeConfig
from lightkube.config.client_adapter import AsyncClient as open_http  # noqa: N813  a function
from lightkube.config.client_adapter import ConnectionParams
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User

Object = dict[str, Any]
TREE: Final = Path(__file__).parents[3] / "kustomize"
ACCOUNT: Final = "system:serviceaccount:kubeserve:kubeserve"
APPLY: Final = {"Content-Type": "application/apply-patch+yaml"}
PATIENCE: Final = 60.0
MERGE: Final = {"Content-Type": "application/merge-patch+json"}
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
ADMISSION: Final = "/apis/admissionregistration.k8s.io/v1"
PLURALS: Final = {
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "ValidatingAdmissionPolicy": f"{ADMISSION}/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": f"{ADMISSION}/validatingadmissionpolicybindings",
}


class SaysNoError(Exception):
    """What the API server refused."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class ApiServer:
    """The server, asked as one user of it."""

    def __init__(self, config: SingleConfig) -> None:
        self.config = config
        self._http = open_http(config, ConnectionParams(timeout=httpx2.Timeout(30)))

    @classmethod
    def named(cls) -> Self:
        """Return the one that KUBECONFIG names, as the user that it names."""
        config = KubeConfig.from_file(os.environ["KUBECONFIG"]).get()
        assert config is not None
        return cls(config)

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Return what it answers. Raises SaysNoError."""
        headers = {"Content-Type": "application/json"} | options.pop("headers", {})
        content = None if body is None else json.dumps(body)
        answer = await self._http.request(method, path, content=content, headers=headers, params=options)
        try:
            told = answer.json()
        except ValueError:
            told = {"message": answer.text}
        if answer.is_error:
            raise SaysNoError(answer.status_code, told["message"])
        return told

    async def get(self, path: str, **query: str) -> Any:
        """Return an object, or the objects of a list."""
        told = await self.ask("GET", path, **query)
        return told.get("items", told)

    async def apply(self, path: str, manifest: Object, **query: str) -> Any:
        """Apply it by server-side apply, unknown fields forbidden."""
        options = {"fieldManager": "kubeserve", "force": "true", "fieldValidation": "Strict"} | query
        return await self.ask("PATCH", path, manifest, headers=APPLY, **options)

    async def merge(self, path: str, change: Object) -> Any:
        """Change fields of an object, as somebody else."""
        return await self.ask("PATCH", path, change, headers=MERGE, fieldManager="somebody")

    async def delete(self, path: str) -> None:
        """Delete an object; one that is not there is fine."""
        try:
            await self.ask("DELETE", path, {"propagationPolicy": "Background"})
        except SaysNoError as error:
            if error.code != 404:
                raise

    async def aclose(self) -> None:
        await self._http.aclose()


class Loan:
    """What a test has on a server: `admin` is KUBECONFIG's user, `account` is the platform's, `namespace` its home."""

    def __init__(self, admin: ApiServer) -> None:
        self.admin = admin
        self.namespace = f"kubeserve-test-{uuid.uuid4().hex[:8]}"
        self.account: ApiServer
        self._made = list[str]()
        self._users = set[str]()

    @classmethod
    @asynccontextmanager
    async def taken(cls) -> AsyncIterator[Self]:
        """Borrow it, and give it back as it was."""
        loan = cls(ApiServer.named())
        try:
            await loan._begin()
            yield loan
        finally:
            await loan._end()

    def user(self, user_id: str = "") -> str:
        """Return the id of a user, of one that nobody has unless given; its namespace is deleted in the end."""
        found = user_id or str(uuid.uuid4())
        self._users.add(found)
        return found

    async def _begin(self) -> None:
        home = f"/api/v1/namespaces/{self.namespace}"
        await self._make(home, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        account = f"{home}/serviceaccounts/kubeserve"
        about = {"name": "kubeserve", "namespace": self.namespace}
        await self._make(account, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about})
        for file in (TREE / "kubeserve/role.yaml", TREE / "components/kubeserve-fence/policy.yaml"):
            for manifest in yaml.safe_load_all(file.read_text()):
                await self._make(f"{PLURALS[manifest['kind']]}/{self.namespace}", self._renamed(manifest))
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = (await self.admin.ask("POST", f"{account}/token", request))["status"]["token"]
        config = KubeConfig.from_one(cluster=self.admin.config.cluster, user=User(token=token)).get()
        assert config is not None
        self.account = ApiServer(config)
        await self._fenced(f"{home}/configmaps/fence")

    async def _fenced(self, path: str) -> None:
        """Wait until the server has taken notice of the rights and of the fence."""
        about = {"name": "fence", "namespace": self.namespace}
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self.account.apply(path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about})
                except SaysNoError as error:
                    if "ValidatingAdmissionPolicy" in error.message:
                        return
                await asyncio.sleep(POLL)

    def _renamed(self, manifest: Object) -> Object:
        text = json.dumps(manifest).replace(ACCOUNT, ACCOUNT.replace(":kubeserve:", f":{self.namespace}:", 1))
        made: Object = json.loads(text)
        made["metadata"] = {"name": self.namespace}
        if "roleRef" in made:
            made["roleRef"]["name"] = self.namespace
            made["subjects"][0]["namespace"] = self.namespace
        if made["kind"] == "ValidatingAdmissionPolicyBinding":
            made["spec"]["policyName"] = self.namespace
        return made

    async def _make(self, path: str, manifest: Object) -> None:
        self._made.append(path)
        await self.admin.apply(path, manifest)

    async def _end(self) -> None:
        users = [f"/api/v1/namespaces/ks-{user}" for user in self._users]
        for path in (*users, *reversed(self._made)):
            await self.admin.delete(path)
        await self.admin.aclose()
        if hasattr(self, "account"):
            await self.account.aclose()
