"""A Redis whose time of day can be set while it runs, by libfaketime; its steady clock goes on."""

from pathlib import Path

from glm4v.local.redis_server import RedisServer

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
_SHARED = Path("/dev/shm")  # where the library keeps what processes share


class ShiftedRedis(RedisServer):
    """A server on a clock of its own, which is right at first."""

    def __init__(self, data_dir: Path, socket_path: Path) -> None:
        super().__init__(data_dir, socket_path)
        self._clock = socket_path.with_suffix(".clock")
        self.shift(0)

    @property
    def command(self) -> list[str]:
        """The command line of any other server, with the library loaded."""
        variables = {
            "LD_PRELOAD": LIBRARIES[0],
            "FAKETIME_TIMESTAMP_FILE": self._clock,
            "FAKETIME_NO_CACHE": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
        }
        return ["/usr/bin/env", *(f"{k}={v}" for k, v in variables.items()), *super().command]

    def shift(self, ahead_s: float) -> None:
        """Set its clock so far ahead of this machine's; below 0 behind it."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{ahead_s:+.3f}\n", encoding="ascii")
        new.rename(self._clock)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End it; a second call does nothing."""
        pid = None if self._process is None else self._process.pid
        super().stop(timeout_s)
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            (_SHARED / name).unlink(missing_ok=True)
