"""The whole system on one machine: Redis, workers and a gateway as child processes."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import quote

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from glm4v.errors import ConfigurationError
from glm4v.local.child import Child, LogSink, Program
from glm4v.local.disk_guard import guard_disk
from glm4v.local.environment import import_path, threads_each
from glm4v.local.memory_shares import MemoryShares, memory_shares
from glm4v.local.preflight import (
    check_callers,
    check_disk,
    check_port,
    check_redis,
    check_settings,
    free_port,
    lock_folder,
)
from glm4v.local.redis_server import RedisServer
from glm4v.local.runtime_folder import RuntimeFolder
from glm4v.local.supervisor import Supervisor
from glm4v.process.environment import variable_of
from glm4v.process.extras import require
from glm4v.process.settings import ServiceSettings

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # to connect to a wildcard address
_HEALTH_TIMEOUT_S = 1.0
_DRAIN_S = 10.0  # default of GLM4V_DRAIN_TIMEOUT_S
# Vision workers go first: requests wait for their images, and a language step that is delayed takes
# hardly longer for the requests that joined meanwhile.
_LANGUAGE_NICE = 10
# Parts of a prompt between which running requests get tokens that cost next to nothing. Images wait
# for prefills here (GLM4V_CPU_ARBITER), which are not to take too long.
_PREFILL_SLOWDOWN = "3"
_AFTER_DRAIN_S = 5.0  # from the end of the drain to SIGKILL
_SILENT_S = 60.0  # beyond that: a draining process is not ready


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What to start."""

    model: Path  # checkpoint folder
    host: str = "127.0.0.1"  # of the gateway
    port: int = 0  # of the gateway; 0 takes a free one
    http_port: int | None = None  # the same for HTTP; None serves none
    vision_workers: int = 1
    lm_workers: int = 1
    redis_url: str | None = None  # None starts a server
    dtype: str | None = None  # None takes that of the environment
    data_dir: Path | None = None  # of that server; None keeps no data
    restart: bool = True  # processes that end
    start_timeout_s: float = 600.0
    environment: Mapping[str, str] = field(
        default_factory=dict
    )  # of all processes, in addition to ours


class LocalCluster:
    """Use it as `async with LocalCluster(settings) as cluster:`; inside, all processes are ready.

    Processes are named "redis", "vision_worker", "lm_worker" (then "lm_worker-2" …) and "gateway".
    Enter it in the main thread: the processes are killed when the thread that started them ends.

    Attributes:
        own_redis_url: URL of the Redis that was started; None with another Redis.
        is_stopping: Whether the processes are being stopped.
    """

    def __init__(self, settings: ClusterSettings, show: LogSink = lambda name, line: None) -> None:
        self._settings = settings
        self._show = partial(show, "glm4v")
        self._supervisor = Supervisor(show, restart=settings.restart)
        self._port = settings.port
        self._http_port = settings.http_port
        self._folder: RuntimeFolder | None = None
        self._lock: IO[str] | None = None
        self.own_redis_url: str | None = None
        self._guard: asyncio.Future[None] | None = None  # of its disk
        self._shares = MemoryShares(0, 0)
        self.is_stopping = False

    @property
    def target(self) -> str:
        """Address of the gateway for clients on this machine, HOST:PORT."""
        host = _LOOPBACK.get(self._settings.host, self._settings.host)
        return _address(host, self._port)

    @property
    def http_url(self) -> str | None:
        """URL of the gateway for clients on this machine; None where it serves no HTTP."""
        if self._http_port is None:
            return None
        host = _LOOPBACK.get(self._settings.host, self._settings.host)
        environment = {**os.environ, **self._settings.environment}
        scheme = "https" if environment.get("GLM4V_TLS_CERT") else "http"
        return f"{scheme}://{_address(host, self._http_port)}"

    @property
    def namespace(self) -> str:
        """The prefix of all keys in Redis."""
        variable = variable_of("namespace")
        default: str = ServiceSettings.model_fields["namespace"].default
        return self._settings.environment.get(variable) or os.environ.get(variable) or default

    def process(self, name: str) -> Child:
        """The current process of that name. Raises KeyError if there is none."""
        return self._supervisor.process(name)

    async def failed(self) -> None:
        """Wait until a process cannot be kept running, and raise why."""
        await self._supervisor.failed()

    def kill(self) -> None:
        """Kill all processes. Leaving the context still removes the files."""
        self._supervisor.kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes and their children."""
        self._supervisor.send_signal(number)

    async def __aenter__(self) -> "LocalCluster":
        await self._check()
        self._folder = RuntimeFolder()
        try:
            await self._start(self._folder)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _check(self) -> None:
        """Check settings, port and Redis before any process starts."""
        settings = self._settings
        if settings.vision_workers or settings.lm_workers:
            require("torch", "worker")  # no other extra installs it
        environment = self._environment("redis://", Path())
        self._shares = memory_shares(
            *check_settings(environment),
            vision_workers=settings.vision_workers,
            lm_workers=settings.lm_workers,
            has_redis=settings.redis_url is None,
        )
        self._port = self._port or free_port(settings.host)
        check_port(settings.host, self._port)
        if self._http_port is not None:
            self._http_port = self._http_port or free_port(settings.host)
            check_port(settings.host, self._http_port, "--http-port")
        check_callers(environment, _address(settings.host, self._port))
        if settings.redis_url is not None:
            await check_redis(settings.redis_url)
        if settings.data_dir is not None:
            self._lock = lock_folder(settings.data_dir)

    async def _start(self, folder: RuntimeFolder) -> None:
        settings = self._settings
        redis_url = settings.redis_url
        if redis_url is None:
            data_dir = settings.data_dir or folder.path / "data"
            check_disk(settings.data_dir or folder.path)
            redis = RedisServer(
                data_dir, folder.socket("redis"), max_memory_bytes=self._shares.redis_bytes
            )
            await self._supervisor.start(
                Program("redis", tuple(redis.command), os.environ, redis.is_ready)
            )
            await self._supervisor.ready(settings.start_timeout_s)
            redis_url = self.own_redis_url = redis.url
            self._guard = asyncio.ensure_future(guard_disk(redis_url, data_dir, self._show))
        environment = self._environment(redis_url, folder.path)
        await self._supervisor.start(
            *_workers("vision_worker", settings.vision_workers, folder, environment),
            *_workers("lm_worker", settings.lm_workers, folder, environment, _LANGUAGE_NICE),
        )
        listen = _address(settings.host, self._port)
        health = environment.get("GLM4V_HEALTH_LISTEN") or _socket(folder, "gateway.health")
        environment.pop("GLM4V_HTTP_LISTEN", None)
        if self._http_port is not None:
            environment["GLM4V_HTTP_LISTEN"] = _address(settings.host, self._http_port)
        await self._supervisor.start(_service("gateway", "gateway", listen, health, environment))
        await self._supervisor.ready(settings.start_timeout_s)

    async def _stop(self) -> None:
        self.is_stopping = True
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)
        await self._supervisor.stop()
        if self._folder is not None:
            self._folder.close()
        if self._lock is not None:
            self._lock.close()

    def _environment(self, redis_url: str, folder: Path) -> dict[str, str]:
        """Variables of all processes. The number of threads that the user set is kept."""
        settings = self._settings
        # Each kind of worker may use all cores: both seldom compute at once, and waiting threads
        # sleep. If both are busy this costs little; if one is, it is nearly twice as fast.
        threads = str(threads_each(max(settings.vision_workers, settings.lm_workers)))
        return {
            "OMP_NUM_THREADS": threads,
            "GLM4V_THREADS": threads,
            "GLM4V_CPU_ARBITER": str(folder / "cpu_arbiter.lock"),
            "GLM4V_PREFILL_SLOWDOWN": _PREFILL_SLOWDOWN,
            "GLM4V_HOST_MEMORY_BYTES": str(self._shares.workers_bytes),
            "GLM4V_HOST_VISION_WORKERS": str(settings.vision_workers),
            "GLM4V_HOST_LM_WORKERS": str(max(1, settings.lm_workers)),
            **os.environ,
            **settings.environment,
            **({"GLM4V_DTYPE": settings.dtype} if settings.dtype else {}),
            "GLM4V_MODEL": str(settings.model.absolute()),
            "GLM4V_REDIS_URL": redis_url,
            "PYTHONUNBUFFERED": "1",
            **import_path(),
        }


def is_serving(target: str) -> bool:
    """Whether a health check without TLS is answered with SERVING."""
    options = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a shared one would back off after a failure
    ]
    with grpc.insecure_channel(target, options=options) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        try:
            reply = check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _service(
    name: str,
    module: str,
    listen: str,
    health: str,
    environment: Mapping[str, str],
    nice: int = 0,
) -> Program:
    """A process that is ready when its health listener says so; `listen` may need TLS."""
    stop_s = _drain_s(environment) + _AFTER_DRAIN_S
    return Program(
        name,
        (sys.executable, "-m", module),
        {**environment, "GLM4V_LISTEN": listen, "GLM4V_HEALTH_LISTEN": health},
        lambda: is_serving(health),
        stop_s=stop_s,
        silent_s=stop_s + _SILENT_S,
        nice=nice,
    )


def _workers(
    module: str,
    count: int,
    folder: RuntimeFolder,
    environment: Mapping[str, str],
    nice: int = 0,
) -> list[Program]:
    names = [module if index == 0 else f"{module}-{index + 1}" for index in range(count)]
    return [
        _service(
            name,
            module,
            _socket(folder, name),
            _socket(folder, f"{name}.health"),
            # A port that the user set for metrics is the gateway's.
            {**environment, "GLM4V_METRICS_LISTEN": _socket(folder, f"{name}.metrics")},
            nice,
        )
        for name in names
    ]


def _socket(folder: RuntimeFolder, name: str) -> str:
    """Address of a unix socket; a gRPC name is a URL, so the path is quoted."""
    return f"unix:{quote(str(folder.socket(name)))}"


def _drain_s(environment: Mapping[str, str]) -> float:
    text = environment.get("GLM4V_DRAIN_TIMEOUT_S", str(_DRAIN_S))
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(
            f"GLM4V_DRAIN_TIMEOUT_S: {text} is not a number of seconds"
        ) from None
