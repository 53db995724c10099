"""A format that takes too long, too much memory, or crashes its compiler fails alone."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from glm4v.errors import InvalidRequest, Overloaded
from lm_worker.plan import OutputFormat
from lm_worker.structured_output.compiler import GrammarCompiler, Lane, Limits

PRETENDED = Path(__file__).with_name("fake_compile_server.py")
LIMITS = Limits(Lane(0.2, at_once=2), Lane(0.6, at_once=1), bytes=64 * 2**20, wall_s=90.0)


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """What was compiled, a line each."""
    path = tmp_path / "counts"
    path.touch()
    return path


@pytest.fixture
def compiler(counts: Path) -> Iterator[GrammarCompiler]:
    with started([sys.executable, str(PRETENDED), str(counts)]) as compiler:
        yield compiler


@contextmanager
def started(command: list[str], limits: Limits = LIMITS) -> Iterator[GrammarCompiler]:
    """A compiler whose server ends with the block, whatever happens in it."""
    compiler = GrammarCompiler(command, limits)
    try:
        yield compiler
    finally:
        compiler.close()


def form(text: str) -> OutputFormat:
    return OutputFormat("regex", text)


def prove(compiler: GrammarCompiler, text: str) -> int:
    return asyncio.run(compiler.check(form(text)))


@pytest.mark.parametrize(
    ("text", "said", "outcome"),
    [
        (f"signal {signal.SIGSEGV}", "could not be compiled: .* crashed \\(SIGSEGV\\)", "crashed"),
        (f"signal {signal.SIGABRT}", "could not be compiled: .* crashed \\(SIGABRT\\)", "crashed"),
        ("exit 3", "could not be compiled: .* crashed \\(exit\\)", "crashed"),
        ("compute 60", "could not be compiled: it takes more than 0.6 s of CPU", "cpu"),
        ("allocate 4000", "could not be compiled: it takes more than 64 MiB", "memory"),
        ("recurse 100000", "could not be compiled: .* crashed \\(RecursionError\\)", "crashed"),
        ("refuse", "response_format.regex: no", "refused"),
    ],
)
def test_a_failed_format_is_refused_without_compiling_it_again(
    compiler: GrammarCompiler, counts: Path, text: str, said: str, outcome: str
) -> None:
    for _ in range(3):
        with pytest.raises(InvalidRequest, match=said):
            prove(compiler, text)
    assert compiler.counts == {outcome: 1}
    assert len(counts.read_text().split("\n")) == (3 if outcome == "cpu" else 2)  # lanes
    assert prove(compiler, "fine") >= 0  # the server is there for others


def test_concurrent_checks_compile_once(compiler: GrammarCompiler, counts: Path) -> None:
    async def all_at_once() -> None:
        await asyncio.gather(*(compiler.check(form("sleep 0.3")) for _ in range(8)))

    asyncio.run(all_at_once())
    assert prove(compiler, "sleep 0.3") >= 0
    assert counts.read_text() == "sleep 0.3\n"
    assert compiler.counts == {"compiled": 1}


def test_the_memory_of_a_format_is_reported(compiler: GrammarCompiler) -> None:
    assert prove(compiler, "allocate 30") >= 29 * 2**20
    assert prove(compiler, "fine") < 5 * 2**20


def test_a_slow_format_moves_to_the_slow_lane(compiler: GrammarCompiler, counts: Path) -> None:
    assert prove(compiler, "compute 0.35") >= 0
    assert counts.read_text() == "compute 0.35\n" * 2


def test_quick_formats_do_not_wait_for_slow_ones(compiler: GrammarCompiler) -> None:
    """Eight forms that compute for ever hold the slow lane; others are through before them."""

    async def beside() -> tuple[int, int]:
        slow = [
            asyncio.ensure_future(compiler.check(form(f"compute 60 #{number}")))
            for number in range(8)
        ]
        await _until(lambda: bool(compiler.counts))  # the first has gone through both lanes
        done_before = sum(task.done() for task in slow)
        for number in range(5):
            await compiler.check(form(f"fine #{number}"))
        done_after = sum(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return done_before, done_after

    done_before, done_after = asyncio.run(beside())
    assert done_before >= 1
    assert done_after < 8


def test_a_cancelled_check_does_not_affect_others(
    compiler: GrammarCompiler, counts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those who wait for the same form ask for themselves; the compiler that was killed is gone."""

    async def give_up() -> None:
        first = asyncio.ensure_future(compiler.check(form("sleep 100")))
        second = asyncio.ensure_future(compiler.check(form("sleep 100")))
        await _until(lambda: counts.read_text() == "sleep 100\n")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await _until(lambda: counts.read_text() == "sleep 100\n" * 2)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        server = compiler._server
        assert server is not None
        await _until(lambda: not _processes(PARENT, server.pid))

    asyncio.run(give_up())
    assert prove(compiler, "fine") >= 0
    assert "lost" not in compiler.counts
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_timeout_of_a_busy_machine_is_not_remembered(counts: Path) -> None:
    with started(
        [sys.executable, str(PRETENDED), str(counts)], LIMITS._replace(wall_s=0.3)
    ) as compiler:
        for _ in range(2):
            with pytest.raises(
                Overloaded, match=r"not compiled within 0\.3 s, because the server is"
            ):
                prove(compiler, "sleep 30")
        assert compiler.counts == {"wall": 2}  # asked again, compiled again


def test_a_killed_server_is_restarted(compiler: GrammarCompiler) -> None:
    assert prove(compiler, "fine") >= 0
    server = compiler._server
    assert server is not None
    server.kill()
    server.wait()
    assert prove(compiler, "fine #2") >= 0


@pytest.mark.parametrize("program", [sys.executable, "/no/such/program"])
def test_a_server_that_cannot_start_fails_the_request_only(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = socket.socketpair, list[socket.socket]()

    def recorded() -> tuple[socket.socket, socket.socket]:
        pair = real()
        made.extend(pair)
        return pair

    monkeypatch.setattr(socket, "socketpair", recorded)
    with started([program, "-c", "pass"]) as compiler:
        for _ in range(2):
            with pytest.raises(Overloaded, match="the compiler does not reply; try again"):
                prove(compiler, "fine")
    assert made
    assert [each for each in made if each.fileno() >= 0] == [], "none is left open"


def test_a_hanging_server_does_not_delay_the_shutdown(compiler: GrammarCompiler) -> None:
    async def hang() -> None:
        await compiler.check(form("fine"))
        assert compiler._server is not None
        os.kill(compiler._server.pid, signal.SIGSTOP)
        asking = asyncio.ensure_future(compiler.check(form("fine #2")))
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(hang())
    server = compiler._server
    compiler.close()
    assert server is not None
    assert server.returncode == -signal.SIGKILL


def test_no_process_outlives_a_worker_that_is_killed(counts: Path) -> None:
    """Server, guard and compiler end with the process that asked, however it ends."""
    script = (
        "import asyncio, sys\n"
        "from lm_worker.structured_output.compiler import Limits, GrammarCompiler\n"
        "from lm_worker.plan import OutputFormat\n"
        f"compiler = GrammarCompiler([sys.executable, {str(PRETENDED)!r}, {str(counts)!r}])\n"
        "asyncio.run(compiler.check(OutputFormat('regex', 'sleep 50')))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as worker:
        try:
            asyncio.run(_until(lambda: counts.read_text() == "sleep 50\n"))
            assert len(_processes(SESSION, worker.pid)) >= 4
        finally:
            worker.kill()
    asyncio.run(_until(lambda: not _processes(SESSION, worker.pid)))


PARENT, SESSION = 1, 3  # fields of /proc/PID/stat behind the name


def _processes(field: int, value: int) -> list[int]:
    """Living processes with this parent, or of this session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[field]) == value and fields[0] != "Z":
                found.append(int(entry.name))
    return found


async def _until(is_so: Callable[[], bool]) -> None:
    for _ in range(3000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it is not so")


def test_the_server_has_no_torch_and_one_thread_and_the_real_vocabulary(tmp_path: Path) -> None:
    from glm4v.checkpoint.tiny import write_tiny
    from lm_worker.structured_output.compiler import server_command

    write_tiny(tmp_path)
    with started(server_command(tmp_path), Limits()) as compiler:
        schema = OutputFormat("json_schema", '{"type":"object","maxProperties":3}')
        assert asyncio.run(compiler.check(schema)) < 50 * 2**20
        with pytest.raises(InvalidRequest, match="unclosed group"):
            prove(compiler, "a(")
        assert compiler._server is not None
        process = Path(f"/proc/{compiler._server.pid}")
        assert "torch" not in (process / "maps").read_text()
        assert len(os.listdir(process / "task")) == 1


def test_compiler_processes_get_no_settings(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GLM4V_REDIS_URL", "glm4v_redis_url"):  # settings are read in either case
        monkeypatch.setenv(name, "redis://user:secret@host")
    with pytest.raises(InvalidRequest, match=r"^$"):
        prove(compiler, "environment")
