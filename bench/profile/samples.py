"""What the threads of processes were doing, sampled by Linux's `perf`."""

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from glm4v.errors import ConfigurationError, Unavailable

_RATE_HZ = 997  # prime, so that it does not beat with timers
_STOP_S = 30.0
# "PID ADDRESS SYMBOL (FILE)"
_SAMPLE = re.compile(r"^\s*(\d+)\s+[0-9a-f]+\s(.*)\((.*)\)$")

# The first pattern that is found in "SYMBOL (FILE)" names the kind.
KINDS = {
    "products": r"multiply_|compute_block|widen|gemm|jit_avx|\(/tmp/perf-\d+\.map\)|libmkl",
    "attention": r"TileAttention|attend|run_call|softmax",
    "waiting in a thread pool": r"wait_for_job|wait_for_workers|libgomp|libiomp",
    "norms, packing, other layers": r"\(.*kernels-.*\.so\)|libtorch|libc10|_multiarray_umath",
    "copying and clearing memory": r"mem(move|cpy|set)|(copy_|clear_page).*\(\[kernel",
    "page faults": r"(fault|folio|alloc_pages|zap_|unmap|mmap).*\(\[kernel",
    "locks and switches": r"(futex|spin_|schedule|task_switch|irq|wake).*\(\[kernel|pthread_",
    "decoding of files": r"_imaging|libjpeg|libpng|libz\b|libz-|inflate|libwebp|libtiff|libopenjp",
    "Redis": r"valkey|redis",  # the embedded server lies in a folder of Python
    "Python": r"libpython|/python3|cpython|vdso",
    "the rest of the kernel": r"\[kernel|\[guest",
}
OTHER = "other libraries"
_KINDS = [(name, re.compile(pattern)) for name, pattern in KINDS.items()]


class Sampler:
    """Samples all processes from `start` to `stop`; writes to `folder`.

    All, because perf 6.1 polls without a pause once a thread of the processes that it was given has
    ended, which takes a core from what is measured.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "perf.data"
        self._perf: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises ConfigurationError where perf is not installed."""
        program = shutil.which("perf")
        if program is None:
            raise ConfigurationError("perf is not installed; apt install linux-perf, or --no-perf")
        options = ("-q", "-a", "-F", str(_RATE_HZ), "-e", "cpu-clock", "-o", str(self._file))
        self._perf = subprocess.Popen(
            [program, "record", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> Counter[tuple[int, str]]:
        """Seconds on a core, by process and kind. Raises Unavailable if perf failed."""
        assert self._perf is not None, "start() was not called"
        self._perf.send_signal(signal.SIGINT)
        self._perf.wait(_STOP_S)
        shown = subprocess.run(
            ["perf", "script", "-i", str(self._file), "-F", "pid,ip,sym,dso"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        found = by_kind(shown.stdout.splitlines())
        if not found:
            reason = shown.stderr.strip()[-200:] or "no reason"
            raise Unavailable(
                f"perf took no samples: {reason}; sampling all processes needs root or "
                "kernel.perf_event_paranoid below 1; --no-perf does without"
            )
        return Counter({key: count / _RATE_HZ for key, count in found.items()})


def by_kind(lines: Iterable[str]) -> Counter[tuple[int, str]]:
    """Samples by process and kind, from the lines of `perf script -F pid,ip,sym,dso`."""
    found: Counter[tuple[int, str]] = Counter()
    for line in lines:
        if (sample := _SAMPLE.match(line)) is not None:
            found[int(sample[1]), kind_of(sample[2].strip(), sample[3])] += 1
    return found


def kind_of(symbol: str, file: str) -> str:
    """One of KINDS, or OTHER."""
    where = f"{symbol} ({file})"
    return next((name for name, pattern in _KINDS if pattern.search(where)), OTHER)
