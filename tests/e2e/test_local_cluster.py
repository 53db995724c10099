"""The whole system on one machine, as `glm4v up` and `glm4v demo` run it, and how it ends."""

import asyncio
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from glm4v.checkpoint.demo import demo_examples
from glm4v.checkpoint.tiny import write_tiny
from glm4v.client import Client
from glm4v.client.generation import Generation
from glm4v.client.messages import user_message
from glm4v.client.options import GenerateOptions
from glm4v.errors import CheckpointError
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.v1 import inference_pb2 as pb
from tests.processes import children, is_running, state, wait_until

ROOT = Path(__file__).resolve().parents[2]
GLM4V = (sys.executable, "-m", "glm4v.cli")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny(folder)
    return folder


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where processes of a test make their temporary folders; short, for their sockets, and odd."""
    folder = tmp_path_factory.mktemp("t") / "a#b%20?c d"
    folder.mkdir()
    return folder


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def environment(temporary: Path) -> dict[str, str]:
    # torch keeps a cache of its own in the folder for temporary files, for the next process.
    cache = str(temporary.parent / "torch cache")
    paths = {"TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    return {**os.environ, **paths}


@contextmanager
def up(model: Path, temporary: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """`glm4v up`, ready; nobody reads its log, which ends nothing."""
    words = (*GLM4V, "up", "--model", str(model), "--port", str(port), "--http-port", "0")
    with subprocess.Popen(
        words,
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.close()
        try:
            assert process.stdout.readline().startswith("glm4v is ready")
            yield process
        finally:
            process.kill()


def test_demo_shows_the_answers_and_leaves_nothing(temporary: Path) -> None:
    done = subprocess.run(
        (*GLM4V, "demo"), env=environment(temporary), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = re.findall(r"^  > (.+)\n    (.+?)   \(\d+ tokens in", done.stdout, flags=re.MULTILINE)
    assert said == [turn for example in demo_examples() for turn in example.turns]
    assert list(temporary.iterdir()) == []


def test_demo_of_another_checkpoint(model: Path, temporary: Path) -> None:
    done = subprocess.run(
        (*GLM4V, "demo", "--model", str(model)),
        env=environment(temporary),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tokens in") == sum(len(each.turns) for each in demo_examples())


def test_up_answers_and_one_interrupt_stops_everything(model: Path, temporary: Path) -> None:
    port = free_port()
    with up(model, temporary, port) as process:
        pids = children(process.pid)
        assert len(pids) >= 4  # with helpers of workers
        words = (
            "ask",
            "你好",
            "--server",
            f"127.0.0.1:{port}",
            "--max-tokens",
            "5",
            "--ignore-eos",
        )
        done = subprocess.run(
            (*GLM4V, *words), env=environment(temporary), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "5 tokens in" in done.stderr
        done = subprocess.run(
            (*GLM4V, "dead", "list"), env=environment(temporary), capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not any(is_running(pid) for pid in pids)
    assert list(temporary.iterdir()) == []


def test_a_second_interrupt_does_not_wait_for_a_worker_that_hangs(
    model: Path, temporary: Path
) -> None:
    with up(model, temporary, free_port()) as process:
        pids = children(process.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # from here on none of them can end by itself
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130  # the gateway alone would be waited for 15 s
    assert not any(is_running(pid) for pid in pids)


def test_killing_up_leaves_no_orphan(model: Path, temporary: Path) -> None:
    with up(model, temporary, free_port()) as process:
        pids = children(process.pid)
        assert all(is_running(pid) for pid in pids)
        process.kill()
        wait_until(lambda: not any(is_running(pid) for pid in pids))


@contextmanager
def up_on_a_terminal(
    model: Path, temporary: Path, port: int, **variables: str
) -> Iterator[tuple[int, int]]:
    """`glm4v up`, ready, in the foreground of a terminal: its process id, the terminal's end."""
    words = (*GLM4V, "up", "--model", str(model), "--port", str(port), "--http-port", "0")
    variables = {**environment(temporary), "TERM": "xterm", **variables}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(words[0], words, variables)
    try:
        seen = b""
        while b"glm4v is ready" not in seen:
            seen += os.read(terminal, 2**16)
        yield pid, terminal
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_terminal_suspends_all_and_ends_all(model: Path, temporary: Path) -> None:
    port = free_port()
    with up_on_a_terminal(model, temporary, port, GLM4V_LEASE_S="1") as (pid, terminal):
        pids = children(pid)
        assert len(pids) >= 4  # with helpers of workers
        with Client(f"127.0.0.1:{port}") as client:
            calm = client.generate([user_message("你好")], **LONG)
            read(calm, 400)
            answer = client.generate([user_message("你好")], **LONG)
            read(answer, 5)
            os.write(terminal, b"\x1a")  # Ctrl-Z
            wait_until(lambda: {state(each) for each in (pid, *pids)} == {"T"})
            time.sleep(1.5)  # leases lapse meanwhile
            os.kill(pid, signal.SIGCONT)  # as `fg` does
            read(answer, 400)
            assert answer.token_ids == calm.token_ids
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not any(is_running(each) for each in pids)
    assert list(temporary.iterdir()) == []


LONG: GenerateOptions = {"seed": 1, "max_tokens": 400, "ignore_eos": True}


def read(answer: Generation, count: int) -> list["pb.Stage.ValueType"]:
    """Read until so many tokens are there; the stages seen on the way."""
    stages = []
    while len(answer.token_ids) < count:
        event = next(answer)
        if event.WhichOneof("event") == "progress":
            stages.append(event.progress.stage)
    assert answer.finished is None
    return stages


def memory_shared_by(pid: int) -> dict[str, str]:
    """What a process was told of the memory that it shares."""
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(each.split("=", 1) for each in variables if each.startswith("GLM4V_HOST_"))


async def test_an_answer_survives_its_worker_and_its_gateway(model: Path) -> None:
    """Both are killed in the middle of an answer, which is equal to one that was left in peace.

    The next worker takes as much memory, whatever is free by then.
    """
    settings = ClusterSettings(model, environment={"GLM4V_LEASE_S": "1"})
    async with LocalCluster(settings) as cluster:
        with Client(cluster.target) as client:
            calm = client.generate([user_message("你好")], **LONG)
            await asyncio.to_thread(read, calm, 400)
            answer = client.generate([user_message("你好")], **LONG)
            await asyncio.to_thread(read, answer, 5)
            shared = memory_shared_by(cluster.process("lm_worker").pid)
            os.kill(cluster.process("lm_worker").pid, signal.SIGKILL)
            stages = await asyncio.to_thread(read, answer, 200)
            assert shared == memory_shared_by(cluster.process("lm_worker").pid)
            assert int(shared.pop("GLM4V_HOST_MEMORY_BYTES")) > 2**28
            assert shared == {"GLM4V_HOST_VISION_WORKERS": "1", "GLM4V_HOST_LM_WORKERS": "1"}
            assert pb.STAGE_RUNNING in stages  # again: by the next worker
            os.kill(cluster.process("gateway").pid, signal.SIGKILL)
            await asyncio.to_thread(read, answer, 400)
            assert answer.text == calm.text
        assert answer.token_ids == calm.token_ids


async def test_a_bad_checkpoint_ends_the_start_and_leaves_nothing(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        async with LocalCluster(ClusterSettings(tmp_path)):
            pytest.fail("it started")
    assert await asyncio.to_thread(lambda: list(temporary.iterdir())) == []
