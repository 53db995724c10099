"""Several Redis servers that belong together, on ports of this machine."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import ConnectionError, Redis

from glm4v.local.pdeathsig import with_pdeathsig
from glm4v.local.redis_server import find_server

HOST = "127.0.0.1"
_START_S = 20.0
_SLOTS = 16384


def free_port() -> int:
    """A port that is free, and low enough for a cluster's second one, 10000 above."""
    while True:
        with socket.create_server((HOST, 0)) as listening:
            port = int(listening.getsockname()[1])
        if port < 55000:
            return port


@contextmanager
def node(folder: Path, port: int, *options: str, config: str = "") -> Iterator[Redis]:
    """One server with these options; a client of it."""
    folder.mkdir()
    (folder / "redis.conf").write_text(config)
    command = [str(find_server()), str(folder / "redis.conf"), "--port", str(port)]
    command += ["--bind", HOST, "--dir", str(folder), "--save", "", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(with_pdeathsig(command), stdout=log, stderr=log)
    client = Redis(HOST, port, protocol=2)
    try:
        wait_for(lambda: client.ping())
        yield client
    finally:
        client.close()
        process.kill()
        process.wait()


@contextmanager
def cluster(folder: Path, size: int = 3) -> Iterator[str]:
    """A cluster of masters that share the slots; its URL."""
    with ExitStack() as stack:
        ports = [free_port() for _ in range(size)]
        nodes = [
            stack.enter_context(node(folder / str(port), port, "--cluster-enabled", "yes"))
            for port in ports
        ]
        for number, client in enumerate(nodes):
            first, end = number * _SLOTS // size, (number + 1) * _SLOTS // size
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)  # type: ignore[no-untyped-call]
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # type: ignore[no-untyped-call]
            nodes[0].execute_command("CLUSTER", "MEET", HOST, ports[number])  # type: ignore[no-untyped-call]
        wait_for(lambda: all(_knows_all(client, size) for client in nodes))
        yield f"redis+cluster://{HOST}:{ports[0]}"


def _knows_all(client: Redis, size: int) -> bool:
    info = client.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == size


def wait_for(is_so: Callable[[], object]) -> None:
    """Return when it is so; servers that do not answer yet are asked again."""
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(ConnectionError):
            if is_so():
                return
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
