"""The gateway's process serves TLS as its settings say; its health listener has none."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glm4v.client import Client, Tls
from glm4v.errors import Unavailable
from glm4v.local.cluster import is_serving
from glm4v.local.redis_server import RedisServer
from tests.authority import Authority
from tests.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]


def test_clients_need_tls_and_a_certificate(
    own_redis: RedisServer, checkpoint_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    server, clients = Authority(), Authority()
    files, client = server.issue(tmp_path / "server"), clients.issue(tmp_path / "client")
    (tmp_path / "ca.crt").write_bytes(clients.pem)
    (tmp_path / "server-ca.crt").write_bytes(server.pem)
    with socket.create_server(("127.0.0.1", 0)) as free:
        target = f"127.0.0.1:{free.getsockname()[1]}"
    health = f"unix:{tmp_path / 'health'}"
    variables = {
        "GLM4V_MODEL": checkpoint_dir("micro-glm4v"),
        "GLM4V_REDIS_URL": own_redis.url,
        "GLM4V_LISTEN": target,
        "GLM4V_HEALTH_LISTEN": health,
        "GLM4V_TLS_CERT": files.certificate,
        "GLM4V_TLS_KEY": files.key,
        "GLM4V_TLS_CLIENT_CA": tmp_path / "ca.crt",
        "PYTHONPATH": ROOT,
    }
    environment = {name: str(value) for name, value in variables.items()}
    process = subprocess.Popen([sys.executable, "-m", "gateway"], env=environment)
    try:
        wait_until(lambda: is_serving(health) or process.poll() is not None)
        ca = tmp_path / "server-ca.crt"
        with Client(target, tls=Tls(ca, client.certificate, client.key)) as known:
            assert known.get_model().fingerprint
        for tls in (Tls(ca), Tls(), None):
            unknown = Client(target, tls=tls, retry_timeout_s=0.1)
            with unknown, pytest.raises(Unavailable):
                unknown.get_model()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
