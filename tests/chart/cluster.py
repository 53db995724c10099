"""What a cluster does with the chart's objects: controllers, Services and KEDA, without an API."""

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from redis.asyncio import Redis

from tests.chart.helm import Manifest
from tests.chart.pods import FASTER, Node, Pod

_POLL_S = 0.02
_TOLERANCE = 0.1  # of a HorizontalPodAutoscaler


@dataclass
class Workload:
    """The pods of a Deployment, or of a StatefulSet with one replica."""

    node: Node
    manifest: Manifest
    pods: list[Pod] = field(default_factory=list)
    ended: list[Pod] = field(default_factory=list)
    started: int = 0
    most: int = 0

    @property
    def ready(self) -> list[Pod]:
        """Those that traffic goes to."""
        return [pod for pod in self.pods if pod.is_ready]

    async def scale(self, replicas: int) -> None:
        """Start pods, or stop the newest ones and wait for their end."""
        while len(self.pods) < replicas:
            self._add()
        surplus, self.pods = self.pods[replicas:], self.pods[:replicas]
        await self._stop(*surplus)

    async def roll(self) -> None:
        """Replace all pods, with the surge and the absence that the strategy allows."""
        strategy = self.manifest["spec"]["strategy"]["rollingUpdate"]
        for pod in list(self.pods):
            if strategy["maxSurge"]:
                new = self._add()
                await until(lambda new=new: new.is_ready)  # type: ignore[misc] # a default
            self.pods.remove(pod)
            await self._stop(pod)
            if not strategy["maxSurge"]:
                new = self._add()
                await until(lambda new=new: new.is_ready)  # type: ignore[misc] # a default

    def _add(self) -> Pod:
        spec = self.manifest["spec"]
        name = self.manifest["metadata"]["name"]
        stateful = self.manifest["kind"] == "StatefulSet"
        pod = Pod(self.node, f"{name}-{0 if stateful else self.started}", spec["template"]["spec"])
        self.started += 1
        self.pods.append(pod)
        self.most = max(self.most, len(self.pods))
        pod.start()
        return pod

    async def _stop(self, *pods: Pod) -> None:
        self.ended += pods
        await asyncio.gather(*(pod.stop() for pod in pods))


async def until(is_so: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return when it is so; raises TimeoutError when it is not in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not is_so():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError
        await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def service(manifest: Manifest, address: str, of: Workload) -> AsyncIterator[None]:
    """Connections to the Service go to a ready pod each, as kube-proxy sends them."""
    servers = []
    for port in manifest["spec"]["ports"]:
        target = port["targetPort"]

        async def handle(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str = target
        ) -> None:
            await _forward(reader, writer, of, target)

        servers.append(await asyncio.start_server(handle, address, port["port"]))
    try:
        yield
    finally:
        for server in servers:
            server.close()


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, of: Workload, target: str
) -> None:
    with contextlib.suppress(OSError):
        if of.ready:
            pod = random.choice(of.ready)
            ports = {each["name"]: each["containerPort"] for each in pod.container["ports"]}
            there, back = await asyncio.open_connection(pod.address, ports[target])
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
    writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@dataclass
class Keda:
    """Scales a workload as KEDA and the HorizontalPodAutoscaler that it makes do.

    From 0 on while the trigger is active (its value above the activation value), to 0 when it was
    inactive for the cooldown period; between 1 and the most by value over target, rounded up,
    and not by less than a tenth; down by the highest wish within the stabilisation window.
    Sources: KEDA, pkg/scaling/executor/scale_scaledobjects.go and pkg/scalers/
    redis_streams_scaler.go; Kubernetes, "Horizontal Pod Autoscaling: Algorithm details".
    """

    manifest: Manifest
    of: Workload
    redis: Redis
    _wishes: list[tuple[float, int]] = field(default_factory=list)
    _last_active: float = 0.0

    async def run(self) -> None:
        """Look at the queue at the polling interval until cancelled."""
        interval_s = self.manifest["spec"]["pollingInterval"] / FASTER
        while True:
            await self.look()
            await asyncio.sleep(interval_s)

    async def look(self) -> None:
        """One look, and what follows from it."""
        spec = self.manifest["spec"]
        [trigger] = spec["triggers"]
        metadata, now = trigger["metadata"], asyncio.get_running_loop().time()
        assert "consumerGroup" not in metadata  # else KEDA would count pending entries
        value = int(await self.redis.xlen(metadata["stream"]))
        replicas, least = len(self.of.pods), spec["minReplicaCount"]
        is_active = value > int(metadata["activationLagCount"])
        if is_active:
            self._last_active = now
        elif least == 0 and now - self._last_active > spec["cooldownPeriod"] / FASTER:
            await self.of.scale(0)
            return
        if replicas == 0:
            await self.of.scale(max(least, 1 if is_active else 0))
        else:
            await self._resize(value, replicas, float(metadata["streamLength"]), now)

    async def _resize(self, value: int, replicas: int, target: float, now: float) -> None:
        spec = self.manifest["spec"]
        wish = replicas
        if abs(value / replicas / target - 1) > _TOLERANCE:
            wish = math.ceil(value / target)
        wish = min(max(wish, spec["minReplicaCount"], 1), spec["maxReplicaCount"])
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        window_s = behavior["scaleDown"]["stabilizationWindowSeconds"] / FASTER
        self._wishes = [each for each in self._wishes if now - each[0] <= window_s]
        self._wishes.append((now, wish))
        if wish < replicas:
            wish = min(replicas, max(each for _, each in self._wishes))
        if wish != replicas:
            await self.of.scale(wish)
