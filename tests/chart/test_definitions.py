"""Objects of KEDA, LeaderWorkerSet, Gateway API and the Prometheus operator, held strictly."""

import copy
import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.definitions import WRITTEN, Schema, defined
from tests.chart.helm import CHART, ROOT, SCENARIOS, Manifest, one, render

pytestmark = [pytest.mark.needs_helm, pytest.mark.needs_crds]

KUBERNETES_OWN = re.compile(
    r"^(v1|apps/v1|batch/v1|policy/v1|autoscaling/v2|networking\.k8s\.io/v1)$"
)
FROM_DEFINITIONS = {
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
}


def foreign() -> list[Manifest]:
    return [
        manifest
        for scenario in SCENARIOS
        for manifest in render(scenario)
        if not KUBERNETES_OWN.match(manifest["apiVersion"])
    ]


def schema_of(manifest: Manifest) -> Schema:
    """Raises KeyError for a kind that nobody holds."""
    name = (manifest["apiVersion"], manifest["kind"])
    return defined(manifest["kind"]) if name in FROM_DEFINITIONS else WRITTEN[name]


def judge(manifest: Manifest) -> None:
    jsonschema.Draft7Validator(schema_of(manifest)).validate(manifest["spec"])


def test_every_object_is_held_and_every_kind_is_there() -> None:
    found = foreign()
    for manifest in found:
        judge(manifest)
    kinds = {(manifest["apiVersion"], manifest["kind"]) for manifest in found}
    assert kinds == FROM_DEFINITIONS | WRITTEN.keys()


@pytest.mark.parametrize("kind", ["ScaledObject", "LeaderWorkerSet"])
def test_the_judge_refuses_what_is_wrong(kind: str) -> None:
    manifest = copy.deepcopy(next(each for each in foreign() if each["kind"] == kind))
    judge(manifest)
    for change in ({"minReplicasCount": 1}, {"replicas": "two", "minReplicaCount": "two"}):
        wrong = {**manifest, "spec": manifest["spec"] | change}
        with pytest.raises(jsonschema.ValidationError):
            judge(wrong)


def test_a_scaled_object_may_go_to_zero_and_names_its_secret() -> None:
    manifests = render("autoscale")
    spec = one(manifests, "ScaledObject", "vision")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 4)
    [reference] = one(manifests, "TriggerAuthentication", "vision")["spec"]["secretTargetRef"]
    assert reference == {"parameter": "password", "name": "glm4v-redis", "key": "password"}


def test_a_group_of_hosts_says_where_its_ranks_meet() -> None:
    spec = one(render("multi-node-tp8"), "LeaderWorkerSet", "language")["spec"]
    group = spec["leaderWorkerTemplate"]
    assert (spec["replicas"], group["size"]) == (2, 2)
    assert group["restartPolicy"] == "RecreateGroupAfterStart"
    for role in ("leaderTemplate", "workerTemplate"):
        [container] = group[role]["spec"]["containers"]
        variables = {each["name"]: each for each in container["env"]}
        assert variables["GLM4V_TENSOR_PARALLEL"]["value"] == "8"
        assert variables["NNODES"]["value"] == "2"
        assert variables["MASTER_ADDR"]["value"] == "$(LWS_LEADER_ADDRESS)"
        # Only rank 0 has a health listener.
        assert ("livenessProbe" in container) == (role == "leaderTemplate")


def metric_names() -> set[str]:
    """The names that processes register."""
    sources = [
        path.read_text(encoding="utf-8")
        for folder in ("gateway", "vision_worker", "lm_worker", "glm4v")
        for path in (ROOT / folder).rglob("*.py")
    ]
    return set(re.findall(r'"((?:glm4v|gen_ai)_[a-z0-9_]+)"', "".join(sources)))


def used(text: str) -> set[str]:
    """The metrics in expressions; those of a histogram without the suffix."""
    names = re.findall(r"\b(?:glm4v|gen_ai)_[a-z0-9_]+\b", text)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_dashboard_and_alerts_use_metrics_that_exist() -> None:
    dashboard: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_bytes())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text(encoding="utf-8"))
    queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    names = set().union(*map(used, queries))
    assert len(names) > 10
    assert names <= metric_names(), names - metric_names()
    assert dashboard["schemaVersion"] == 42
