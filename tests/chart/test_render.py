"""Every scenario is rendered by both Helms, and is valid on every Kubernetes since 1.28."""

from functools import cache

import kubernetes_validate
import pytest
import yaml

from glm4v.process.environment import PROCESSES, variable_of
from tests.chart.helm import (
    CHART,
    HELMS,
    NEWEST_HELM,
    OLDEST_HELM,
    SCENARIOS,
    Manifest,
    Refused,
    environment,
    helm,
    one,
    pod_specs,
    render,
    rendered_text,
    scenario_file,
)

pytestmark = pytest.mark.needs_helm

LATEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])
VERSIONS = [f"1.{minor}" for minor in range(28, int(LATEST[2:]) + 1)]
# Definitions that a cluster may have; `test_definitions.py` judges these objects.
DEFINED_ELSEWHERE = {
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("keda.sh/v1alpha1", "TriggerAuthentication"),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
}
IMAGE_VOLUMES_SINCE = 31


def minor(version: str) -> int:
    return int(version.split(".")[1])


@cache
def manifests(kubernetes: str) -> list[Manifest]:
    """Each object of the scenarios that this version can have, once."""
    found: dict[str, Manifest] = {}
    for scenario in SCENARIOS:
        if scenario == "cuda" and minor(kubernetes) < IMAGE_VOLUMES_SINCE:
            continue
        for manifest in render(scenario, kubernetes=f"{kubernetes}.0"):
            found[yaml.safe_dump(manifest)] = manifest
    return list(found.values())


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lint_is_strict_and_finds_nothing(version: str, scenario: str) -> None:
    said = helm(version, "lint", "--strict", str(CHART), "--values", str(scenario_file(scenario)))
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_helms_render_the_same(scenario: str) -> None:
    """Which Helm it was stands in no object."""
    assert render(scenario, version=OLDEST_HELM) == render(scenario, version=NEWEST_HELM)


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_objects_are_valid_and_no_kind_is_unknown(kubernetes: str) -> None:
    judged = 0
    for manifest in manifests(kubernetes):
        if (manifest["apiVersion"], manifest["kind"]) not in DEFINED_ELSEWHERE:
            assert kubernetes_validate.validate(manifest, kubernetes, strict=True) == kubernetes
            judged += 1
    assert judged > 50


def test_the_judge_refuses_what_is_wrong() -> None:
    [good] = [each for each in manifests(VERSIONS[-1]) if each["kind"] == "PodDisruptionBudget"][:1]
    kubernetes_validate.validate(good, VERSIONS[-1], strict=True)
    misspelt = good | {"spec": good["spec"] | {"maxUnavailble": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, VERSIONS[-1], strict=True)
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(good | {"kind": "PodBudget"}, VERSIONS[-1], strict=True)


def test_image_volumes_are_refused_where_kubernetes_lacks_them() -> None:
    with pytest.raises(Refused, match=r"model.volume=image needs Kubernetes 1.31"):
        rendered_text(NEWEST_HELM, "cuda", (), "1.30.0")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_variable_is_a_setting_that_its_process_reads(scenario: str) -> None:
    """An unknown one would end the process at its start."""
    kinds = {"gateway": "gateway", "vision": "vision worker", "language": "language worker"}
    judged = 0
    for manifest in render(scenario):
        for container in (each for spec in pod_specs(manifest) for each in spec["containers"]):
            if container["name"] in kinds:
                fields = PROCESSES[kinds[container["name"]]].model_fields
                known = {variable_of(name) for name in fields}
                ours = {name for name in environment(container) if name.startswith("GLM4V_")}
                assert ours <= known, ours - known
                judged += 1
    assert judged >= 3


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_secret_is_made_and_no_password_is_an_argument(scenario: str) -> None:
    for manifest in render(scenario):
        assert manifest["kind"] != "Secret"
        for container in (each for spec in pod_specs(manifest) for each in spec["containers"]):
            for name, value in environment(container | {"env": container.get("env", [])}).items():
                if "PASSWORD" in name:
                    assert "secretKeyRef" in value
                    words = [*container.get("command", []), *container.get("args", [])]
                    assert not any(f"requirepass ${name}" in word for word in words)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_grace_period_covers_the_drain(scenario: str) -> None:
    for manifest in render(scenario):
        for spec in pod_specs(manifest):
            for container in spec["containers"]:
                if "GLM4V_DRAIN_TIMEOUT_S" not in str(container):
                    continue
                drain_s = float(environment(container)["GLM4V_DRAIN_TIMEOUT_S"])
                hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {})
                pause_s = float(hook["command"][1]) if hook else 0
                assert spec["terminationGracePeriodSeconds"] >= pause_s + drain_s + 5


def test_gateways_may_reach_the_collector_of_traces_and_workers_need_not() -> None:
    objects = render("keys")
    [spec] = pod_specs(one(objects, "Deployment", "gateway"))
    variables = environment(spec["containers"][0])
    assert variables["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.monitoring:4318"
    for component in ("gateway", "vision", "language"):
        rules = one(objects, "NetworkPolicy", component)["spec"]["egress"]
        assert ({"ports": [{"port": 4318}]} in rules) is (component == "gateway")
    with pytest.raises(Refused, match="endpoint"):
        render("default", "--set=monitoring.traces.endpoint=collector:4318")
