"""Renders the chart with real Helms."""

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools.kubernetes import HELM, program

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "glm4v"
SCENARIOS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())
HELMS = list(HELM)
OLDEST_HELM, NEWEST_HELM = HELMS
KUBERNETES = "1.37.0"
RELEASE, NAMESPACE = "prod", "vision"
TIMEOUT_S = 60.0

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm did not render; the message is what a user sees."""


def helm(version: str, *arguments: str) -> str:
    """Run Helm; its standard output. Raises Refused."""
    done = subprocess.run(
        [program("helm", version), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise Refused(done.stderr.strip())
    return done.stdout


def scenario_file(name: str) -> Path:
    """The values of a scenario."""
    return CHART / "ci" / f"{name}-values.yaml"


@cache
def rendered_text(
    version: str, scenario: str, arguments: tuple[str, ...], kubernetes: str = KUBERNETES
) -> str:
    """What `helm template` prints."""
    return helm(
        version, "template", RELEASE, str(CHART), "--namespace", NAMESPACE,
        "--kube-version", kubernetes, "--values", str(scenario_file(scenario)), *arguments,
    )  # fmt: skip


def render(
    scenario: str = "default",
    *arguments: str,
    version: str = NEWEST_HELM,
    kubernetes: str = KUBERNETES,
) -> list[Manifest]:
    """The objects of a scenario."""
    text = rendered_text(version, scenario, arguments, kubernetes)
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def one(manifests: Sequence[Manifest], kind: str, component: str) -> Manifest:
    """The only object of a kind and a component."""
    [found] = [
        each
        for each in manifests
        if each["kind"] == kind and each["metadata"]["name"].endswith(f"-{component}")
    ]
    return found


def pod_specs(manifest: Manifest) -> list[Manifest]:
    """The specifications of the pods that an object makes."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Pod":
        return [spec]
    if manifest["kind"] == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        return [group["leaderTemplate"]["spec"], group["workerTemplate"]["spec"]]
    return [spec["template"]["spec"]] if "template" in spec else []


def environment(container: Manifest) -> dict[str, Any]:
    """Its variables: text, or where the value comes from."""
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}
