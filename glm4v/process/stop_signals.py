"""The signals that ask a process to stop in order."""

import signal


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and except under nohup SIGHUP, which a closed terminal sends."""
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    return signals
