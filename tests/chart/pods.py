"""Runs pod specifications as processes, as a kubelet does with containers.

Every pod has an address of the loopback network of its own in place of a network namespace, and a
folder in place of its mounts: addresses and paths in its variables, arguments and files are
rewritten for that, and nothing else. Programs of images are those of this machine. Periods of
probes pass `FASTER` times as fast; grace periods do not.
"""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glm4v.local.cluster import is_serving
from glm4v.local.pdeathsig import with_pdeathsig
from glm4v.local.redis_server import find_server
from tests.chart.helm import ROOT, Manifest

FASTER = 10.0
_NUMBERS = itertools.count(1)
_PYTHON = ("python", "-m")
_PATHS = re.compile(r"(?<![\w/.])(/[\w./-]+)")


def new_address() -> str:
    """An address that no other pod or Service has, of these tests or of others that run now."""
    process = os.getpid()
    return f"127.{64 + process // 250 % 190}.{1 + process % 250}.{next(_NUMBERS)}"


class ForkServer:
    """Starts services in a fraction of a second, see `tests.e2e.fork_server`."""

    async def __aenter__(self) -> "ForkServer":
        self._server = await asyncio.create_subprocess_exec(
            *with_pdeathsig([sys.executable, "-m", "tests.e2e.fork_server"]),
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._lock = asyncio.Lock()
        self._ready = asyncio.Event()
        self._reader = asyncio.create_task(self._read())
        await asyncio.wait_for(self._ready.wait(), 60)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.kill()  # what it started dies with it
        await self._server.wait()
        await self._reader

    async def start(self, module: str, environment: Mapping[str, str], log: Path) -> int:
        """Start a service; its process id."""
        request = {"module": module, "environment": dict(environment), "log": str(log)}
        async with self._lock:
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            return await self._started.get()

    async def ended(self, pid: int) -> int:
        """Wait for the end of a process: its exit code, or minus the signal."""
        return await asyncio.shield(self._ends[pid])

    async def _read(self) -> None:
        assert self._server.stdout is not None
        async for line in self._server.stdout:
            message = json.loads(line)
            if "code" in message:
                self._ends[message["pid"]].set_result(message["code"])
            elif "pid" in message:
                self._ends[message["pid"]] = asyncio.get_running_loop().create_future()
                self._started.put_nowait(message["pid"])
            else:
                self._ready.set()


@dataclass
class Node:
    """What pods find on their machine and in their cluster."""

    fork: ForkServer
    folder: Path
    names: dict[str, str]  # of services, to their addresses
    objects: list[Manifest]  # ConfigMaps among them
    secrets: Mapping[str, Mapping[str, str]]
    files: Mapping[str, Path]  # paths in images, to files here
    path: str  # where programs of images are


@dataclass
class Pod:
    """One pod with one container, restarted whenever it ends.

    Attributes:
        exits: Exit codes of all its processes.
        is_ready: What the Service of the pod goes by.
    """

    node: Node
    name: str
    spec: Manifest
    address: str = field(default_factory=new_address)
    exits: list[int] = field(default_factory=list)
    is_ready: bool = False
    pid: int = 0
    is_stopping: bool = False
    was_killed: bool = False

    @property
    def container(self) -> Manifest:
        """The only one."""
        [found] = self.spec["containers"]
        return dict(found)

    @property
    def folder(self) -> Path:
        """Where its volumes are; a StatefulSet's pod keeps its name and so its data."""
        return self.node.folder / self.name

    @property
    def log(self) -> str:
        """What its processes have written."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Mount volumes, and run until `stop`."""
        self._mounts = self._mount()
        self._task = asyncio.create_task(self._run())

    async def run_once(self) -> int:
        """Mount volumes, and run to the end, as `restartPolicy: Never` has it; the exit code."""
        self._mounts = self._mount()
        return await (await self._start_container())

    async def stop(self) -> None:
        """End as the kubelet ends a pod: hook, SIGTERM, and SIGKILL when its time is over."""
        self.is_stopping, self.is_ready = True, False  # its endpoint goes at once
        deadline = time.monotonic() + self.spec["terminationGracePeriodSeconds"]
        hook = self.container.get("lifecycle", {}).get("preStop", {}).get("exec")
        if hook is not None:
            await asyncio.wait_for(_command(hook["command"]), deadline - time.monotonic())
        self.signal(signal.SIGTERM)
        done, _ = await asyncio.wait([self._task], timeout=deadline - time.monotonic())
        if not done:
            self.was_killed = True
            self.signal(signal.SIGKILL)
        await self._task

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process."""
        os.kill(self.pid, number)

    async def _run(self) -> None:
        while not self.is_stopping:
            end = await self._start_container()
            probing = asyncio.create_task(self._probe())
            try:
                self.exits.append(await end)
            finally:
                probing.cancel()
                self.is_ready = False
            await asyncio.sleep(0.2)  # the first back-off is 10 s; FASTER would be 1 s

    async def _start_container(self) -> "asyncio.Future[int]":
        words = [*self.container["command"], *self.container.get("args", [])]
        environment = {"PATH": self.node.path, "OMP_NUM_THREADS": "1", **self._environment()}
        log = self.folder / "log"
        if tuple(words[:2]) == _PYTHON:
            self.pid = await self.node.fork.start(words[2], environment, log)
            return asyncio.ensure_future(self.node.fork.ended(self.pid))
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *with_pdeathsig(["/usr/bin/env", *(self._local(word) for word in words)]),
                env=environment, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.pid = process.pid
        return asyncio.ensure_future(process.wait())

    def _environment(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for each in self.container.get("env", []):
            source = each.get("valueFrom", {}).get("secretKeyRef")
            value = self.node.secrets[source["name"]][source["key"]] if source else each["value"]
            value = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
            found[each["name"]] = value if source else self._local(value)
        return found

    def _local(self, text: str) -> str:
        """Addresses and paths of a pod as they are on this machine."""
        text = re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1):", f"{self.address}:", text)
        for name, address in self.node.names.items():
            text = re.sub(rf"\b{name}\b", address, text)
        return _PATHS.sub(lambda match: self._path(match[1]), text)

    def _path(self, path: str) -> str:
        for mount, here in sorted({**self._mounts, **self.node.files}.items(), reverse=True):
            if path == mount or path.startswith(f"{mount}/"):
                return str(here) + path.removeprefix(mount)
        return path

    def _mount(self) -> dict[str, Path]:
        volumes = {each["name"]: each for each in self.spec.get("volumes", [])}
        mounts = {}
        for mount in self.container.get("volumeMounts", []):
            here = self.folder / mount["name"]
            here.mkdir(parents=True, exist_ok=True)
            mounts[mount["mountPath"]] = here
            volume: dict[str, Any] = volumes.get(mount["name"], {})
            if secret := volume.get("secret"):
                content = self.node.secrets[secret["secretName"]]
                items = secret.get("items", [{"key": key, "path": key} for key in content])
                for item in items:
                    (here / item["path"]).write_text(content[item["key"]])
        self._mounts = mounts
        for mount in self.container.get("volumeMounts", []):
            volume = volumes.get(mount["name"], {})
            if config := volume.get("configMap"):
                for key, text in self._config_map(config["name"]).items():
                    text = text.replace("bind * -::*", f"bind {self.address}")
                    (mounts[mount["mountPath"]] / key).write_text(self._local(text))
        return mounts

    def _config_map(self, name: str) -> dict[str, str]:
        [found] = [
            each["data"]
            for each in self.node.objects
            if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name
        ]
        return dict(found)

    async def _probe(self) -> None:
        """Startup, then liveness and readiness; a container that fails is killed."""
        if not await self._passes(self.container["startupProbe"], until=True):
            self.signal(signal.SIGKILL)
            return
        ready = asyncio.create_task(self._watch_readiness(self.container["readinessProbe"]))
        try:
            await self._passes(self.container["livenessProbe"], until=False)
            if not self.is_stopping:
                self.signal(signal.SIGKILL)
        finally:
            ready.cancel()

    async def _passes(self, probe: Manifest, *, until: bool) -> bool:
        """Probe until it passes, or until it fails as often as it may; what the last one said."""
        failed = 0
        while failed < probe.get("failureThreshold", 3):
            passed = await self._ask(probe)
            if passed and until:
                return True
            failed = 0 if passed or self.is_stopping else failed + 1
            await asyncio.sleep(probe.get("periodSeconds", 10) / FASTER)
        return False

    async def _watch_readiness(self, probe: Manifest) -> None:
        failed = 0
        while True:
            failed = 0 if await self._ask(probe) else failed + 1
            if not failed:
                self.is_ready = not self.is_stopping
            elif failed >= probe.get("failureThreshold", 3):
                self.is_ready = False
            await asyncio.sleep(probe.get("periodSeconds", 10) / FASTER)

    async def _ask(self, probe: Manifest) -> bool:
        if "grpc" in probe:
            return await asyncio.to_thread(is_serving, f"{self.address}:{probe['grpc']['port']}")
        ports = {each["name"]: each["containerPort"] for each in self.container["ports"]}
        port = probe["tcpSocket"]["port"]
        try:
            connecting = asyncio.open_connection(self.address, ports.get(port, port))
            _, writer = await asyncio.wait_for(connecting, 1.0)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


async def _command(words: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*words)
    await process.wait()


def programs(folder: Path) -> str:
    """A PATH with the programs of the Redis image: `valkey-server` is the one of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "valkey-server").symlink_to(find_server())
    return f"{folder}:{os.environ['PATH']}"
