"""Where Helm and Kubernetes do not do what one would guess; each was seen on the versions here."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import (
    CHART,
    HELMS,
    KUBERNETES,
    NAMESPACE,
    RELEASE,
    SCENARIOS,
    Manifest,
    Refused,
    environment,
    helm,
    one,
    pod_specs,
    render,
)

pytestmark = pytest.mark.needs_helm

BOOLEANS = {"y", "n", "yes", "no", "on", "off", "true", "false"}  # as keys, in YAML 1.1


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return loaded


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_bytes())
    return loaded


def nodes(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every value, and where it is."""
    found = [(path, value)]
    if isinstance(value, dict):
        for key, below in value.items():
            found += nodes(below, f"{path}.{key}")
    elif isinstance(value, list):
        for below in value:
            found += nodes(below, path)
    return found


def container(manifests: list[Manifest], kind: str, component: str) -> Manifest:
    found: list[Manifest] = pod_specs(one(manifests, kind, component))[0]["containers"]
    return found[0]


@pytest.mark.parametrize("version", HELMS)
def test_large_numbers_stay_whole(version: str) -> None:
    """Helm reads numbers as floats: `quote` of 20971520 is "2.097152e+07"."""
    settings = (
        "--set-json=gateway.settings={"
        '"GLM4V_MAX_IMAGE_BYTES": 20971520, "GLM4V_MAX_OPEN_REQUESTS": 1000000}',
        "--set-json=language.settings="
        '{"GLM4V_KV_CACHE_BYTES": 21474836480, "GLM4V_PREFILL_SLOWDOWN": 1.25, '
        '"GLM4V_PREFIX_CACHE": false, "GLM4V_DTYPE": "float32"}',
    )
    manifests = render("default", *settings, version=version)
    gateway = environment(container(manifests, "Deployment", "gateway"))
    assert gateway["GLM4V_MAX_IMAGE_BYTES"] == "20971520"
    assert gateway["GLM4V_MAX_OPEN_REQUESTS"] == "1000000"
    language = environment(container(manifests, "Deployment", "language"))
    assert language["GLM4V_KV_CACHE_BYTES"] == "21474836480"
    assert language["GLM4V_PREFILL_SLOWDOWN"] == "1.25"
    assert language["GLM4V_PREFIX_CACHE"] == "false"
    duo = render("300i-duo-tp4", version=version)  # from a file, not from an option
    assert environment(container(duo, "Deployment", "language"))["GLM4V_KV_CACHE_BYTES"] == (
        "21474836480"
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_variable_looks_like_a_float_of_helm(scenario: str) -> None:
    for manifest in render(scenario):
        for spec in pod_specs(manifest):
            for each in spec["containers"]:
                for name, value in environment(each | {"env": each.get("env", [])}).items():
                    assert isinstance(value, str | dict), (name, value)
                    assert "e+" not in str(value), (name, value)


def test_no_default_is_null() -> None:
    """Helm 4.3 drops null keys of a chart's own values: a schema that requires them refuses it."""
    assert [path for path, value in nodes(values()) if value is None] == []
    assert [path for path, node in nodes(schema()) if node == "null"] == []


def test_no_key_is_a_boolean_of_yaml() -> None:
    for file in [CHART / "values.yaml", *(CHART / "ci").iterdir()]:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        keys = [key for _, node in nodes(loaded) if isinstance(node, dict) for key in node]
        assert all(isinstance(key, str) for key in keys), file
    names = [key for _, node in nodes(schema()) for key in _properties(node)]
    assert not BOOLEANS & {name.lower() for name in names}


def _properties(node: Any) -> list[str]:
    properties = node.get("properties", {}) if isinstance(node, dict) else {}
    return list(properties) if isinstance(properties, dict) else []


def test_the_schema_says_which_draft_it_is_and_uses_no_newer_word() -> None:
    """Helm 3 knows draft 7 alone, Helm 4 takes the newest where none is named."""
    assert schema()["$schema"] == "http://json-schema.org/draft-07/schema#"
    newer = {
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
        "prefixItems",
        "$ref",
    }
    for path, node in nodes(schema()):
        if isinstance(node, dict) and not path.endswith(".properties"):
            assert not newer & node.keys(), path


def test_every_object_of_the_schema_is_closed_or_kubernetes_own() -> None:
    free = {
        path.rpartition(".")[2]
        for path, node in nodes(schema())
        if isinstance(node, dict)
        and node.get("type") == "object"
        and node.get("additionalProperties", True) is True
    }
    # resources, affinity, securityContext, and lists of env, tolerations, volumes …
    assert free == {"global", "resources", "affinity", "podSecurityContext", "items"}


@pytest.mark.parametrize("version", HELMS)
def test_the_chart_can_be_a_part_of_another(version: str, tmp_path: Path) -> None:
    """A parent passes `global`, and `enabled` where it has a condition on it is its own."""
    parent = tmp_path / "parent"
    shutil.copytree(CHART, parent / "charts" / "glm4v")
    (parent / "Chart.yaml").write_text(
        "{apiVersion: v2, name: parent, version: 1.0.0, "
        "dependencies: [{name: glm4v, version: '*', condition: serving.enabled}]}"
    )
    (parent / "values.yaml").write_text("{global: {team: a}, serving: {enabled: true}}")
    text = helm(version, "template", "r", str(parent), "--kube-version", KUBERNETES)
    assert "kind: StatefulSet" in text


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--set=gateway.replicaCount=3", "replicaCount"),
        ("--set=vision.autoscaling.minReplica=1", "minReplica"),
        ("--set=vision.autoscaling.minReplicas=two", "minReplicas"),
        ("--set=language.settings.GLM4V_MAX_SEQUENCES=3", "GLM4V_MAX_SEQUENCES"),
        ("--set-string=language.settings.GLM4V_MAX_NUM_SEQS=3", "GLM4V_MAX_NUM_SEQS"),
        ("--set=language.settings.GLM4V_TENSOR_PARALLEL=3", "GLM4V_TENSOR_PARALLEL"),
        ("--set=redis.mode=internal", "mode"),
        ("--set=model.fingerprint=xyz", "fingerprint"),
        ("--set=redis.external.addresses={redis}", "addresses"),
        ("--set=redis.password=secret", "password"),
        ("--set=model.volume=hostPath", "model.volume=hostPath needs model.hostPath"),
        ("--set=model.hostPath=/m", "model.hostPath is set, but model.volume is included"),
        ("--set=vision.autoscaling.mode=keda", "needs model.fingerprint"),
        ("--set=language.tensorParallel=3,language.hosts=2", "multiple of language.hosts"),
        ("--set=redis.mode=external", "needs redis.external.addresses"),
        ("--set=vision.autoscaling.mode=hpa,vision.autoscaling.minReplicas=0", "scale to zero"),
        ("--set=gateway.tls.requireClientCertificate=true", "needs gateway.tls.existingSecret"),
    ],
)
def test_what_cannot_work_is_refused_and_named(version: str, option: str, message: str) -> None:
    with pytest.raises(Refused) as refused:
        helm(version, "template", RELEASE, str(CHART), "--namespace", NAMESPACE, option)
    assert message in str(refused.value)


@pytest.mark.parametrize("scenario", ["autoscale", "external-redis", "sentinel", "cluster"])
def test_vision_scales_on_the_whole_length_of_its_queue(scenario: str) -> None:
    """With a consumer group KEDA ignores streamLength, and its lag is nil while images wait."""
    [trigger] = one(render(scenario), "ScaledObject", "vision")["spec"]["triggers"]
    assert trigger["type"] == {
        "sentinel": "redis-sentinel-streams",
        "cluster": "redis-cluster-streams",
    }.get(scenario, "redis-streams")
    metadata = trigger["metadata"]
    assert not {"consumerGroup", "lagCount", "pendingEntriesCount"} & metadata.keys()
    assert metadata["stream"] == "{glm4v}:jobs:vision:0123456789abcdef0123456789abcdef"
    assert all(isinstance(value, str) for value in metadata.values())
    assert int(metadata["streamLength"]) > 0


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scaled_deployment_has_no_number_of_its_own(scenario: str) -> None:
    manifests = render(scenario)
    scaled = {
        (each["spec"]["scaleTargetRef"]["kind"], each["spec"]["scaleTargetRef"]["name"])
        for each in manifests
        if each["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")
    }
    for each in manifests:
        if each["kind"] == "Deployment":
            is_scaled = (each["kind"], each["metadata"]["name"]) in scaled
            assert ("replicas" in each["spec"]) != is_scaled


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_probes_name_ports_by_number_and_wait_for_weights(scenario: str) -> None:
    for manifest in render(scenario):
        for spec in pod_specs(manifest):
            for each in spec["containers"]:
                if "startupProbe" not in each or "grpc" not in each["startupProbe"]:
                    continue
                probe = each["startupProbe"]
                assert isinstance(probe["grpc"]["port"], int)
                longest = probe["periodSeconds"] * probe["failureThreshold"]
                assert longest >= (300 if each["name"] == "gateway" else 1800)


def test_threads_are_the_cores_that_a_worker_asks_for() -> None:
    """Without a limit of CPU a container sees all cores of its node."""
    for component in ("vision", "language"):
        worker = container(render("default"), "Deployment", component)
        assert "cpu" not in worker["resources"]["limits"]
        assert environment(worker)["GLM4V_THREADS"] == {
            "resourceFieldRef": {"resource": "requests.cpu"}
        }
    chosen = render("default", "--set=vision.settings.GLM4V_THREADS=3")
    names = [each["name"] for each in container(chosen, "Deployment", "vision")["env"]]
    assert names.count("GLM4V_THREADS") == 1


def test_devices_are_asked_for_by_their_resource() -> None:
    def devices(scenario: str, kind: str, component: str) -> list[Manifest]:
        specs = pod_specs(one(render(scenario), kind, component))
        return [spec["containers"][0]["resources"]["limits"] for spec in specs]

    assert devices("a2-tp2", "Deployment", "language")[0]["huawei.com/Ascend910"] == 2
    assert devices("a2-tp2", "Deployment", "vision")[0]["huawei.com/Ascend910"] == 1
    assert devices("300i-duo-tp4", "Deployment", "language")[0]["huawei.com/Ascend310P"] == 4
    assert devices("cuda", "Deployment", "language")[0]["nvidia.com/gpu"] == 1
    hosts = devices("multi-node-tp8", "LeaderWorkerSet", "language")
    assert [limits["huawei.com/ascend-1980"] for limits in hosts] == [4, 4]
    assert not any("/" in name for name in devices("default", "Deployment", "language")[0])
