"""The whole system as processes that may be killed, paused, drained and started again at will.

`LocalCluster` is what users run and keeps things alive; a fleet leaves everything to its user, and
starts a process in a fraction of a second.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from glm4v.broker import Connection, Keys
from glm4v.broker.keys import LM_GROUP
from glm4v.local.cluster import is_serving
from glm4v.local.pdeathsig import with_pdeathsig
from glm4v.local.redis_server import RedisServer
from tests.e2e.fork_server import SERVICES
from tests.queues import streams

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    **{name: name for name in SERVICES},
    "slow_lm_worker": "tests.e2e.slow_lm_worker",
    "slow_vision_worker": "tests.e2e.slow_vision_worker",
    "loading_lm_worker": "tests.e2e.loading_lm_worker",
    "loading_vision_worker": "tests.e2e.loading_vision_worker",
    "crashing_lm_worker": "tests.e2e.crashing_lm_worker",
    "cuda_lm_worker": "tests.e2e.cuda_lm_worker",
    "cuda_vision_worker": "tests.e2e.cuda_vision_worker",
}
START_S = 60.0
METRICS_TIMEOUT_S = 20.0
LEASE_S = 1.0


class Fleet:
    """`async with Fleet(model) as fleet:`, in the main thread.

    `data_dir` is where Redis keeps its file; nobody guards the disk that it is on. `redis` makes
    the server, from that and the path of its socket.

    Names are "redis" and "lm_worker", "lm_worker-2", "gateway" …: one of `MODULES`, and a suffix
    when there are several. `variants` has variables for the services with a suffix.
    """

    def __init__(
        self,
        model: Path,
        *,
        environment: Mapping[str, str] | None = None,
        variants: Mapping[str, Mapping[str, str]] | None = None,
        listen: Mapping[str, str] | None = None,
        data_dir: Path | None = None,
        redis: Callable[[Path, Path], RedisServer] = RedisServer,
    ) -> None:
        self._model = model
        self._extra = dict(environment or {})
        self._python_path = self._extra.get("PYTHONPATH", str(ROOT))
        self._variants = dict(variants or {})
        self._listen_at = dict(listen or {})
        self._temporary = TemporaryDirectory(prefix="glm4v-")
        self._folder = Path(self._temporary.name)
        self._pids: dict[str, int] = {}
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._is_starting = asyncio.Lock()
        self.redis = redis(data_dir or self._folder / "data", self._folder / "redis.sock")

    async def __aenter__(self) -> Self:
        self.redis.start()
        self._nursery = await asyncio.create_subprocess_exec(
            *with_pdeathsig([sys.executable, "-m", "tests.e2e.fork_server"]),
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": self._python_path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            limit=2**20,
        )
        self._ready = asyncio.get_running_loop().create_future()
        self._listener = asyncio.create_task(self._listen())
        await asyncio.wait_for(self._ready, START_S)
        self.connection = Connection(self.redis.url)
        self.keys = Keys()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._nursery.kill()
        await self._nursery.wait()
        await self._listener
        await self.connection.close()
        self.redis.stop()
        self._temporary.cleanup()

    @property
    def running(self) -> list[str]:
        """Names of the services that have not ended."""
        return [name for name, pid in self._pids.items() if not self._ends[pid].done()]

    def target(self, name: str = "gateway") -> str:
        """Where a service listens, as gRPC wants it."""
        return self._listen_at.get(name, f"unix:{self._folder / name}.sock")

    def http_path(self, name: str = "gateway") -> str:
        """The path of the socket on which a gateway serves HTTP."""
        return str(self._folder / f"{name}.http")

    def pid(self, name: str) -> int:
        """Process id of Redis, or of a service's present life."""
        return self.redis.pid if name == "redis" else self._pids[name]

    @property
    def targets(self) -> list[str]:
        """All gateways."""
        return [self.target(name) for name in self._pids if name.startswith("gateway")]

    async def start(
        self, *names: str, wait: bool = True, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start services, and wait until they serve.

        `environment` has variables for those with their suffixes from now on.
        """
        for name in names:
            if environment is not None:
                self._variants[name.partition("-")[2]] = environment
            async with self._is_starting:
                await self._ask(name)
        if wait:
            await asyncio.gather(*(self.serving(name) for name in names))

    async def only(self, *names: str) -> None:
        """Make these services run, and no other."""
        for name in self.running:
            if name not in names:
                await self.kill(name)
        running = self.running
        await self.start(*(name for name in names if name not in running))

    async def serving(self, name: str) -> None:
        """Wait until a service serves; fails with its log when it ends instead."""
        end = self._ends[self._pids[name]]
        deadline = asyncio.get_running_loop().time() + START_S
        while not await asyncio.to_thread(is_serving, self.target(name)):
            late = asyncio.get_running_loop().time() > deadline
            if end.done() or late:
                raise AssertionError(f"{name} does not serve:\n{self.log(name)[-3000:]}")
            await asyncio.sleep(0.05)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process that runs."""
        os.kill(self.pid(name), number)

    async def ended(self, name: str) -> int:
        """Wait for the end of a service: its exit code, or minus the signal."""
        return await asyncio.shield(self._ends[self._pids[name]])

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.signal(name, signal.SIGKILL)
        await self.ended(name)

    def restart_redis(self) -> None:
        """SIGKILL Redis and start it on the same files."""
        self.signal("redis", signal.SIGKILL)
        self.start_redis()

    def start_redis(self) -> None:
        """Start Redis again on the files of the one that was killed."""
        self.redis.stop()
        self.redis.start()

    def log(self, name: str) -> str:
        """What all lives of a service have written."""
        path = self._folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def logs(self, kind: str) -> str:
        """What all services whose name contains `kind` have written."""
        paths = sorted(self._folder.glob(f"*{kind}*.log"))
        return "".join(path.read_text(errors="replace") for path in paths)

    async def metric(self, name: str, metric: str, **labels: str) -> float:
        """A value that a running service measures now; 0 when it has none with these labels."""
        return sum(
            sample.value
            for sample in await self._samples(name, metric)
            if labels.items() <= sample.labels.items()
        )

    async def metrics(self, name: str) -> str:
        """All metrics of a running service, as Prometheus reads them."""
        transport = httpx.AsyncHTTPTransport(uds=str(self._metrics_socket(name)))
        async with httpx.AsyncClient(transport=transport, timeout=METRICS_TIMEOUT_S) as client:
            return (await client.get("http://service/metrics")).text

    async def _samples(self, name: str, metric: str) -> list[Sample]:
        families = text_string_to_metric_families(await self.metrics(name))
        return [each for family in families for each in family.samples if each.name == metric]

    def _metrics_socket(self, name: str) -> Path:
        return self._folder / f"{name}.metrics"

    def _health_target(self, name: str) -> str:
        return f"unix:{self._folder / name}.health"

    async def holder(self, request_id: str) -> str:
        """The language worker that holds the lease on a request."""
        commands = self.connection.commands
        for stream, group in await streams(self.connection, self.keys):
            if group != LM_GROUP:
                continue
            for entry in await commands.xpending_range(stream, group, "-", "+", 1000):
                found = await commands.xrange(stream, entry["message_id"], entry["message_id"])
                if found and found[0][1][b"r"].decode() == request_id:
                    return await self._owner(entry["consumer"].decode())
        raise AssertionError(f"nobody holds {request_id}")

    async def _owner(self, consumer: str) -> str:
        """The running worker with a consumer name."""
        for name in self.running:
            if "worker" in name and await self.metric(name, "glm4v_worker_info", consumer=consumer):
                return name
        raise AssertionError(f"no running worker is {consumer}")

    async def _ask(self, name: str) -> None:
        request = {
            "module": MODULES[name.split("-")[0]],
            "environment": self.environment(name),
            "log": str(self._folder / f"{name}.log"),
        }
        assert self._nursery.stdin is not None  # it was opened as a pipe
        self._nursery.stdin.write(json.dumps(request).encode() + b"\n")
        pid = await self._started.get()
        self._pids[name] = pid

    def environment(self, name: str) -> dict[str, str]:
        """Variables of a service."""
        return {
            "OMP_NUM_THREADS": "1",
            "PATH": os.environ["PATH"],
            "GLM4V_MODEL": str(self._model),
            "GLM4V_REDIS_URL": self.redis.url,
            "GLM4V_LISTEN": self.target(name),
            "GLM4V_HEALTH_LISTEN": self._health_target(name),
            "GLM4V_METRICS_LISTEN": f"unix:{self._metrics_socket(name)}",
            "GLM4V_LEASE_S": str(LEASE_S),
            "GLM4V_DTYPE": "float32",  # 16-bit weights round differently in batches of other sizes
            **(
                {"GLM4V_HTTP_LISTEN": f"unix:{self.http_path(name)}"}
                if name.startswith("gateway")
                else {"GLM4V_THREADS": "1"}
            ),
            **self._extra,
            **self._variants.get(name.partition("-")[2], {}),
        }

    async def _listen(self) -> None:
        assert self._nursery.stdout is not None  # it was opened as a pipe
        async for line in self._nursery.stdout:
            message = json.loads(line)
            if "code" in message:
                self._ends[message["pid"]].set_result(message["code"])
            elif "pid" in message:
                self._ends[message["pid"]] = asyncio.get_running_loop().create_future()
                self._started.put_nowait(message["pid"])
            else:
                self._ready.set_result(None)
