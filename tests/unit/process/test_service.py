"""The host of a process: readiness, signals, errors as statuses, a task that dies."""

import fcntl
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from glm4v.status import is_marked
from tests.processes import wait_until

PROGRAM = """
import asyncio, sys
from glm4v.process import server_options
from glm4v.errors import InvalidRequest, Unavailable
from glm4v.process.grpc_listener import GrpcListener
from glm4v.process.service import Process, main
from glm4v.process.settings import GatewaySettings
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import (
    InferenceServiceServicer, add_InferenceServiceServicer_to_server,
)

class Servicer(InferenceServiceServicer):
    async def GetModel(self, request, context):
        raise InvalidRequest("no; send 1 to 3")
    async def CountTokens(self, request, context):
        raise RuntimeError("the secret is 42")
    async def Cancel(self, request, context):
        raise InvalidRequest("seen: " + "图" * 100_000 + "\\udcff; send less")
    async def Generate(self, request, context):
        yield api.GenerateResponse()
        raise Unavailable("gone; attach again")

def register(server, health):
    add_InferenceServiceServicer_to_server(Servicer(), server)
    return ["glm4v.v1.InferenceService"]

def build(settings):
    tries = []
    async def ready():
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("not yet")
    async def part():
        await process.stopping.wait()
        BEHAVIOUR
    listener = GrpcListener(settings.listen, register=register)
    process = Process(ready=ready, listeners=[listener], tasks=[part])
    process.metrics.counter("glm4v_tries_total", "Tries.", lambda: len(tries))
    process.metrics.gauge("glm4v_broken", "Raises.", lambda: 1 / 0)
    process.metrics.info("glm4v_worker_info", "Who it is.", {"consumer": "one"})
    return process

server_options.MIN_PING_MS = 500
main(GatewaySettings, build)
"""
ROOT = Path(__file__).resolve().parents[3]

HANG = "print('draining', flush=True); await asyncio.sleep(1000)"


class Start(Protocol):
    """Starts a process that does as told once it is asked to stop."""

    def __call__(self, behaviour: str, **variables: str) -> "subprocess.Popen[str]": ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """See `Start`."""
    started: list[subprocess.Popen[str]] = []

    def start(behaviour: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("BEHAVIOUR", behaviour)],
            env={
                "GLM4V_MODEL": "model",
                "GLM4V_LISTEN": f"unix:{tmp_path / 'socket'}",
                "GLM4V_HEALTH_LISTEN": f"unix:{tmp_path / 'health'}",
                "GLM4V_DRAIN_TIMEOUT_S": "1",
                "PYTHONPATH": str(ROOT),
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        wait_until(lambda: is_serving(tmp_path) or process.poll() is not None)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None  # both are pipes
            stream.close()


def is_serving(folder: Path) -> bool:
    """Whether the process says it serves."""
    with grpc.insecure_channel(f"unix:{folder / 'socket'}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def call(folder: Path, method: str, request: bytes = b"") -> grpc.RpcError:
    """The error a call of the program's servicer ends with."""
    with grpc.insecure_channel(f"unix:{folder / 'socket'}") as channel:
        invoke: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            f"/glm4v.v1.InferenceService/{method}"
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(invoke(request, timeout=20))
    return caught.value


def test_our_errors_become_statuses_and_bugs_stay_in_the_log(start: Start, tmp_path: Path) -> None:
    process = start("pass")
    ours = call(tmp_path, "GetModel")
    assert (ours.code(), ours.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "no; send 1 to 3",
    )
    assert call(tmp_path, "Generate").code() == grpc.StatusCode.UNAVAILABLE
    bug = call(tmp_path, "CountTokens")
    assert bug.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in str(bug.details())
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert "the secret is 42" in log
    assert process.returncode == 0


def test_bytes_that_are_no_message_are_the_callers_error(start: Start, tmp_path: Path) -> None:
    start("pass")
    for method in ("GetModel", "Generate"):
        error = call(tmp_path, method, b"\xff\xff\xff")
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_long_text_arrives_shortened_and_keeps_its_status(start: Start, tmp_path: Path) -> None:
    start("pass")
    error = call(tmp_path, "Cancel")
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith("seen: 图图")
    assert str(error.details()).endswith("图?; send less")


def test_what_a_process_decides_is_marked(start: Start, tmp_path: Path) -> None:
    start("pass")
    for method in ("GetModel", "CountTokens", "Generate"):
        assert is_marked(call(tmp_path, method).trailing_metadata())
    assert not is_marked(call(tmp_path, "NoSuchMethod").trailing_metadata())


def test_reflection_refuses_bytes_that_are_no_message(start: Start, tmp_path: Path) -> None:
    start("pass")
    with grpc.insecure_channel(f"unix:{tmp_path / 'socket'}") as channel:
        ask: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
        )
        list_services = b"\x3a\x00"  # the field of that name, empty
        call = ask(iter([list_services, b"\xff\xff\xff"]), timeout=20)
        assert b"glm4v.v1.InferenceService" in next(call)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_health_has_a_listener_of_its_own(start: Start, tmp_path: Path) -> None:
    start("pass")
    with grpc.insecure_channel(f"unix:{tmp_path / 'health'}") as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        other: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/glm4v.v1.InferenceService/GetModel"
        )
        with pytest.raises(grpc.RpcError) as caught:
            other(b"", timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_metrics_are_read_over_http(start: Start, tmp_path: Path) -> None:
    start("pass", GLM4V_METRICS_LISTEN=f"unix:{tmp_path / 'metrics'}")
    transport = httpx.HTTPTransport(uds=str(tmp_path / "metrics"))
    with httpx.Client(transport=transport, base_url="http://service", timeout=20) as client:
        reply = client.get("/metrics")
        assert client.get("/").status_code == 404
        assert client.post("/metrics").status_code == 405
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "glm4v_tries_total 3.0\n" in reply.text  # the one that cannot be read hides no other
    assert 'glm4v_worker_info{consumer="one"} 1.0\n' in reply.text
    assert "glm4v_broken" not in reply.text


@pytest.mark.parametrize(
    "variable", ["GLM4V_LISTEN", "GLM4V_HEALTH_LISTEN", "GLM4V_METRICS_LISTEN"]
)
def test_an_address_in_use_is_said_in_one_line_with_its_variable(
    start: Start, variable: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start("pass", **{variable: address})
        _, log = process.communicate(timeout=30)
    assert process.returncode == 5
    assert log == (
        f"error: cannot listen on {address} (Address already in use); "
        f"set {variable} to another address\n"
    )


@pytest.mark.parametrize("address", ["8330", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536"])
def test_what_is_no_address_to_listen_on_is_refused(start: Start, address: str) -> None:
    process = start("pass", GLM4V_LISTEN=address)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 2
    assert log == f"error: GLM4V_LISTEN is '{address}'; HOST:PORT or unix:/PATH is allowed\n"


def test_what_a_process_waits_for_is_logged_once(start: Start) -> None:
    process = start("pass")  # it is ready at the third try
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert log.count("not ready: not yet") == 1


def test_a_quiet_stream_may_be_pinged(start: Start, tmp_path: Path) -> None:
    start("pass")  # it allows a ping every half second, as shipped every five
    pings = [
        ("grpc.keepalive_time_ms", 1000),  # gRPC pings no more often
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(f"unix:{tmp_path / 'socket'}", pings) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=4))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED, caught.value


def test_a_part_that_dies_ends_the_process_with_its_error(start: Start) -> None:
    process = start('raise Unavailable("the device is gone")')
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 5, log
    assert log.splitlines()[-1] == "error: the device is gone"


def test_the_reason_is_found_in_what_a_task_group_raises(start: Start) -> None:
    process = start(
        "import anyio\n        async with anyio.create_task_group():"
        "\n            raise Unavailable('deep down')"
    )
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 5, log
    assert log.splitlines()[-1] == "error: deep down"


def test_a_part_that_does_not_return_is_left_after_the_drain(start: Start) -> None:
    process = start("await asyncio.sleep(1000)")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_forces(start: Start, first: signal.Signals) -> None:
    process = start(HANG, GLM4V_DRAIN_TIMEOUT_S="60")
    process.send_signal(first)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130


def test_a_terminal_that_is_closed_may_say_so_twice(start: Start) -> None:
    process = start(HANG, GLM4V_DRAIN_TIMEOUT_S="1")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0


def test_who_is_started_with_nohup_does_not_hear_of_the_terminal(start: Start) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # children inherit it
    try:
        process = start("pass")
    finally:
        signal.signal(signal.SIGHUP, former)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    assert process.wait(20) == 0


def test_a_thread_that_computes_on_does_not_keep_a_process_that_has_stopped(start: Start) -> None:
    hang = "import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()"
    process = start(hang)
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert log.splitlines()[-1].endswith("stopped")


def test_a_log_that_is_not_read_holds_up_nobody(start: Start, tmp_path: Path) -> None:
    process = start("pass")
    assert process.stderr is not None
    fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
    for _ in range(20):  # each logs a trace
        error = call(tmp_path, "CountTokens")
        assert error.code() == grpc.StatusCode.INTERNAL
    process.terminate()
    assert process.wait(20) == 0


def test_a_log_that_nobody_reads_any_more_ends_nothing(start: Start, tmp_path: Path) -> None:
    process = start("pass")
    assert process.stderr is not None
    process.stderr.close()
    assert call(tmp_path, "CountTokens").code() == grpc.StatusCode.INTERNAL  # which is logged
    assert is_serving(tmp_path)
    process.terminate()
    assert process.wait(20) == 0
