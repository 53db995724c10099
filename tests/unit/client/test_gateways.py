"""Clients that know several gateways, which share their requests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from threading import Thread

import grpc
import pytest

from glm4v.client import AsyncClient, Client, channel
from glm4v.client.gateways import Gateways
from glm4v.client.messages import user_message
from glm4v.errors import InvalidRequest, Unavailable
from tests.gateway_process import gateway_process
from tests.scripted_gateway import ScriptedGateway, serving, whole

QUESTION = [user_message("?")]


@pytest.fixture(autouse=True)
def starts_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glm4v.client.gateways.randrange", lambda _: 0)


@pytest.fixture
def three() -> Iterator[tuple[list[ScriptedGateway], list[str]]]:
    """Three gateways, and where they listen."""
    gateways = [ScriptedGateway([]) for _ in range(3)]
    with ExitStack() as stack:
        yield gateways, [stack.enter_context(serving(gateway))[0] for gateway in gateways]


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_each_break_leads_to_the_next_gateway(
    three: tuple[list[ScriptedGateway], list[str]],
) -> None:
    gateways, targets = three
    for gateway, sent in zip(gateways, ([3, 2], [4], [1]), strict=True):
        gateway.breaks = sent
    with Client(*targets) as client, client.generate(QUESTION) as generation:
        assert list(generation) == whole(generation.request_id)
    assert [[call[0] for call in gateway.calls] for gateway in gateways] == [
        ["generate", "attach"],
        ["attach", "attach"],  # the first gateway failed again
        ["attach"],
    ]


async def test_the_same_with_asyncio(three: tuple[list[ScriptedGateway], list[str]]) -> None:
    gateways, targets = three
    gateways[0].breaks, gateways[1].breaks = [3], [4]
    async with AsyncClient(*targets) as client, client.generate(QUESTION) as generation:
        assert [event async for event in generation] == whole(generation.request_id)
    assert [len(gateway.calls) for gateway in gateways] == [1, 1, 1]


def test_a_client_stays_with_the_gateway_that_answers(
    three: tuple[list[ScriptedGateway], list[str]],
) -> None:
    gateways, targets = three
    with Client(free_port(), *targets) as client:
        for _ in range(4):
            assert client.generate(QUESTION).text
        assert client.get_model().name == "micro"
    assert [len(gateway.calls) for gateway in gateways] == [4, 0, 0]


def test_all_addresses_are_tried_before_connect_gives_up(
    three: tuple[list[ScriptedGateway], list[str]],
) -> None:
    nobody = [free_port(), free_port()]
    with Client(*nobody, three[1][0]) as client:
        client.connect(0.9)
    with Client(*nobody) as client, pytest.raises(Unavailable, match="refused"):
        client.connect(0.4)


def test_many_calls_that_fail_at_once_leave_a_gateway_once() -> None:
    gateways = Gateways(["a", "b", "c"], str, str)
    left = gateways.current().target
    threads = [Thread(target=gateways.leave, args=(left,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gateways.current().target == "b"


def test_clients_spread_over_all_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    firsts = {Gateways(["a", "b", "c"], str, str).current().target for _ in range(200)}
    assert firsts == {"a", "b", "c"}


def test_a_frozen_gateway_is_left_before_it_has_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections, because the kernel does, and never answers."""
    monkeypatch.setattr(channel, "KEEPALIVE_MS", 500)
    monkeypatch.setattr(channel, "PING_TIMEOUT_MS", 500)
    monkeypatch.setattr(channel, "_CONNECT_MS", 1000)
    with (
        gateway_process(pause_s=1000) as (first, process),
        serving(ScriptedGateway([])) as (second, _),
        Client(first, second, retry_timeout_s=0.2) as client,
    ):
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        assert client.get_model().name == "micro"
        assert client.generate(QUESTION).text
    assert time.monotonic() - started < 10


def test_a_gateway_that_restarts_all_the_time_is_survived() -> None:
    """One address; each life of the gateway sends one new event or none."""
    gateway = ScriptedGateway([0, 1, 0, 2, 1, 5, 2])
    port = int(free_port().rpartition(":")[2])
    with ExitStack() as stack, Client(f"127.0.0.1:{port}") as client:
        stack.enter_context(serving(gateway, port))
        with client.generate(QUESTION) as generation:
            assert list(generation) == whole(generation.request_id)
    offsets = [offset for call, _, offset in gateway.calls if call == "attach"]
    assert all(before <= after for before, after in pairwise(offsets))


def test_a_forked_process_is_told_to_open_its_own_client() -> None:
    """gRPC lets it use the connection of its parent, so that two processes write to one socket."""
    with serving(ScriptedGateway([])) as (target, _):
        code = (
            "import os, sys\n"
            "from glm4v.client import Client\n"
            "client = Client(sys.argv[1]); client.get_model()\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    try: client.get_model()\n"
            "    except Exception as error: print(type(error).__name__, error, flush=True)\n"
            "    os._exit(0)\n"
            "os.waitpid(pid, 0)\n"
            "print(client.get_model().name)\n"
        )
        done = run(code, target)
    assert "InvalidRequest this client was opened in process" in done.stdout
    assert done.stdout.endswith("micro\n"), done.stderr


@pytest.mark.parametrize("reads", [1, 6])
def test_a_process_with_an_open_stream_ends(reads: int) -> None:
    gateway = ScriptedGateway([6])
    gateway.hangs = True
    code = (
        "import sys\n"
        "from glm4v.client import Client, user_message\n"
        "client = Client(sys.argv[1])\n"
        "answer = client.generate([user_message('?')])\n"
        f"for _ in range({reads}): next(answer)\n"
    )
    with serving(gateway) as (target, _):
        done = run(code, target)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_event_loop_with_an_open_stream_ends() -> None:
    gateway = ScriptedGateway([6])
    gateway.hangs = True
    code = (
        "import asyncio, sys\n"
        "from glm4v.client import AsyncClient, user_message\n"
        "async def main():\n"
        "    client = AsyncClient(sys.argv[1])\n"
        "    answer = client.generate([user_message('?')])\n"
        "    await anext(answer)\n"
        "    asyncio.create_task(answer.text())\n"
        "    await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
    )
    with serving(gateway) as (target, _):
        done = run(code, target)
    assert (done.returncode, done.stderr) == (0, "")


def run(code: str, target: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, target],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


def test_threads_share_a_client() -> None:
    gateway = ScriptedGateway([3, 5, 0, 7])
    texts: list[str] = []
    with serving(gateway) as (target, _), Client(target) as client:
        threads = [
            Thread(target=lambda: texts.append(client.generate(QUESTION).text)) for _ in range(50)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(texts) == 50
    assert len(set(texts)) == 1


def test_a_closed_client_says_so() -> None:
    client = Client()
    client.close()
    for ask in (client.get_model, lambda: client.generate(QUESTION)):
        with pytest.raises(InvalidRequest, match="this client is closed; open another one"):
            ask()


def test_grpc_is_asked_for_one_connection_per_gateway(
    three: tuple[list[ScriptedGateway], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    insecure_channel = grpc.insecure_channel

    def record(target: str, options: list[tuple[str, int]]) -> grpc.Channel:
        opened.append(target)
        return insecure_channel(target, options=options)

    monkeypatch.setattr(grpc, "insecure_channel", record)
    with Client(*three[1]) as client:
        for _ in range(3):
            client.get_model()
    assert opened == three[1][:1]
