"""A release of the chart on a real cluster, by helm and kubectl."""

import asyncio
import json
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tools.kubernetes import HELM, program

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "glm4v"
NAME = "glm4v"
COMMAND_S = 900.0
GROUPS = "leaderworkersets"
_LOOK_S = 2.0


class CommandFailed(Exception):
    """helm or kubectl ended with an error; its last lines."""


class Release:
    """The chart in a namespace of its own, with the values of the user."""

    def __init__(self, values: list[Path], context: str) -> None:
        self.namespace = f"glm4v-test-{uuid.uuid4().hex[:6]}"
        self._values = [f"--values={path}" for path in values]
        self._context = context

    async def helm(self, *arguments: str) -> str:
        """Run Helm."""
        context = [f"--kube-context={self._context}"] if self._context else []
        return await _run("helm", *context, f"--namespace={self.namespace}", *arguments)

    async def kubectl(self, *arguments: str) -> str:
        """Run kubectl."""
        context = [f"--context={self._context}"] if self._context else []
        return await _run("kubectl", *context, f"--namespace={self.namespace}", *arguments)

    async def install(self, *options: str) -> None:
        """Install or upgrade, and wait until all pods are ready."""
        await self.helm(
            "upgrade", "--install", "--create-namespace", "--wait", "--timeout=15m",
            *self._values, *options, NAME, str(CHART),
        )  # fmt: skip
        for workload in await self.workloads("language"):
            if workload.startswith("leaderworkerset/"):  # Helm does not wait for those
                await self.groups_ready(workload)

    async def pods(self, component: str) -> list[dict[str, Any]]:
        """The pods of a component that are not being deleted."""
        selector = f"--selector=app.kubernetes.io/component={component}"
        found = json.loads(await self.kubectl("get", "pods", selector, "--output=json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    async def workloads(self, component: str) -> list[str]:
        """What makes the pods of a component, each KIND/NAME as kubectl has it."""
        kinds = "deployments,statefulsets"
        if await self.has_kind(f"{GROUPS}.leaderworkerset.x-k8s.io"):
            kinds += f",{GROUPS}"
        selector = (
            f"--selector=app.kubernetes.io/instance={NAME},app.kubernetes.io/component={component}"
        )
        found = json.loads(await self.kubectl("get", kinds, selector, "--output=json"))["items"]
        # The controller of LeaderWorkerSets makes StatefulSets of its own, with the same labels.
        return [
            f"{each['kind'].lower()}/{each['metadata']['name']}"
            for each in found
            if not each["metadata"].get("ownerReferences")
        ]

    async def restart(self, workload: str) -> None:
        """Replace all pods of a workload, and wait until the new ones are ready."""
        if workload.startswith("leaderworkerset/"):  # `kubectl rollout` knows no others' kinds
            at = datetime.now(UTC).isoformat()
            template = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": at}}}
            templates = {"leaderTemplate": template, "workerTemplate": template}
            patch = {"spec": {"leaderWorkerTemplate": templates}}
            await self.kubectl("patch", workload, "--type=merge", f"--patch={json.dumps(patch)}")
            await self.groups_ready(workload)
        else:
            await self.kubectl("rollout", "restart", workload)
            await self.kubectl("rollout", "status", workload, "--timeout=15m")

    async def groups_ready(self, workload: str) -> None:
        """Wait until all groups of a LeaderWorkerSet are ready, and as it says now."""
        deadline = time.monotonic() + COMMAND_S
        while not _is_rolled(found := json.loads(await self.kubectl("get", workload, "-ojson"))):
            if time.monotonic() > deadline:
                status = json.dumps(found.get("status", {}))
                raise CommandFailed(f"{workload}: not ready after {COMMAND_S:g} s: {status}")
            await asyncio.sleep(_LOOK_S)

    async def has_kind(self, name: str) -> bool:
        """Whether the cluster has a definition, such as scaledobjects.keda.sh."""
        try:
            await self.kubectl("get", "customresourcedefinition", name)
        except CommandFailed:
            return False
        return True

    async def redis(self, *command: str) -> str:
        """Ask the bundled Redis."""
        return (await self.kubectl("exec", f"{NAME}-redis-0", "--", "valkey-cli", *command)).strip()

    @asynccontextmanager
    async def forwarded(self) -> AsyncIterator[str]:
        """The address of the gateway's Service on this machine; kubectl is started anew when its
        pod goes, as a load balancer would take another one.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        task = asyncio.create_task(self._forward(port))
        try:
            yield f"127.0.0.1:{port}"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _forward(self, port: int) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                program("kubectl", list(HELM)[-1]), f"--namespace={self.namespace}",
                *([f"--context={self._context}"] if self._context else []),
                "port-forward", f"service/{NAME}-gateway", f"{port}:8330",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
            await asyncio.sleep(0.2)

    async def remove(self) -> None:
        """Remove the namespace and all in it."""
        await self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait")


def _is_rolled(found: dict[str, Any]) -> bool:
    """Whether the status of a LeaderWorkerSet is of its present form, and all groups are ready."""
    status, generation = found.get("status", {}), found["metadata"]["generation"]
    wanted = found["spec"]["replicas"]
    counts = [status.get(f"{name}eplicas", 0) for name in ("r", "readyR", "updatedR")]
    return status.get("observedGeneration", generation) >= generation and counts == [wanted] * 3


async def _run(name: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        program(name, list(HELM)[-1]),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), COMMAND_S)
    except TimeoutError:
        process.kill()
        raise CommandFailed(f"{name} {arguments[-1]}: not done in {COMMAND_S:g} s") from None
    if process.returncode:
        lines = re.sub(r"\s+", " ", error.decode(errors="replace").strip())
        raise CommandFailed(f"{name}: {lines[-300:]}")
    return out.decode()
