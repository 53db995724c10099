"""What is tried on a cluster, in this order."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from glm4v.client import AsyncClient, user_message
from glm4v.errors import Glm4vError
from tests.cluster.release import NAME, Release
from tests.e2e.asking import draw

Check = Callable[[Release], Awaitable[str]]
TOKENS = 200
AT_ONCE = 8
IMAGES = 32
ANSWER_S = 600.0
GONE_S = 300.0


class Failed(Exception):
    """What was seen instead; `is_for_want` where the cluster lacks what the check needs."""

    def __init__(self, what: str, *, is_for_want: bool = False) -> None:
        super().__init__(what)
        self.is_for_want = is_for_want


async def install(release: Release) -> str:
    """Install, and wait until every pod is ready."""
    began = time.monotonic()
    await release.install()
    return f"ready after {time.monotonic() - began:.0f} s"


async def ask(release: Release) -> str:
    """One question, one about an image."""
    async with release.forwarded() as target, _client(target) as client:
        began = time.monotonic()
        await _answer(client, "Hello", None, 8)
        await _answer(client, "What is this?", draw("cluster"), 8)
        return f"two answers in {time.monotonic() - began:.1f} s"


def kill(component: str) -> Check:
    """Delete a pod at once while answers run."""

    async def check(release: Release) -> str:
        async def disturb() -> None:
            pods = await release.pods(component)
            if not pods:
                raise Failed(f"the release has no pod of {component}", is_for_want=True)
            pod = pods[0]["metadata"]["name"]
            await release.kubectl("delete", "pod", pod, "--grace-period=0", "--force")

        return await _disturbed(release, disturb)

    return check


def roll(component: str) -> Check:
    """Restart a tier while answers run."""

    async def check(release: Release) -> str:
        workloads = await release.workloads(component)
        if not workloads:
            raise Failed(f"the release has no {component}", is_for_want=True)

        async def disturb() -> None:
            for workload in workloads:
                await release.restart(workload)

        return f"{', '.join(workloads)}: {await _disturbed(release, disturb)}"

    return check


async def scale(release: Release) -> str:
    """Vision workers 0 → 4 → 0 by KEDA."""
    if not await release.has_kind("scaledobjects.keda.sh"):
        raise Failed("KEDA is not installed", is_for_want=True)
    async with release.forwarded() as target, _client(target) as client:
        fingerprint = (await client.get_model()).fingerprint
        await release.install(
            f"--set=model.fingerprint={fingerprint}",
            "--set=vision.autoscaling.mode=keda,vision.autoscaling.minReplicas=0",
            "--set=vision.autoscaling.maxReplicas=4,vision.autoscaling.cooldownSeconds=30",
            "--set=vision.autoscaling.scaleDownStabilizationSeconds=15",
        )
        await _until_pods(release, lambda count: count == 0)
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(await release.pods("vision")))
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        images = [draw(f"cluster-{time.time()}-{number}") for number in range(IMAGES)]
        asking = (_answer(client, "What is this?", image, 4) for image in images)
        try:
            await asyncio.gather(*asking)
        finally:
            watching.cancel()
        await _until_pods(release, lambda count: count == 0)
        if most < 2:
            raise Failed(f"{IMAGES} images were answered, but there was {most} worker at most")
        return f"{IMAGES} images answered, {most} workers at most, 0 before and after"


async def uninstall(release: Release) -> str:
    """Remove the release; only the volume of Redis is left."""
    await release.helm("uninstall", NAME, "--wait", "--timeout=10m")
    selector = f"--selector=app.kubernetes.io/instance={NAME}"
    await release.kubectl("delete", "pvc", selector, "--wait")
    kinds = "all,configmap,secret,serviceaccount,pdb,networkpolicy,ingress,hpa,pvc"
    left = await release.kubectl("get", kinds, selector, "--output=name")
    if left.strip():
        raise Failed(f"left: {', '.join(left.split())}")
    return "nothing left"


CHECKS: dict[str, Check] = {
    "install": install,
    "ask": ask,
    **{f"kill {each}": kill(each) for each in ("gateway", "language", "vision", "redis")},
    **{f"roll {each}": roll(each) for each in ("gateway", "language", "vision", "redis")},
    "scale vision": scale,
    "uninstall": uninstall,
}


def _client(target: str) -> AsyncClient:
    return AsyncClient(target, timeout_s=ANSWER_S, retry_timeout_s=120)


async def _answer(client: AsyncClient, text: str, image: bytes | None, tokens: int) -> str:
    messages = [user_message(text, image)]
    try:
        async with client.generate(
            messages, temperature=0, max_tokens=tokens, ignore_eos=True
        ) as answer:
            found = await answer.text()
    except Glm4vError as error:
        raise Failed(f"an answer failed: {error}") from None
    if len(answer.token_ids) != tokens:
        raise Failed(f"{len(answer.token_ids)} of {tokens} tokens")
    return found


async def _disturbed(release: Release, disturb: Callable[[], Awaitable[None]]) -> str:
    """Answers that run meanwhile are those of an undisturbed system."""
    async with release.forwarded() as target, _client(target) as client:
        undisturbed = await _answer(client, "Count", None, TOKENS)
        asking = [
            asyncio.create_task(_answer(client, "Count", None, TOKENS)) for _ in range(AT_ONCE)
        ]
        asking.append(
            asyncio.create_task(_answer(client, "What is this?", draw(str(time.time())), 8))
        )
        began = time.monotonic()
        await asyncio.sleep(0.5)
        await disturb()
        answers = await asyncio.gather(*asking)
        if set(answers[:AT_ONCE]) != {undisturbed}:
            raise Failed("an answer differs from that of an undisturbed system")
        return f"{len(answers)} answers complete and equal, {time.monotonic() - began:.0f} s"


async def _until_pods(release: Release, is_so: Callable[[int], bool]) -> None:
    deadline = time.monotonic() + GONE_S
    while not is_so(count := len(await release.pods("vision"))):
        if time.monotonic() > deadline:
            raise Failed(f"{count} vision workers after {GONE_S:g} s")
        await asyncio.sleep(2)
