"""A scripted API server: what Kubernetes promises of objects, a kubelet that is told how pods fare, and faults.

Objects are merged as server-side apply does, by what each manager applied last. `advance` does what controllers do: it
makes and ends pods, collects what belongs to nothing, lets namespaces terminate. `broken` names the faults that may hit
a request, `chance` how often.
"""

import asyncio
import copy
import json
import random
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from aiohttp import web

Object = dict[str, Any]
Key = tuple[str, str, str]  # plural, namespace, name
KINDS = {
    "namespaces": "Namespace", "resourcequotas": "ResourceQuota", "limitranges": "LimitRange", "secrets": "Secret",
    "serviceaccounts": "ServiceAccount", "networkpolicies": "NetworkPolicy", "configmaps": "ConfigMap", "pods": "Pod",
    "services": "Service", "deployments": "Deployment", "scaledobjects": "ScaledObject",
    "triggerauthentications": "TriggerAuthentication", "servicemonitors": "ServiceMonitor",
    "poddisruptionbudgets": "PodDisruptionBudget",
}  # fmt: skip
PATH = re.compile(r"/apis?/(?:[a-z.0-9]+/)?v1[a-z0-9]*(?:/namespaces/([^/]+)(?=/))?/([a-z]+)(?:/([^/]+)(?:/(log))?)?")
FAULTS = ("conflict", "busy", "error", "html", "astray", "rights", "cut", "lost", "slow", "garbage", "redirect")
PAGES = {"html": (502, "<html><h1>Bad Gateway</h1>"), "astray": (404, "404 page not found\n")}
UNREAD = 'RBAC: clusterrole.rbac.authorization.k8s.io "kubeserve" not found'  # yet, by a server that has just started
CRASHED = {"exitCode": 1, "reason": "Error", "message": "loading\nValueError: not a model\n"}


class Refusal(Exception):  # noqa: N818  an answer, too
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def body(self) -> Object:
        return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}, "message": self.message,
                "reason": self.reason, "code": self.code}  # fmt: skip

    def response(self) -> web.Response:
        headers = {"Content-Type": "application/json"}
        return web.Response(body=json.dumps(self.body()), status=self.code, headers=headers)


REFUSALS = {
    "conflict": Refusal(409, "Conflict", "the object has been modified; please apply your changes again"),
    "rights": Refusal(403, "Forbidden", f'pods is forbidden: User "kubeserve" cannot list resource "pods": {UNREAD}'),
    "error": Refusal(500, "InternalError", "etcdserver: leader changed"),
}


class KubeApi:
    """One cluster. `fates` says how pods of a revision (of any deployment) fare; they get ready unless told."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.objects = dict[Key, Object]()
        self.version = 100
        self.history = list[tuple[int, str, str, Object]]()
        self.oldest = 100
        self.happened = asyncio.Condition()
        self.fates = dict[str, str]()
        self.lines = ["a line of the model"]
        self.missing = set[str]()  # plurals of kinds that are not installed
        self.refused = set[str]()  # plurals that a policy of the cluster refuses
        self.broken = tuple[str, ...]()
        self.chance = 0.0
        self.wait = 1  # seconds that a busy server asks to wait
        self.away = self.mute = self.curt = False  # curt: a watch ends as soon as it has begun
        self.terminating = 3  # how many advances a namespace or a pod takes to end
        self.calls = list[tuple[str, str]]()
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, seed: int = 0) -> AsyncIterator[Self]:
        api = cls(seed)
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", api._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        controllers = asyncio.create_task(api._control())
        try:
            yield api
        finally:
            controllers.cancel()
            await asyncio.wait({controllers})
            await runner.cleanup()

    # What a test looks at and does.

    def of(self, plural: str, **labels: str) -> list[Object]:
        wanted = {f"kubeserve/{name}": value for name, value in labels.items()}
        return [
            each for (kind, _, _), each in sorted(self.objects.items())
            if kind == plural and wanted.items() <= (each["metadata"].get("labels") or {}).items()
        ]  # fmt: skip

    def change(self, key: Key, new: Object | None) -> None:
        """Store an object, or let it be gone, as anybody may who has the rights."""
        old = self.objects.get(key)
        if new is not None and old is not None and _bare(new) == _bare(old):
            return
        self.version += 1
        if new is None:
            self.objects.pop(key)
            event, seen = "DELETED", copy.deepcopy(old or {})
        else:
            about = new["metadata"]
            if old is None:
                about |= {
                    "uid": f"{self.version}-uid",
                    "generation": 1,
                    "creationTimestamp": f"2026-11-29T12:00:00.{self.version:06}Z",
                }
            elif new.get("spec") != old.get("spec"):
                about["generation"] += 1
            event, seen = ("ADDED" if old is None else "MODIFIED"), new
            self.objects[key] = new
        seen["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, event, key[0], copy.deepcopy(seen)))

    def edit(self, key: Key, **spec: Any) -> None:
        """Change fields of an object's spec, by somebody else's hand."""
        new = copy.deepcopy(self.objects[key])
        new.setdefault("spec", {}).update(spec)
        self.change(key, new)

    def compact(self) -> None:
        """Forget what has happened: who would go on from there is told 410."""
        self.oldest, self.history = self.version, []

    def delete(self, key: Key) -> None:
        """Begin to delete: at once, unless a finalizer or time is needed."""
        new = copy.deepcopy(self.objects[key])
        slow = key[0] in {"namespaces", "pods"}
        if slow or new["metadata"].get("finalizers"):
            if "deletionTimestamp" not in new["metadata"]:
                new["metadata"] |= {"deletionTimestamp": "2026-11-29T13:00:00Z"}
                new["left"] = self.terminating if slow else 3
                if key[0] == "namespaces":
                    new["status"] = {"phase": "Terminating"}
                self.change(key, new)
        else:
            self.change(key, None)

    # HTTP.

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault()
        self.calls.append((request.method, request.path))
        if self.away or fault == "cut":
            return _cut(request)
        if fault in {"conflict", "busy", "error", "html", "astray", "rights", "garbage", "redirect"}:
            return _faulty(fault, self.wait)
        if fault == "slow":
            await asyncio.sleep(self.random.uniform(0, 0.2))
        try:
            answer = await self._answered(request)
        except Refusal as refusal:
            return refusal.response()
        await self._wake()
        if isinstance(answer, web.StreamResponse):
            return answer
        if fault == "lost":  # done, and nobody is told: the answer breaks off in its middle
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "9999"})
            await response.prepare(request)
            await response.write(json.dumps(answer).encode()[:20])
            _cut(request)
            return response
        charset = self.random.choice(("", "; charset=utf-8"))
        return web.Response(body=json.dumps(answer), headers={"Content-Type": f"application/json{charset}"})

    async def _answered(self, request: web.Request) -> web.StreamResponse | Object:
        found = PATH.fullmatch(request.path)
        if found is not None and found[2] in self.missing:
            return web.Response(status=404, text="404 page not found\n", headers={"Audit-Id": str(uuid.uuid4())})
        if found is None or found[2] not in KINDS:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        namespace, plural, name, log = found.groups(default="")
        if log:
            return await self._log(request, namespace, name)
        if request.query.get("watch") == "true":
            return await self._watch(request, plural)
        return self._answer(request, (plural, namespace, name), await request.read())

    def _fault(self) -> str:
        return self.random.choice(self.broken) if self.broken and self.random.random() < self.chance else ""

    def _answer(self, request: web.Request, key: Key, body: bytes) -> Object:
        if request.method == "GET":
            selector = request.query.get("labelSelector", "")
            items = [each for each in self.objects.items() if each[0][0] == key[0] and _selected(each[1], selector)]
            items = [each for each in items if key[1] in {"", each[0][1]}]
            return {"kind": f"{KINDS[key[0]]}List", "metadata": {"resourceVersion": str(self.version)},
                    "items": [_shown(each) for _, each in items]}  # fmt: skip
        if request.method == "DELETE":
            if key not in self.objects:
                raise Refusal(404, "NotFound", f'{key[0]} "{key[2]}" not found')
            self.delete(key)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        assert request.method == "PATCH", request.method
        assert request.content_type == "application/apply-patch+yaml"
        assert request.query["force"] == "true"
        self._admit(key)
        return _shown(self._apply(key, request.query["fieldManager"], json.loads(body)))

    def _admit(self, key: Key) -> None:
        plural, namespace, name = key
        if plural in self.refused:
            raise Refusal(422, "Invalid", f'{plural} "{name}" is invalid: a policy of the cluster refuses it')
        if namespace:
            home = self.objects.get(("namespaces", "", namespace))
            if home is None:
                raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found')
            if "deletionTimestamp" in home["metadata"] and key not in self.objects:
                why = f"unable to create new content in namespace {namespace} because it is being terminated"
                raise Refusal(403, "Forbidden", f'{plural} "{name}" is forbidden: {why}')

    def _apply(self, key: Key, manager: str, wanted: Object) -> Object:
        new = copy.deepcopy(self.objects.get(key) or {"metadata": {}})
        applied = new.setdefault("applied", {})
        new = _merged(new, applied.get(manager, {}), copy.deepcopy(wanted))
        new.setdefault("applied", {})[manager] = copy.deepcopy(wanted)
        if key[0] == "deployments":
            new["spec"].setdefault("replicas", 1)
        if key[0] == "namespaces":
            new.setdefault("status", {"phase": "Active"})
        if key[0] == "scaledobjects" and "deletionTimestamp" not in new["metadata"]:
            new["metadata"]["finalizers"] = ["finalizer.keda.sh"]
        self.change(key, new)
        return self.objects[key]

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        seen = int(request.query.get("resourceVersion", self.version))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while not self.away:
            if self.curt:
                return response
            if seen < self.oldest:
                gone = Refusal(410, "Expired", f"too old resource version: {seen}").body()
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return response
            for version, event, kind, each in [each for each in self.history if each[0] > seen and not self.mute]:
                seen = version
                if kind == plural and _selected(each, request.query.get("labelSelector", "")):
                    line = json.dumps({"type": event, "object": _shown(each)}).encode() + b"\n"
                    if self._fault():  # cut in the middle of a line
                        await response.write(line[:10])
                        _cut(request)
                        return response
                    await response.write(line)
            async with self.happened:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.happened.wait(), 0.2)
        _cut(request)
        return response

    async def _log(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        if ("pods", namespace, name) not in self.objects:
            raise Refusal(404, "NotFound", f'pods "{name}" not found')
        assert request.query["container"] == "model"
        response = web.StreamResponse()
        await response.prepare(request)
        sent = 0
        while True:
            for number, line in enumerate(self.lines[sent:], sent):
                stamp = f"2026-11-29T12:00:00.{number:09}Z"
                if stamp > request.query.get("sinceTime", ""):
                    await response.write(f"{stamp} {line}\n".encode())
            sent = len(self.lines)
            if request.query.get("follow") != "true":
                return response
            await asyncio.sleep(0.02)

    async def _wake(self) -> None:
        async with self.happened:
            self.happened.notify_all()

    # Controllers.

    async def _control(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            self.advance()
            await self._wake()

    def advance(self) -> None:
        """Do once what controllers and kubelets do."""
        for key in list(self.objects):
            each = self.objects.get(key)
            if each is None:
                continue
            if "deletionTimestamp" in each["metadata"]:
                self._end(key, each)
            elif key[0] == "deployments":
                self._roll(each)
            elif key[0] == "pods" and ("deployments", key[1], each["owner"]) not in self.objects:
                self.delete(key)
            elif key[0] == "pods":
                self._fare(key, each)

    def _end(self, key: Key, each: Object) -> None:
        inside = [other for other in self.objects if key[0] == "namespaces" and other[1] == key[2]]
        for other in inside:
            self.delete(other)
        new = copy.deepcopy(each)
        new["left"] = each.get("left", 0) - 1
        if new["left"] > 0 or inside:
            self.objects[key] = new  # nothing to see
        else:
            self.change(key, None)

    def _roll(self, deployment: Object) -> None:
        about, spec = deployment["metadata"], deployment["spec"]
        mark = json.dumps(spec["template"], sort_keys=True)
        pods = [
            (key, each) for key, each in self.objects.items()
            if key[:2] == ("pods", about["namespace"]) and each["owner"] == about["name"]
            and "deletionTimestamp" not in each["metadata"]
        ]  # fmt: skip
        new = [each for each in pods if each[1]["mark"] == mark]
        old = [each for each in pods if each[1]["mark"] != mark]
        ready = sum(_is_ready(each) for _, each in new)
        surplus = new[spec["replicas"] :] + (old if ready >= spec["replicas"] else [])
        for key, _ in surplus:
            self.delete(key)
        refusal = ""
        if len(new) < spec["replicas"]:
            refusal = self._pod(deployment, mark)
        conditions = [{"type": "ReplicaFailure", "status": "True", "message": refusal}] if refusal else []
        key = ("deployments", about["namespace"], about["name"])
        self.change(key, {**copy.deepcopy(self.objects[key]), "status": {"conditions": conditions}})

    def _pod(self, deployment: Object, mark: str) -> str:
        about, template = deployment["metadata"], deployment["spec"]["template"]
        namespace = about["namespace"]
        quotas = [each for key, each in self.objects.items() if key[:2] == ("resourcequotas", namespace)]
        there = sum(key[:2] == ("pods", namespace) for key in self.objects)
        if any(there >= int(quota["spec"]["hard"]["pods"]) for quota in quotas):
            return 'pods "d-x" is forbidden: exceeded quota: quota, requested: pods=1, used: pods=5, limited: pods=5'
        name = f"{about['name']}-{self.version}"
        labels = {**template["metadata"]["labels"]}
        pod = {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": template["spec"]}
        self.change(("pods", namespace, name), {**copy.deepcopy(pod), "owner": about["name"], "mark": mark})
        return ""

    def _fare(self, key: Key, pod: Object) -> None:
        fate = self.fates.get(pod["metadata"]["labels"].get("kubeserve/revision", ""), "ready")
        self.change(key, {**copy.deepcopy(pod), "status": status_of(fate)})


def status_of(fate: str) -> Object:
    """The status of a pod that fares so."""
    conditions = [{"type": "Ready", "status": "True" if fate == "ready" else "False"}]
    waiting = {"image": "ImagePullBackOff", "config": "CreateContainerConfigError", "crash": "CrashLoopBackOff",
               "init": "CrashLoopBackOff", "memory": "CrashLoopBackOff"}  # fmt: skip
    status: Object = {"phase": "Running" if fate == "ready" else "Pending", "conditions": conditions}
    if fate == "room":
        why = "0/3 nodes are available: 3 Insufficient memory."
        conditions.append({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why})
    if fate in waiting:
        container: Object = {"name": "model", "image": "kubeserve:1", "ready": False, "restartCount": 4}
        container["state"] = {"waiting": {"reason": waiting[fate], "message": "back-off 40s"}}
        if fate in {"crash", "init", "memory"}:
            last = {"exitCode": 137, "reason": "OOMKilled"} if fate == "memory" else CRASHED
            container["lastState"] = {"terminated": last}
        status["initContainerStatuses" if fate == "init" else "containerStatuses"] = [container]
    return status


def _cut(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _faulty(fault: str, wait: int) -> web.Response:
    match fault:
        case "busy":
            return web.Response(
                status=429, headers={"Retry-After": str(wait)}, text="Too many requests, please try again"
            )
        case "html" | "astray":  # of a proxy, which reaches nobody or does not know the way
            status, text = PAGES[fault]
            return web.Response(status=status, text=text)
        case "garbage":
            return web.Response(body=b'{"kind": ', content_type="application/json")
        case "redirect":
            return web.Response(status=302, headers={"Location": "https://login.example.org/"})
    return REFUSALS[fault].response()


def _merged(now: Any, former: Any, wanted: Any) -> Any:
    """Server-side apply: what this manager named before and does not name any more goes; lists of names by name."""
    if isinstance(now, dict) and isinstance(wanted, dict):
        former = former if isinstance(former, dict) else {}
        kept = {name: value for name, value in now.items() if name in wanted or name not in former}
        return kept | {name: _merged(now.get(name), former.get(name), value) for name, value in wanted.items()}
    if _named(wanted) and _named(now):
        before = {each["name"]: each for each in former} if _named(former) else {}
        here = {each["name"]: each for each in now}
        names = [name for name in here if name not in before] + [each["name"] for each in wanted]
        new = {each["name"]: each for each in wanted}
        return [
            _merged(here.get(name), before.get(name), new[name]) if name in new else here[name]
            for name in dict.fromkeys(names)
        ]
    return wanted


def _named(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) and "name" in each for each in value):
        return False
    return len({each["name"] for each in value}) == len(value)


def _selected(each: Object, selector: str) -> bool:
    labels = each["metadata"].get("labels") or {}
    return all(labels.get(part.split("=")[0]) == part.split("=")[-1] for part in selector.split(",") if part)


def _shown(each: Object) -> Object:
    return {name: value for name, value in each.items() if name not in {"applied", "left", "owner", "mark"}}


def _bare(each: Object) -> Object:
    about = {name: value for name, value in each["metadata"].items() if name not in {"resourceVersion", "generation"}}
    return {**each, "metadata": about}


def _is_ready(pod: Object) -> bool:
    return any(
        each["type"] == "Ready" and each["status"] == "True" for each in pod.get("status", {}).get("conditions", ())
    )


def intact(each: Object) -> bool:
    """Tell whether all that was applied to an object is so, whatever others have added."""
    return all(_bare(each) == _bare(_merged(each, wanted, wanted)) for wanted in each.get("applied", {}).values())


def foreign(api: KubeApi) -> Iterator[Object]:
    """Objects without our labels, which nobody of ours may touch."""
    for each in api.objects.values():
        if (each["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") != "kubeserve":
            yield _bare(each)
