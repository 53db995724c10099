"""The supervisor and the cluster around it, with small scripted programs and real signals."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from glm4v.checkpoint.demo import DEMO_MODEL
from glm4v.errors import (
    CheckpointError,
    ConfigurationError,
    Glm4vError,
    InvalidRequest,
    Unavailable,
)
from glm4v.local import supervisor as supervisor_module
from glm4v.local.child import Program
from glm4v.local.cluster import ClusterSettings, LocalCluster, is_serving
from glm4v.local.environment import threads_each
from glm4v.local.preflight import lock_folder
from glm4v.local.supervisor import Supervisor
from tests.processes import is_running, state, wait_until

# Serves health like our processes do: GLM4V_LISTEN, SERVING, SIGTERM ends it.
SERVE = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
server = grpc.server(ThreadPoolExecutor(2))
servicer = health.HealthServicer()
servicer.set("", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port(os.environ["GLM4V_LISTEN"])
server.start()
print("serving", flush=True)
signal.sigwait([signal.SIGTERM])
print("bye", flush=True)
os._exit(0)
"""


class Lines(list[tuple[str, str]]):
    """What was shown, in order."""

    def show(self, name: str, line: str) -> None:
        self.append((name, line))

    def of(self, name: str) -> list[str]:
        return [line for each, line in self if each == name]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="glm4v-") as name:
        yield Path(name)


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def supervised(lines: Lines) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(lines.show)
    yield supervisor
    await supervisor.stop()


def script(name: str, code: str, *, ready: bool = True, stop_s: float = 10.0) -> Program:
    command = (sys.executable, "-u", "-c", code)
    return Program(name, command, os.environ, lambda: ready, stop_s)


def server(name: str, socket_path: Path) -> Program:
    listen = f"unix:{socket_path}"
    command = (sys.executable, "-c", SERVE)
    environment = {**os.environ, "GLM4V_LISTEN": listen}
    return Program(name, command, environment, lambda: is_serving(listen))


FOREVER = "import time\nprint('here')\ntime.sleep(60)"


async def until(is_so: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, is_so)


async def test_ready_means_that_health_answers_serving(
    supervised: Supervisor, folder: Path
) -> None:
    assert not is_serving(f"unix:{folder / 'a.sock'}")
    await supervised.start(server("a", folder / "a.sock"), server("b", folder / "b.sock"))
    await supervised.ready(30)
    assert is_serving(f"unix:{folder / 'a.sock'}")
    assert is_serving(f"unix:{folder / 'b.sock'}")


async def test_a_killed_process_is_started_again_on_its_stale_socket(
    supervised: Supervisor, lines: Lines, folder: Path
) -> None:
    path = folder / "a.sock"
    await supervised.start(server("a", path))
    await supervised.ready(30)
    first = supervised.process("a").pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervised.process("a").pid != first)
    assert path.exists()
    await until(lambda: is_serving(f"unix:{path}"))
    assert lines.of("glm4v") == ["a ended by SIGKILL; restarting in 0.2 s"]


async def test_without_restart_a_dead_process_stays_dead(lines: Lines) -> None:
    supervisor = Supervisor(lines.show, restart=False)
    await supervisor.start(script("a", FOREVER))
    await supervisor.ready(10)
    os.kill(supervisor.process("a").pid, signal.SIGKILL)
    await until(lambda: lines.of("glm4v") == ["a ended by SIGKILL"])
    assert not supervisor.process("a").is_running
    await supervisor.stop()


async def test_a_process_that_keeps_dying_ends_everything_with_its_last_words(
    supervised: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_FIRST_DELAY_S", 0.01)
    await supervised.start(script("a", "import time; time.sleep(1); raise SystemExit('out of it')"))
    await supervised.ready(10)
    with anyio.fail_after(60), pytest.raises(Glm4vError) as caught:
        await supervised.failed()
    assert str(caught.value) == (
        "a ended with exit code 1, after 5 restarts within 60 s; last log line: out of it"
    )
    assert caught.value.exit_code == 1


async def test_what_dies_while_it_starts_is_not_tried_again(
    supervised: Supervisor, lines: Lines
) -> None:
    await supervised.start(script("a", "raise SystemExit('no such thing')", ready=False))
    with pytest.raises(
        Glm4vError, match=r"^a ended with exit code 1 during startup.*no such thing$"
    ):
        await supervised.ready(30)
    assert lines.of("glm4v") == []


@pytest.mark.parametrize(
    ("code", "kind"), [(2, ConfigurationError), (3, InvalidRequest), (4, CheckpointError)]
)
async def test_the_exit_code_of_a_failed_start_names_the_error(
    supervised: Supervisor, code: int, kind: type[Glm4vError]
) -> None:
    program = f"import sys; print('error: a.bin: torn', file=sys.stderr); sys.exit({code})"
    await supervised.start(script("lm_worker", program, ready=False))
    with pytest.raises(kind, match=r"^lm_worker: a\.bin: torn$"):
        await supervised.ready(30)


async def test_a_process_that_is_never_ready_is_given_up_with_its_last_words(
    supervised: Supervisor,
) -> None:
    await supervised.start(script("a", FOREVER, ready=False))
    with pytest.raises(Unavailable, match=r"a was not ready after 1 s; last log line: here$"):
        await supervised.ready(1)


@pytest.fixture
async def watchful(lines: Lines) -> AsyncIterator[Supervisor]:
    """One that looks often."""
    supervisor = Supervisor(lines.show, check_every_s=0.05)
    yield supervisor
    await supervisor.stop()


def watched(
    folder: Path, code: str = FOREVER, *, silent_s: float = 60, start_s: float = 60
) -> Program:
    """Ready for as long as a file is there."""
    (folder / "ready").touch()
    is_ready = (folder / "ready").exists
    return replace(script("a", code), is_ready=is_ready, silent_s=silent_s, start_s=start_s)


async def test_what_runs_and_is_not_ready_any_more_is_killed_and_started_again(
    watchful: Supervisor, lines: Lines, folder: Path
) -> None:
    await watchful.start(watched(folder, silent_s=0.3))
    await watchful.ready(10)
    first = watchful.process("a").pid
    (folder / "ready").unlink()
    await until(lambda: watchful.process("a").pid != first)
    assert not is_running(first)
    assert lines.of("glm4v") == [
        "a was not ready for 0.3 s; killing it",
        "a ended by SIGKILL; restarting in 0.2 s",
    ]


async def test_a_child_that_was_stopped_from_outside_is_killed_in_the_end(
    watchful: Supervisor, folder: Path
) -> None:
    path = folder / "a.sock"
    program = replace(server("a", path), silent_s=0.3)
    await watchful.start(program)
    await watchful.ready(30)
    first = watchful.process("a").pid
    os.kill(first, signal.SIGSTOP)
    await until(lambda: watchful.process("a").pid != first)
    await until(lambda: is_serving(f"unix:{path}"))


async def test_a_short_silence_is_forgiven(
    watchful: Supervisor, lines: Lines, folder: Path
) -> None:
    asked = 0

    def is_ready() -> bool:
        nonlocal asked
        asked += 1
        return asked % 4 == 0  # three times in a row not

    program = replace(watched(folder, silent_s=0.2), is_ready=is_ready)
    await watchful.start(program)
    await watchful.ready(10)
    await until(lambda: asked > 24)
    assert lines.of("glm4v") == []


async def test_one_that_loads_after_a_restart_has_the_time_of_a_start(
    watchful: Supervisor, lines: Lines, folder: Path
) -> None:
    lives: set[int] = set()

    def is_first_life() -> bool:
        lives.add(watchful.process("a").pid)
        return len(lives) == 1

    program = replace(watched(folder, silent_s=0.1, start_s=1.0), is_ready=is_first_life)
    await watchful.start(program)
    await watchful.ready(10)
    os.kill(watchful.process("a").pid, signal.SIGKILL)
    await until(lambda: len(lines.of("glm4v")) >= 2)
    assert lines.of("glm4v")[1] == "a was not ready for 1 s; killing it"


async def test_all_are_suspended_and_go_on(watchful: Supervisor, folder: Path) -> None:
    code = "import subprocess, time\nprint(subprocess.Popen(['sleep', '60']).pid)\ntime.sleep(60)"
    await watchful.start(watched(folder, code))
    await watchful.ready(10)
    await until(lambda: bool(watchful.process("a").last_lines))
    pids = [watchful.process("a").pid, int(watchful.process("a").last_lines[0])]
    watchful.send_signal(signal.SIGSTOP)
    await until(lambda: [state(pid) for pid in pids] == ["T", "T"])
    watchful.send_signal(signal.SIGCONT)
    await until(lambda: "T" not in [state(pid) for pid in pids])


async def test_stages_stop_in_reverse_order(lines: Lines) -> None:
    supervisor = Supervisor(lines.show)
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), print('bye'), sys.exit()))\n"
        "print('here'); time.sleep(60)"
    )
    for name in ("redis", "lm_worker", "gateway"):
        await supervisor.start(script(name, code))
    await until(lambda: len(lines) == 3)
    await supervisor.stop()
    assert [name for name, line in lines if line == "bye"] == ["gateway", "lm_worker", "redis"]


async def test_who_ignores_sigterm_is_killed_with_all_it_started(lines: Lines) -> None:
    supervisor = Supervisor(lines.show)
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen(['sleep', '60']).pid); time.sleep(60)"
    )
    await supervisor.start(script("a", code, stop_s=0.2))
    await until(lambda: bool(lines.of("a")))
    pid, grandchild = supervisor.process("a").pid, int(lines.of("a")[0])
    await supervisor.stop()
    assert not is_running(pid)
    wait_until(lambda: not is_running(grandchild))
    assert lines.of("a")[-1] == "did not stop within 0.2 s; killing it"


async def test_what_a_dead_process_had_started_dies_with_it(
    supervised: Supervisor, lines: Lines
) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    await supervised.start(script("a", code, ready=False))
    with pytest.raises(Glm4vError, match=r"^a ended with exit code 0"):
        await supervised.ready(30)
    await until(lambda: not is_running(int(lines.of("a")[0])))


async def test_who_left_the_group_and_holds_the_output_is_not_waited_for(
    supervised: Supervisor, lines: Lines
) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid)"
    await supervised.start(script("a", code, ready=False))
    with pytest.raises(Glm4vError, match=r"^a ended with exit code 0"):
        await supervised.ready(30)
    os.kill(int(lines.of("a")[0]), signal.SIGKILL)


async def test_a_line_without_end_and_broken_utf8_are_passed_on(
    supervised: Supervisor, lines: Lines
) -> None:
    code = "import sys; sys.stdout.buffer.write(b'\\xff' + b'x' * 200_000 + b'\\nlast')"
    await supervised.start(script("a", code, ready=False))
    with pytest.raises(Glm4vError):
        await supervised.ready(20)
    assert "".join(lines.of("a")) == "\ufffd" + "x" * 200_000 + "last"
    assert lines.of("a")[-1] == "last"


def test_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_each(1) == cores
    assert threads_each(cores + 1) == 1


async def test_a_port_in_use_is_refused_before_anything_starts(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            Unavailable, match=rf"^port {port} of 127.0.0.1 cannot be used \(Add.*--port"
        ):
            async with LocalCluster(ClusterSettings(DEMO_MODEL, port=port)):
                pytest.fail("it started")


async def test_a_missing_model_folder_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="absent: no such directory"):
        async with LocalCluster(ClusterSettings(folder / "absent")):
            pytest.fail("it started")


async def test_a_data_folder_serves_one_cluster_at_a_time(folder: Path) -> None:
    with lock_folder(folder), pytest.raises(Unavailable, match="in use by another"):
        async with LocalCluster(ClusterSettings(DEMO_MODEL, data_dir=folder)):
            pytest.fail("it started")
