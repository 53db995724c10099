"""What `make test-cluster` finds and restarts, by the real kubectl, in objects of the chart."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.chart.api_server import ApiServer, serving
from tests.chart.helm import Manifest, render
from tests.cluster import release as module
from tests.cluster.checks import CHECKS, Failed
from tests.cluster.release import NAME, Release

pytestmark = [pytest.mark.needs_helm, pytest.mark.timeout(60)]

GROUPS = {
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "leaderworkersets.leaderworkerset.x-k8s.io"},
}


def objects(scenario: str, release: Release) -> list[Manifest]:
    """As the chart makes them under the name of the checks, in their namespace."""
    text = json.dumps(render(scenario, "--set=fullnameOverride=glm4v"))
    found: list[Manifest] = json.loads(text)
    for each in found:
        each["metadata"]["namespace"] = release.namespace
        if "app.kubernetes.io/instance" in (labels := each["metadata"]["labels"]):
            labels["app.kubernetes.io/instance"] = NAME
    return found


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps what it discovered there
    monkeypatch.setattr(module, "_LOOK_S", 0.1)
    return Release([], "")


def use(url: str, folder: Path) -> None:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    (folder / "config").write_text(json.dumps(config))


async def restarted(api: ApiServer, release: Release, workload: str) -> list[tuple[str, Manifest]]:
    """Changes that a restart asks for; it waits until they are carried out."""
    restarting = asyncio.create_task(release.restart(workload))
    while not api.patches:
        await asyncio.sleep(0.05)
        assert not restarting.done(), restarting.result()
    await asyncio.sleep(0.5)
    assert not restarting.done()  # nothing has been carried out
    while not restarting.done():
        api.settle()
        await asyncio.sleep(0.1)
    restarting.result()
    return api.patches


async def test_a_group_over_hosts_is_restarted_as_a_whole(release: Release, tmp_path: Path) -> None:
    api = ApiServer([*objects("multi-node-tp8", release), GROUPS])
    with serving(api) as url:
        use(url, tmp_path)
        assert await release.workloads("language") == [f"leaderworkerset/{NAME}-language"]
        [(path, change)] = await restarted(api, release, f"leaderworkerset/{NAME}-language")
    assert path.endswith(f"/leaderworkersets/{NAME}-language")
    templates = change["spec"]["leaderWorkerTemplate"]
    assert templates.keys() == {"leaderTemplate", "workerTemplate"}
    for each in templates.values():
        assert list(each["metadata"]["annotations"]) == ["kubectl.kubernetes.io/restartedAt"]


@pytest.mark.parametrize(
    ("component", "workload"),
    [("language", f"deployment/{NAME}-language"), ("redis", f"statefulset/{NAME}-redis")],
)
async def test_others_are_restarted_by_kubectl(
    component: str, workload: str, release: Release, tmp_path: Path
) -> None:
    """On a cluster without LeaderWorkerSets."""
    api = ApiServer(objects("default", release))
    with serving(api) as url:
        use(url, tmp_path)
        assert await release.workloads(component) == [workload]
        [(path, change)] = await restarted(api, release, workload)
    assert path.endswith(workload.replace("/", "s/"))
    assert "kubectl.kubernetes.io/restartedAt" in json.dumps(change["spec"]["template"])


async def test_a_tier_that_the_release_lacks_is_skipped(release: Release, tmp_path: Path) -> None:
    with serving(ApiServer(objects("external-redis", release))) as url:
        use(url, tmp_path)
        with pytest.raises(Failed, match="has no redis") as lacking:
            await CHECKS["roll redis"](release)
    assert lacking.value.is_for_want
