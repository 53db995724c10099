"""Gateways as processes that ask who calls, by key or certificate, over gRPC and HTTP alike."""

import asyncio
import io
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from gateway.access.authentication import MESSAGE
from gateway.doors.kserve import grpc_service_pb2 as kserve_pb
from gateway.doors.kserve.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from glm4v.api_keys import new_key
from glm4v.broker import Connection, Keys
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.client import Client, Tls
from glm4v.errors import InvalidRequest, Unauthenticated, Unavailable, UnknownReference
from glm4v.local.cluster import is_serving
from glm4v.local.preflight import free_port
from glm4v.local.redis_server import RedisServer
from glm4v.process.tls import TlsFiles
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub
from tests.api_keys import add_key, revoke_keys
from tests.authority import Authority, trust, trusting
from tests.integration.gateway_bench import ScriptedWorker, length_end
from tests.integration.system import user
from tests.processes import until, wait_until

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass
class Gateways:
    """One that asks for keys and one that asks for certificates, with one Redis and TLS.

    Attributes:
        keys: The file of keys; `ann`, `bob` are keys of these names.
        server: Issued the certificate of both, which is in `tls`.
        clients: Issues the certificates of clients.
        by_key, by_certificate: Addresses of gRPC, then of HTTP.
        log: Of both processes.
    """

    folder: Path
    redis_url: str
    model: Path
    keys: Path
    ann: str
    bob: str
    server: Authority
    tls: TlsFiles
    clients: Authority
    by_key: tuple[str, str]
    by_certificate: tuple[str, str]
    log: Path

    def http(self, key: str | None = None, client: TlsFiles | None = None) -> httpx.AsyncClient:
        """A client of HTTP, with a key or a certificate."""
        target = self.by_key[1] if client is None else self.by_certificate[1]
        return httpx.AsyncClient(
            base_url=f"https://{target}",
            verify=trusting(self.server, client),
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=20,
        )

    def grpc(self, key: str | None = None, client: TlsFiles | None = None) -> Client:
        """The same of gRPC."""
        ca = self.folder / "server.crt"
        ca.write_bytes(self.server.pem)
        tls = Tls(ca, client.certificate, client.key) if client else Tls(ca)
        target = self.by_key[0] if client is None else self.by_certificate[0]
        return Client(target, api_key=key, tls=tls, retry_timeout_s=0.1)


@contextmanager
def process(variables: dict[str, object], log: Path) -> Iterator[tuple[str, str]]:
    """A gateway; yields where it serves gRPC and HTTP."""
    listen = [f"{HOST}:{free_port(HOST)}" for _ in range(2)]
    health = f"unix:{log.parent / listen[0].rpartition(':')[2]}"
    environment = {
        "GLM4V_LISTEN": listen[0],
        "GLM4V_HTTP_LISTEN": listen[1],
        "GLM4V_HEALTH_LISTEN": health,
        "GLM4V_LOG_LEVEL": "debug",
        "PYTHONPATH": ROOT,
        "PATH": os.environ["PATH"],
        **variables,
    }
    with log.open("ab") as output:
        running = subprocess.Popen(
            [sys.executable, "-m", "gateway"],
            env={name: str(value) for name, value in environment.items()},
            stderr=output,
        )
    try:
        wait_until(lambda: is_serving(health) or running.poll() is not None)
        yield listen[0], listen[1]
        running.terminate()
        assert running.wait(20) == 0
    finally:
        running.kill()
        running.wait()


@pytest.fixture(scope="module")
def gateways(checkpoint_dir: Callable[[str], Path]) -> Iterator[Gateways]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="glm4v-")))
        redis = stack.enter_context(RedisServer(folder / "redis", fsync="no"))
        server, clients, model = Authority(), Authority(), checkpoint_dir("micro-glm4v")
        tls, keys, log = server.issue(folder / "tls"), folder / "keys", folder / "log"
        (folder / "clients.crt").write_bytes(clients.pem)
        ann, bob = add_key(keys, "ann"), add_key(keys, "bob")
        common = {
            "GLM4V_MODEL": model,
            "GLM4V_REDIS_URL": redis.url,
            "GLM4V_TLS_CERT": tls.certificate,
            "GLM4V_TLS_KEY": tls.key,
        }
        by_key = stack.enter_context(process({**common, "GLM4V_API_KEYS": keys}, log))
        asks = {"GLM4V_TLS_CLIENT_CA": folder / "clients.crt"}
        by_certificate = stack.enter_context(process({**common, **asks}, log))
        yield Gateways(
            folder,
            redis.url,
            model,
            keys,
            ann,
            bob,
            server,
            tls,
            clients,
            by_key,
            by_certificate,
            log,
        )


@pytest.fixture
async def worker(gateways: Gateways) -> AsyncIterator[ScriptedWorker]:
    connection = Connection(gateways.redis_url)
    yield ScriptedWorker(connection, Keys(), Checkpoint.open(gateways.model).fingerprint)
    await connection.close()


def authorization(*keys: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}") for key in keys]


async def grpc_refusal(gateways: Gateways, metadata: list[tuple[str, str]]) -> str:
    """How a call with this metadata ends."""
    target, credentials = gateways.by_key[0], trust(gateways.server)
    async with aio.secure_channel(target, credentials) as channel:
        try:
            await InferenceServiceStub(channel).GetModel(
                api.GetModelRequest(), metadata=metadata, timeout=10
            )
        except aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "OK"


async def test_only_a_valid_key_is_let_in(gateways: Gateways) -> None:
    stranger = new_key()
    assert await grpc_refusal(gateways, authorization(gateways.ann)) == "OK"
    odd: list[list[tuple[str, str]]] = [
        [],
        authorization(stranger),
        [("authorization", "Bearer")],
        authorization(gateways.ann, gateways.ann),
        authorization(gateways.ann, stranger),
        [("authorization", gateways.ann)],
        [("x-api-key", gateways.ann)],
        authorization("x" * 7000),
    ]
    answers = set()
    async with gateways.http() as client:
        for headers in odd:
            answers.add(await grpc_refusal(gateways, headers))
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions")):
                answer = await client.request(method, path, headers=headers, json=CHAT)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                answers.add(answer.json()["error"]["message"])
        answer = await client.get("/metrics")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        open_to_all = ["/health", "/live", "/ready", "/openapi.json"]
        open_to_all += ["/v2/health/live", "/v2/health/ready"]
        assert {(await client.get(path)).status_code for path in open_to_all} == {200}
        for headers in (authorization(gateways.ann), [("AUTHORIZATION", f"bearer {gateways.ann}")]):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
        assert (await client.get("/metrics", headers=authorization(gateways.ann))).is_success
    assert answers == {f"UNAUTHENTICATED: {MESSAGE}", MESSAGE}
    async with aio.secure_channel(gateways.by_key[0], trust(gateways.server)) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        kserve: Any = GRPCInferenceServiceStub(channel)
        assert (await kserve.ServerLive(kserve_pb.ServerLiveRequest(), timeout=10)).live
        assert (await kserve.ServerReady(kserve_pb.ServerReadyRequest(), timeout=10)).ready
        with pytest.raises(aio.AioRpcError) as refused:
            await kserve.ServerMetadata(kserve_pb.ServerMetadataRequest(), timeout=10)
        assert refused.value.code() == StatusCode.UNAUTHENTICATED


async def test_each_request_of_a_connection_needs_its_key(gateways: Gateways) -> None:
    """Also when they are sent at once: the first one's key is nobody else's."""
    host, port = gateways.by_key[1].rsplit(":", 1)
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=trusting(gateways.server), server_hostname="localhost"
    )
    request = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n"
    key = f"authorization: Bearer {gateways.ann}\r\n"
    writer.write(f"{request}{key}\r\n{request}\r\n{request}{key}connection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    statuses = re.findall(rb"HTTP/1.1 (\d+)", answer)
    assert statuses == [b"200", b"401", b"200"]


async def test_a_key_is_rotated_and_streams_of_a_revoked_one_end_well(
    gateways: Gateways, worker: ScriptedWorker
) -> None:
    cid = add_key(gateways.keys, "cid")
    with gateways.grpc(cid) as client:
        async with gateways.http(cid) as http:
            await until(lambda: is_let_in(client))
            generation = await asyncio.to_thread(client.generate, [user("hello")])
            asking = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
            leases = [await worker.claim() for _ in range(2)]
            revoke_keys(gateways.keys, "cid")
            await until(lambda: not is_let_in(client))
            assert (await http.get("/v1/models")).status_code == 401
            with pytest.raises(Unauthenticated):
                client.cancel(generation.request_id)
            for lease in leases:
                await worker.say(lease, "\nanswer", length_end())
            assert await asyncio.to_thread(lambda: generation.text) == "answer"
            answer = (await asking).json()
            assert answer["choices"][0]["message"]["content"] == "answer"
        with pytest.raises(Unauthenticated):
            next(iter(client.attach(generation.request_id)))
    new = add_key(gateways.keys, "cid")
    with gateways.grpc(new) as client:
        await until(lambda: is_let_in(client))
        assert client.attach(generation.request_id).text == "answer"  # cid is who cid was


def is_let_in(client: Client) -> bool:
    try:
        return bool(client.get_model().fingerprint)
    except Unauthenticated:
        return False


async def test_the_command_sends_a_key_from_a_file_or_a_variable(gateways: Gateways) -> None:
    """It cancels a request that nobody has made, which is said to those who are let in."""
    key, ca = gateways.folder / "ann.key", gateways.folder / "server.crt"
    key.write_text(f"{gateways.ann}\n")
    ca.write_bytes(gateways.server.pem)

    async def cancel(*options: object, **variables: object) -> tuple[int | None, str]:
        target = f"https://{gateways.by_key[0]}"
        words = ["cancel", "none", "--server", target, "--tls-ca", ca, *options]
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from glm4v.cli import main; main()"),
            *map(str, words),
            env={name: str(value) for name, value in (os.environ | variables).items()},
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        _, errors = await running.communicate()
        return running.returncode, errors.decode()

    strange = gateways.folder / "strange.key"
    strange.write_text(new_key())
    let_in, refused, unreadable = await asyncio.gather(
        asyncio.gather(
            cancel("--api-key-file", key),
            cancel(GLM4V_API_KEY=gateways.ann),
            cancel(GLM4V_API_KEY_FILE=key),
            cancel("--api-key-file", key, GLM4V_API_KEY=new_key()),
        ),
        asyncio.gather(
            cancel(), cancel("--api-key-file", strange), cancel(GLM4V_API_KEY="two words")
        ),
        cancel("--api-key-file", gateways.folder / "absent"),
    )
    assert {(code, "none" in text and MESSAGE not in text) for code, text in let_in} == {(3, True)}
    assert [code for code, _ in refused] == [3] * 3
    assert refused[0][1] == refused[1][1] == f"glm4v: {MESSAGE}\n"
    assert "two words" not in refused[2][1]
    assert unreadable[0] == 2
    assert "absent: No such file" in unreadable[1]


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


async def test_what_belongs_to_another_caller_is_unknown_through_every_door(
    gateways: Gateways, worker: ScriptedWorker
) -> None:
    with gateways.grpc(gateways.ann) as ann, gateways.grpc(gateways.bob) as bob:
        generation = ann.generate([user("what?", png("red"))], request_id="of-ann")
        accepted = next(generation).accepted
        digest = accepted.image_digest
        for call in (
            lambda: next(iter(bob.attach("of-ann"))),
            lambda: bob.cancel("of-ann"),
            lambda: next(bob.generate([user("what?", digest=digest)])),
        ):
            with pytest.raises(UnknownReference):
                call()
        url = {"type": "image_url", "image_url": {"url": f"sha256:{digest}"}}
        by_digest = {"messages": [{"role": "user", "content": [url]}], "stream": True}
        async with gateways.http(gateways.bob) as http:
            at = {"last-event-id": "of-ann:0"}
            for headers, body in ((at, {**CHAT, "stream": True}), ({}, by_digest)):
                answer = await http.post("/v1/chat/completions", json=body, headers=headers)
                assert answer.status_code == 404
        assert ann.cancel("of-ann")


async def test_no_door_fetches_the_image_of_a_url(gateways: Gateways) -> None:
    url = "https://example.org/photo.jpg"
    part = {"type": "image_url", "image_url": {"url": url}}
    listed = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "what?"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": [part]}]},
        "/infer": {"inputs": listed},
        "/generate": {"inputs": f"![]({url})what?"},
        "/": {"inputs": f"![]({url})what?"},
        "/generate_stream": {"inputs": f"![]({url})what?"},
    }
    async with gateways.http(gateways.ann) as http:
        for path, body in bodies.items():
            answer = await http.post(path, json=body)
            assert 400 <= answer.status_code < 500, path
            assert "not fetched" in answer.text, (path, answer.text)
            assert "data:image" in answer.text
        answer = await http.post("/generate", json={"prompt": listed})
        assert "not fetched" in answer.text
    with gateways.grpc(gateways.ann) as client, pytest.raises(InvalidRequest, match="not fetched"):
        next(client.generate([user("what?", url.encode())]))


async def test_a_replaced_certificate_is_used_for_new_connections(gateways: Gateways) -> None:
    former, new = gateways.server, Authority()
    async with gateways.http(gateways.ann) as kept:
        assert (await kept.get("/v1/models")).status_code == 200
        files = new.issue(gateways.tls.certificate.parent)
        assert files == gateways.tls
        gateways.server = new
        with gateways.grpc(gateways.ann) as client:
            assert client.get_model().fingerprint
        async with gateways.http(gateways.ann) as http:
            assert (await http.get("/v1/models")).status_code == 200
        assert (await kept.get("/v1/models")).status_code == 200
    gateways.server = former
    async with gateways.http(gateways.ann) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/v1/models")
    gateways.server = new


async def test_a_certificate_is_demanded_and_names_its_holder(
    gateways: Gateways, worker: ScriptedWorker
) -> None:
    dan, eve = [gateways.clients.issue(gateways.folder / name, name) for name in ("dan", "eve")]
    stranger = Authority().issue(gateways.folder / "stranger", "dan")
    async with gateways.http(client=stranger) as http:
        with pytest.raises(httpx.TransportError):
            await http.get("/health")
    with gateways.grpc(client=stranger) as client, pytest.raises(Unavailable):
        client.get_model()
    with gateways.grpc(client=dan) as client:
        generation = client.generate([user("hello")], request_id="of-dan")
        next(generation)
        lease = await worker.claim()
        assert "CN=dan" in (await worker.job(lease)).owner
        await worker.say(lease, "\nanswer", length_end())
        headers, body = {"last-event-id": "of-dan:0"}, {**CHAT, "stream": True}
        for holder, status in ((dan, 200), (eve, 404)):
            async with gateways.http(client=holder) as http:
                answer = await http.post("/v1/chat/completions", json=body, headers=headers)
                assert answer.status_code == status
        assert generation.text == "answer"


def test_no_key_is_in_the_log(gateways: Gateways) -> None:
    """The last test: the log has what the others left in it."""
    log = gateways.log.read_text()
    assert "API keys reloaded" in log
    assert "glm4v_" not in log
    for key in (gateways.ann, gateways.bob):
        assert key not in log
