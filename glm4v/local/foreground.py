"""Runs a cluster as a foreground command of a terminal."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from glm4v.local.child import LogSink
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.process.stop_signals import stop_signals


class Foreground:
    """One run of a cluster.

    The first SIGINT, SIGTERM or SIGHUP stops all processes in order, the second one kills them.
    Ctrl-Z suspends all processes, `fg` resumes them; workers reclaim leases that have expired.

    Attributes:
        signals: How many stop signals came.
    """

    def __init__(self, settings: ClusterSettings, show: LogSink) -> None:
        self._cluster = LocalCluster(settings, show)
        self._show = show
        self.signals = 0

    async def run(self, body: Callable[[LocalCluster], Awaitable[None]]) -> None:
        """Start the cluster, run `body` until it returns or a signal comes, stop the cluster.

        Raises what `body` raises, or why a process cannot be kept running.
        """
        work = asyncio.ensure_future(self._live(body))

        def on_signal(number: signal.Signals) -> None:
            if number == signal.SIGHUP and self.signals:
                return  # a closed terminal may send two
            self.signals += 1
            if self.signals > 1:
                self._cluster.kill()
            elif not self._cluster.is_stopping:
                self._show("glm4v", "stopping; another signal kills all processes")
                work.cancel()

        loop = asyncio.get_running_loop()
        for number in stop_signals():
            loop.add_signal_handler(number, on_signal, number)
        if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        await asyncio.wait({work})
        if not (work.cancelled() and self.signals):
            work.result()

    def _suspend(self) -> None:
        self._cluster.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # returns after SIGCONT
        self._cluster.send_signal(signal.SIGCONT)

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
