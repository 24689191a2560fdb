"""Ten deployments of ten users on clusters of several kinds, with all that is rendered for them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from kubeserve.domain import Quota
from kubeserve.manifests import (
    ClusterSettings,
    Download,
    Endpoint,
    Manifest,
    Redis,
    Urls,
    deployment,
    user_namespace,
)
from kubeserve.places.workload import Replicable, Workload

MIB: Final = 1024**2
LOGIN: Final = "of-this-deployment-in-redis"
SIGNED: Final = "signed-for-this-pod"
AUTHORITY: Final = "-----BEGIN CERTIFICATE-----\nof the Redis of tests\n-----END CERTIFICATE-----\n"
LOGIN_OF_REGISTRY: Final = '{"auths": {"registry.test": {"auth": "dXNlcjp0b2tlbg=="}}}'
SETTINGS: Final = ClusterSettings(
    image="kubeserve:0.1.0",
    namespace="kubeserve",
    redis=Redis(Endpoint("redis-service.kubeserve.svc", 6379)),
    store=Endpoint("kubeserve-s3.kubeserve.svc", 9000),
    installation="cccccccc-0000-5000-8000-000000000000",
    walls={"landlock": 1, "seccomp": True},
)
ELSEWHERE: Final = replace(
    SETTINGS,
    redis=Redis(Endpoint("redis.example.org", 6380), database=2, tls=True, authority=AUTHORITY),
    store=Endpoint("192.0.2.9", 9000),
    store_authorities=AUTHORITY.replace("Redis", "store"),
    registry=LOGIN_OF_REGISTRY,
)
ODD: Final = (
    "v1: {\"&*!|>'%@`\n--- \u202e\x07#" + "é" * 40
)  # 63 characters, none of which a tag may have in our database


def uuid(number: int, of: str = "d") -> str:
    """Return an id that tells in a file what it is of."""
    return f"{of * 8}-0000-7000-8000-{number:012}"


@dataclass(frozen=True)
class Case:
    """One deployment, its user's quota and its cluster. `own` is whether its environment is not that of the image."""

    number: int
    what: dict[str, Any] = field(default_factory=dict)
    settings: ClusterSettings = SETTINGS
    quota: Quota = field(default_factory=Quota)
    own: bool = False
    former: bool = False

    @property
    def target(self) -> Replicable:
        """The revision that is wanted."""
        base = {
            "revision": 2,
            "version": uuid(self.number, "e"),
            "tag": "v2",
            "key": f"models/{uuid(self.number, 'a')}/iris/v2/model.joblib",
            "format": "joblib",
            "environment": Path("/data/environments") / ("f" * 32 if self.own else "0" * 32),
            "minimum": 0,
            "maximum": 5,
            "concurrency": 16,
            "idle": 60.0,
            "timeout": 30.0,
            "memory": 1024 * MIB,
        }
        return Replicable.model_validate(base | self.what)

    @property
    def workload(self) -> Workload:
        """As the reconciler makes it."""
        fallback = self.target.model_copy(update={"revision": 1, "version": uuid(99, "e"), "tag": "v1"})
        return Workload(
            id=uuid(self.number),
            tenant=uuid(self.number, "a"),
            generation=3,
            target=self.target,
            fallback=fallback if self.former else None,
        )

    @property
    def urls(self) -> dict[int, Urls]:
        """What pods fetch, by revision."""
        address = f"http://{self.settings.store.host}:{self.settings.store.port}/kubeserve"
        model = Download(f"{address}/{self.target.key}?X-Amz-Signature={SIGNED}", "ab" * 32, 17 * MIB)
        archive = Download(f"{address}/environments/e.tar.gz?X-Amz-Signature={SIGNED}", "cd" * 32, 300 * MIB)
        urls = Urls(model, archive if self.own else None)
        return {self.target.revision: urls, **({1: urls} if self.former else {})}

    @property
    def of_user(self) -> list[Manifest]:
        """What its user has."""
        return user_namespace(self.workload.tenant, self.quota, self.settings)

    @property
    def of_deployment(self) -> list[Manifest]:
        """What the deployment has."""
        return deployment(self.workload, self.settings, redis_password=LOGIN, urls=self.urls)

    @property
    def all(self) -> list[Manifest]:
        """All of it, as it is applied."""
        return [*self.of_user, *self.of_deployment]


CASES: Final = {
    "default": Case(1),
    "always-one": Case(2, {"minimum": 1}),
    "own-environment": Case(3, {"idle": 1.5}, own=True),
    "new-revision": Case(4, former=True),
    "one-pod": Case(5, {"minimum": 1, "maximum": 1, "concurrency": 1, "memory": 64 * MIB}),
    "whole-quota": Case(6, {"memory": 4096 * MIB, "timeout": 3600.0, "idle": 2_592_000.0}),
    "elsewhere": Case(7, {"minimum": 2}, settings=ELSEWHERE, own=True),
    "gvisor": Case(8, settings=replace(SETTINGS, runtime_class="gvisor", user_namespaces=True)),
    "large-quota": Case(9, {"maximum": 20, "concurrency": 1024}, quota=Quota(20, 64 * 1024 * MIB)),
    "odd-names": Case(10, {"tag": ODD, "key": "models/a/b/c/m o\u202e'd\"el {x}.pkl", "format": "pickle"}),
}
