"""The client and gateways with real proxies between them: each answer whole, each token once."""

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from glm4v.client import Client
from glm4v.client.messages import user_message
from glm4v.errors import Glm4vError, InvalidRequest, Unavailable
from tests.gateway_process import SENT, gateway_process
from tests.proxies import PROXIES, SILENCE_S, running
from tests.scripted_gateway import whole

NEVER_S = 1000.0
MARKS = {
    "nginx": pytest.mark.needs_nginx,
    "haproxy": pytest.mark.needs_haproxy,
}
EACH = [pytest.param(name, marks=MARKS.get(name, pytest.mark.needs_proxies)) for name in PROXIES]


Start = Callable[[float, float], "Gateways"]


class Gateways:
    """Two scripted gateways, each a process."""

    def __init__(self, stack: ExitStack, pause_s: float, remind_s: float) -> None:
        self.targets: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []
        for _ in range(2):
            running = gateway_process(pause_s=pause_s, remind_s=remind_s)
            target, process = stack.enter_context(running)
            self.targets.append(target)
            self._processes.append(process)

    def signal_generating(self, number: signal.Signals) -> None:
        """To the one that has begun an answer."""
        for process in self._processes:
            if _calls(process):
                os.kill(process.pid, number)
                return
        raise AssertionError("none has begun an answer")

    def calls(self) -> list[str]:
        """Names of the calls that were not told before."""
        return [call for process in self._processes for call in _calls(process)]


def _calls(process: subprocess.Popen[str]) -> list[str]:
    found = []
    assert process.stdout is not None
    while select.select([process.stdout], [], [], 0)[0] and (line := process.stdout.readline()):
        found.append(line.strip())
    return found


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        yield partial(Gateways, stack)


@pytest.mark.parametrize("name", EACH)
def test_a_gateway_that_is_killed_while_it_answers(name: str, start: Start, tmp_path: Path) -> None:
    gateways = start(NEVER_S, NEVER_S)
    with running(name, gateways.targets, tmp_path) as target, Client(target) as client:
        check_an_answer_that_meets(signal.SIGKILL, client, gateways)


@pytest.mark.parametrize("name", EACH)
def test_a_quiet_answer_outlives_the_timers_and_a_frozen_gateway_does_not(
    name: str, start: Start, tmp_path: Path
) -> None:
    gateways = start(1.8 * SILENCE_S, SILENCE_S / 5)
    with running(name, gateways.targets, tmp_path) as target, Client(target) as client:
        generation = client.generate([user_message("?")], timeout_s=60)
        assert list(generation) == whole(generation.request_id)
        assert gateways.calls() == ["generate"]  # in one stream
        check_an_answer_that_meets(signal.SIGSTOP, client, gateways)


def check_an_answer_that_meets(number: signal.Signals, client: Client, gateways: Gateways) -> None:
    with client.generate([user_message("?")], timeout_s=60) as generation:
        events = [next(generation) for _ in range(SENT)]
        gateways.signal_generating(number)
        events += generation
    assert events == whole(generation.request_id)
    assert "attach" in gateways.calls()


@pytest.mark.needs_nginx
def test_a_proxy_that_takes_no_large_messages_is_named(start: Start, tmp_path: Path) -> None:
    gateways = start(0, NEVER_S)
    default = {"client_max_body_size 48m": "client_max_body_size 1m"}
    with running("nginx", gateways.targets, tmp_path, default) as target, Client(target) as client:
        kinds: tuple[type[Glm4vError], ...] = (InvalidRequest,)
        for megabytes in (2, 16):
            image = [user_message("?", bytes(megabytes * 2**20))]
            with pytest.raises(kinds, match="client_max_body_size"):
                client.count_tokens(image)
            with pytest.raises(kinds, match="client_max_body_size"):
                list(client.generate(image))
            kinds += (Unavailable,)  # nginx may end the connection before it has said why
    assert gateways.calls() == []
