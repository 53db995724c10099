"""A policy scanner finds nothing in the chart that is not explained here."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.helm import NEWEST_HELM, SCENARIOS, Manifest, render, rendered_text
from tools.kubernetes import CHECKOV_PROGRAM

pytestmark = [pytest.mark.needs_helm, pytest.mark.needs_checkov]

EVERYWHERE = {
    "CKV_K8S_11": "no CPU limits: they throttle decoding; requests and memory limits are set",
    "CKV_K8S_15": "pullPolicy IfNotPresent: tags are versions, and image.pullPolicy is a value",
    "CKV_K8S_43": "digests are a value; the chart cannot know those of images that others build",
    "CKV_K8S_35": "the password of Redis is a variable, from a Secret, because KEDA and processes "
    "take it so; keys and certificates are files",
}
SOMEWHERE = {
    ("CKV_K8S_8", "Pod.vision.prod-glm4v-ask"): "`helm test` asks one question and ends",
    ("CKV_K8S_9", "Pod.vision.prod-glm4v-ask"): "the same",
    ("CKV2_K8S_6", "Pod.vision.prod-glm4v-ask"): "the same; it listens on nothing",
    ("CKV_K8S_8", "Pod.vision.workertemplate"): "ranks above 0 end with their group, and take no "
    "requests",
    ("CKV_K8S_9", "Pod.vision.workertemplate"): "the same",
}
TIMEOUT_S = 110.0


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Check and object of every finding, over all scenarios."""
    folder = tmp_path_factory.mktemp("manifests")
    for scenario in SCENARIOS:
        manifests = [each for one in render(scenario) for each in (one, *group_pods(one))]
        (folder / f"{scenario}.yaml").write_text(yaml.safe_dump_all(manifests))
    return scan(folder)


def group_pods(manifest: Manifest) -> list[Manifest]:
    """The pods of a LeaderWorkerSet, which the scanner does not look into."""
    if manifest["kind"] != "LeaderWorkerSet":
        return []
    group = manifest["spec"]["leaderWorkerTemplate"]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": group[role]["metadata"]
            | {"name": role.lower(), "namespace": manifest["metadata"]["namespace"]},
            "spec": group[role]["spec"],
        }
        for role in ("leaderTemplate", "workerTemplate")
    ]


def scan(folder: Path) -> set[tuple[str, str]]:
    # Without --skip-download it asks its maker's server for texts about findings.
    options = ["--framework", "kubernetes", "--compact", "--skip-download", "-o", "json"]
    done = subprocess.run(
        [CHECKOV_PROGRAM, "-d", folder, *options],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=folder,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 100, done.stderr
    return {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}


@pytest.mark.timeout(180)
def test_every_finding_is_explained(findings: set[tuple[str, str]]) -> None:
    unexplained = {
        (check, where)
        for check, where in findings
        if check not in EVERYWHERE and (check, where) not in SOMEWHERE
    }
    assert not unexplained
    assert set(EVERYWHERE) <= {check for check, _ in findings}  # nothing is explained in vain


def test_the_scanner_finds_a_privileged_container(tmp_path: Path) -> None:
    good = rendered_text(NEWEST_HELM, "default", ())
    assert "privileged: false" in good
    (tmp_path / "bad.yaml").write_text(good.replace("privileged: false", "privileged: true"))
    assert "CKV_K8S_16" in {check for check, _ in scan(tmp_path)}
