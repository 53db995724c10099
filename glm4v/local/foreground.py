"""Runs a cluster for as long as a command in a terminal runs."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from glm4v.local.child import Show
from glm4v.local.cluster import ClusterSettings, LocalCluster


class Foreground:
    """One run: the first SIGINT or SIGTERM stops everything in order, the next one kills."""

    def __init__(self, settings: ClusterSettings, show: Show) -> None:
        self._cluster = LocalCluster(settings, show)
        self._show = show
        self.signals = 0  # how many came

    async def run(self, body: Callable[[LocalCluster], Awaitable[None]]) -> None:
        """Start, run `body` until it returns or a signal comes, stop.

        Raises what `body` raises, or the reason why a process cannot be kept running.
        """
        work = asyncio.ensure_future(self._live(body))

        def on_signal() -> None:
            self.signals += 1
            if self.signals > 1:
                self._cluster.kill()
            elif not self._cluster.is_stopping:
                self._show("glm4v", "stopping; the next signal kills")
                work.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        await asyncio.wait({work})
        if not (work.cancelled() and self.signals):
            work.result()

    async def _live(self, body: Callable[[LocalCluster], Awaitable[None]]) -> None:
        async with self._cluster as cluster:
            tasks = [asyncio.ensure_future(cluster.failed()), asyncio.ensure_future(body(cluster))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()
