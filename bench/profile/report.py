"""A profile as Markdown."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.peers import Load, Round
from bench.profile.watch import Seen


@dataclass(frozen=True, slots=True)
class Profile:
    """What was seen of one load; `seen` is that of all requests together."""

    load: Load
    result: Round
    requests: int
    seen: Seen
    request_flop: float
    matrix_rate: float  # operations a second

    @property
    def limit_tokens_s(self) -> float:
        """If all arithmetic ran at the matrix rate."""
        return self.load.answer_tokens * self.matrix_rate / self.request_flop


def markdown(found: Profile) -> str:
    """A summary and up to three tables; times are milliseconds of a core for each request."""
    result = found.result
    return "\n".join(
        [
            f"{found.load.name}; {result.concurrency} callers, {found.requests} requests in "
            f"{found.seen.seconds:.1f} s: {result.tokens_s:.1f} tokens/s, first token after "
            f"{result.time_to_first_token_s:.2f} s (median), 99 of 100 pauses below "
            f"{result.pause_s:.3f} s.",
            "",
            f"Arithmetic: {found.request_flop / 1e9:.0f} GFLOP for each request; the best matrix "
            f"product reached {found.matrix_rate / 1e9:.0f} GFLOP/s, which would be "
            f"{found.limit_tokens_s:.0f} tokens/s: {result.tokens_s / found.limit_tokens_s:.0%} "
            "of it were reached.",
            "",
            *_table(("cores", "ms a request", "share"), _core_rows(found)),
            "",
            *_table(
                ("process", "on a core", "of it in the kernel", "waits for a core", "switches"),
                _process_rows(found),
            ),
            *_work_table(found),
        ]
    )


def _core_rows(found: Profile) -> Iterator[Sequence[str]]:
    cores = found.seen.cores
    total = cores.idle_s + cores.disk_wait_s + cores.busy_s
    ours = sum(used.run_s for used in found.seen.used.values())
    for name, seconds in (
        ("our processes and the load", ours),
        ("other processes", max(0.0, cores.busy_s - ours)),
        ("idle", cores.idle_s),
        ("idle, waiting for the disk", cores.disk_wait_s),
    ):
        yield name, _ms(seconds / found.requests), f"{seconds / total:.1%}"


def _process_rows(found: Profile) -> Iterator[Sequence[str]]:
    for name, used in found.seen.used.items():
        times = (used.run_s, used.system_s, used.wait_s)
        each = (_ms(seconds / found.requests) for seconds in times)
        yield name, *each, f"{used.switches / found.requests:.0f}"


def _work_table(found: Profile) -> list[str]:
    if not found.seen.work:
        return []
    processes = list(found.seen.used)
    totals: Counter[str] = Counter()
    for (_, kind), seconds in found.seen.work.items():
        totals[kind] += seconds
    every = sum(totals.values())
    rows = [
        (
            kind,
            *(_ms(found.seen.work[name, kind] / found.requests) for name in processes),
            f"{seconds / every:.1%}",
        )
        for kind, seconds in totals.most_common()
    ]
    return ["", *_table(("sampled, ms a request", *processes, "share"), rows)]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = (columns, ("---", *("---:" for _ in columns[1:])), *rows)
    return [f"| {' | '.join(line)} |" for line in lines]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"
