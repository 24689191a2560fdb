"""The rights of the platform's account on a cluster are those that its place uses, no more and no less."""

from pathlib import Path

import yaml
from lightkube.core.resource import api_info

from kubeserve.places.cluster.kinds import DEPLOYMENTS, KINDS, PODS

ROLE = Path(__file__).parents[3] / "kustomize/kubeserve/role.yaml"
FOLLOWED = {"Deployment", "Pod", "Namespace"}  # by a mirror


def test_every_kind_that_is_made_may_be_made_and_no_other() -> None:
    role, _ = yaml.safe_load_all(ROLE.read_text())
    given = {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    used = {("", "pods/log"): {"get"}}
    for kind, resource in KINDS.items():
        info = api_info(resource)
        verbs = {"create", "patch"} if kind not in PODS else {"list"}
        verbs |= {"list", "delete"} if kind in {*DEPLOYMENTS, "Namespace"} else set()
        verbs |= {"list", "watch"} if kind in FOLLOWED else set()
        used[info.resource.group, info.plural] = verbs
    assert given == used
