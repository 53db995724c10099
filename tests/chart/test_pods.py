"""The chart's own pods run as processes: asked, killed, rolled, drained and scaled."""

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny
from glm4v.client import AsyncClient, user_message
from tests.chart.cluster import Keda, Workload, service, until
from tests.chart.helm import Manifest, one, render
from tests.chart.pods import ForkServer, Node, new_address, programs
from tests.e2e.asking import draw

pytestmark = [
    pytest.mark.needs_helm,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

IMAGES = 120  # four workers are still wanted when the first one has encoded for a while
PASSWORD = "p@ss/w#rd 1"
SERVERS = ("redis", "embeddings")
SERVICES = {name: new_address() for name in ("gateway", *SERVERS)}
TOKENS = 100  # of answers that are to be interrupted


class Release:
    """The objects of the scenario `autoscale`, running."""

    def __init__(self, objects: list[Manifest], node: Node) -> None:
        self.objects = objects
        kinds = {"redis": "StatefulSet", "embeddings": "StatefulSet"}
        self.workloads = {
            name: Workload(node, one(objects, kinds.get(name, "Deployment"), name))
            for name in (*SERVERS, "gateway", "vision", "language")
        }

    def __getitem__(self, name: str) -> Workload:
        return self.workloads[name]

    async def start(self) -> None:
        """All but vision workers, which only KEDA starts."""
        for name, replicas in (("redis", 1), ("embeddings", 1), ("gateway", 2), ("language", 1)):
            await self[name].scale(replicas)
        for name in ("redis", "embeddings", "gateway", "language"):
            workload = self[name]
            await until(lambda of=workload: len(of.ready) == len(of.pods))  # type: ignore[misc]

    async def stop(self) -> None:
        """Uninstall."""
        for name in ("gateway", "vision", "language", *SERVERS):
            await self[name].scale(0)

    def keda(self, redis: Redis) -> Keda:
        """What scales vision workers."""
        return Keda(one(self.objects, "ScaledObject", "vision"), self["vision"], redis)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    write_tiny(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def release(model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Release]:
    options = [
        f"--set=model.fingerprint={Checkpoint.open(model).fingerprint}",
        # Ten times as fast here: one second and half a second.
        "--set=vision.autoscaling.cooldownSeconds=10",
        "--set=vision.autoscaling.scaleDownStabilizationSeconds=5",
        "--set=redis.bundled.maxMemory=256mb,redis.bundled.embeddings.maxMemory=64mb",
        "--set=redis.bundled.appendFsync=no,language.drainTimeoutSeconds=10",
        "--set=gateway.preStopSeconds=1",
        *(
            f"--set-json={kind}.settings={_json(kind)}"
            for kind in ("gateway", "vision", "language")
        ),
    ]
    objects = render("autoscale", *options)
    folder = tmp_path_factory.mktemp("node")
    async with ForkServer() as fork, AsyncExitStack() as stack:
        node = Node(
            fork,
            folder,
            names={f"prod-glm4v-{name}": address for name, address in SERVICES.items()},
            objects=objects,
            secrets={"glm4v-redis": {"password": PASSWORD}},
            files={"/opt/glm4v/demo-model": model},
            path=programs(folder / "bin"),
        )
        release = Release(objects, node)
        for name, address in SERVICES.items():
            manifest = one(objects, "Service", name)
            await stack.enter_async_context(service(manifest, address, release[name]))
        await release.start()
        yield release
        await release.stop()


def _json(kind: str) -> str:
    lease = '"GLM4V_LEASE_S": 1'
    if kind == "gateway":
        return f"{{{lease}}}"
    cache = ', "GLM4V_KV_CACHE_BYTES": 16777216' if kind == "language" else ""
    return f'{{{lease}, "GLM4V_THREADS": 1, "GLM4V_DTYPE": "float32"{cache}}}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(release: Release) -> AsyncIterator[Redis]:
    client = Redis(host=SERVICES["redis"], password=PASSWORD, protocol=2)
    yield client
    await client.aclose()


@asynccontextmanager
async def scaling(release: Release, redis: Redis) -> AsyncIterator[Keda]:
    """KEDA runs inside."""
    keda = release.keda(redis)
    task = asyncio.create_task(keda.run())
    try:
        yield keda
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            task.result()


async def ask(client: AsyncClient, text: str, image: bytes | None = None, tokens: int = 4) -> str:
    """The text of an answer that has as many tokens as it should."""
    messages = [user_message(text, image)]
    async with client.generate(
        messages, temperature=0, max_tokens=tokens, ignore_eos=True
    ) as answer:
        found = await answer.text()
    assert len(answer.token_ids) == tokens
    return found


def client() -> AsyncClient:
    return AsyncClient(f"{SERVICES['gateway']}:8330", retry_timeout_s=30)


async def test_vision_scales_from_none_to_four_and_back_without_losing_an_image(
    release: Release, redis: Redis
) -> None:
    vision = release["vision"]
    async with client() as asker:
        # Text needs no vision worker.
        await ask(asker, "Hello")
        assert vision.most == 0
        images = [draw(f"scale-{number}") for number in range(IMAGES)]
        first = asyncio.create_task(ask(asker, "What is this?", images[0]))
        await _until_queued(release, redis, 1)  # accepted, and nobody there to encode it
        rest = [asyncio.create_task(ask(asker, "What is this?", image)) for image in images[1:]]
        await _until_queued(release, redis, len(images))
        async with scaling(release, redis):
            answers = await asyncio.wait_for(asyncio.gather(first, *rest), 120)
            assert len(answers) == len(images)
            await until(lambda: not vision.pods)
    assert vision.most == 4
    assert await _queued(release, redis) == 0
    logs = "".join(pod.log for pod in vision.ended)
    for image in images:  # none was encoded twice, none was lost
        assert logs.count(f"image={hashlib.sha256(image).hexdigest()} encoded") == 1
    assert {code for pod in vision.ended for code in pod.exits} == {0}
    assert not any(pod.was_killed for pod in vision.ended)


async def test_answers_go_on_while_pods_are_killed_and_rolled(
    release: Release, redis: Redis
) -> None:
    await release["vision"].scale(1)
    before = {id(pod) for workload in release.workloads.values() for pod in workload.ended}
    async with client() as asker:
        undisturbed = await ask(asker, "Count", tokens=TOKENS)
        image = draw("rolled")
        await until(lambda: bool(release["vision"].ready))
        pictured = await ask(asker, "What is this?", image, TOKENS)

        async def under(disturb: Callable[[], object], texts: int = 4) -> None:
            asking = [asyncio.create_task(ask(asker, "Count", tokens=TOKENS)) for _ in range(texts)]
            asking.append(asyncio.create_task(ask(asker, "What is this?", image, TOKENS)))
            await asyncio.sleep(0.1)
            done = disturb()
            if asyncio.iscoroutine(done):
                await done
            *answers, about_image = await asyncio.wait_for(asyncio.gather(*asking), 120)
            assert set(answers) == {undisturbed}
            assert about_image == pictured

        await under(lambda: release["language"].pods[0].signal(signal.SIGKILL))
        await until(lambda: bool(release["language"].ready))
        await under(lambda: release["gateway"].pods[0].signal(signal.SIGKILL))
        await until(lambda: len(release["gateway"].ready) == 2)
        for name in ("gateway", "language", "vision"):
            await under(release[name].roll)
        await under(lambda: release["redis"].pods[0].signal(signal.SIGKILL))  # it reads its file
    ended = [
        pod
        for workload in release.workloads.values()
        for pod in workload.ended
        if id(pod) not in before
    ]
    assert len(ended) == 4  # the former pods of three rolls
    assert all(pod.exits[-1] == 0 and not pod.was_killed for pod in ended)


async def _until_queued(release: Release, redis: Redis, count: int) -> None:
    for _ in range(400):
        if await _queued(release, redis) >= count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{await _queued(release, redis)} of {count} images in the queue")


async def _queued(release: Release, redis: Redis) -> int:
    [trigger] = one(release.objects, "ScaledObject", "vision")["spec"]["triggers"]
    return int(await redis.xlen(trigger["metadata"]["stream"]))


async def test_the_address_of_the_scaled_object_is_the_service_of_redis() -> None:
    objects = render("autoscale")
    [trigger] = one(objects, "ScaledObject", "vision")["spec"]["triggers"]
    host, _, port = trigger["metadata"]["address"].partition(":")
    manifest = one(objects, "Service", "redis")
    assert host == f"{manifest['metadata']['name']}.{manifest['metadata']['namespace']}.svc"
    assert int(port) == manifest["spec"]["ports"][0]["port"]
