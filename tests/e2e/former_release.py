"""Processes of the release before, beside those of this one."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from glm4v.local.cluster import is_serving
from glm4v.local.pdeathsig import with_pdeathsig
from tests.e2e.fleet import START_S, Fleet
from tests.history import archive

NEW_SETTINGS = ("GLM4V_METRICS_LISTEN", "GLM4V_HTTP_LISTEN")  # that it does not know


class FormerRelease:
    """Its code in a folder, and the processes that were started from there.

    They use the Redis of a fleet, and have names like those of the fleet.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self._fleet = fleet
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        subprocess.run(["tar", "--extract"], cwd=folder, input=archive(), check=True)

    async def start(self, name: str) -> None:
        """Start a service, and wait until it serves."""
        self._spawn(name)
        deadline = asyncio.get_running_loop().time() + START_S
        while not await asyncio.to_thread(is_serving, self._fleet.target(name)):
            is_late = asyncio.get_running_loop().time() > deadline
            if is_late or self._processes[name].poll() is not None:
                raise AssertionError(f"{name} does not serve:\n{self.log(name)[-3000:]}")
            await asyncio.sleep(0.05)

    def _spawn(self, name: str) -> None:
        known = {
            variable: value
            for variable, value in self._fleet.environment(name).items()
            if variable not in NEW_SETTINGS
        }
        with open(self._folder / f"{name}.log", "wb") as log:
            self._processes[name] = subprocess.Popen(
                with_pdeathsig([sys.executable, "-m", name.split("-")[0]]),
                cwd=self._folder,
                env={**known, "PYTHONPATH": str(self._folder)},
                stdout=log,
                stderr=log,
            )

    async def drain(self, name: str) -> int:
        """SIGTERM, and the exit code."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(asyncio.to_thread(process.wait), START_S)

    def log(self, name: str) -> str:
        """What a service has written."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def kill(self) -> None:
        """End what still runs."""
        for process in self._processes.values():
            process.kill()
            process.wait()
