"""The CSV files of MindIE's guide for GLM-4V, byte for byte, and a clean one.

Source of MindIE's: multimodal_runner.py and server/generate.py of its examples. The misspelt
"fisrt" and the blanks are theirs; programs that read these files expect them.
"""

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.offline import Figures
from glm4v.errors import InvalidRequest

_GAP = " " * 16
MINDIE_HEADER = (
    "batch, input_len, output_len, embedding_len, fisrt_token_time(ms), "
    f"{_GAP}non_first_token_time(ms), ResponseTime(ms),E2E Throughput Average(Tokens/s)\n"
)
BENCHMARK_MODE = 0o640
_BENCHMARK_COLUMNS = (
    *("batch_size", "input_seq_len", "output_seq_len", "e2e_time(ms)", "prefill_time(ms)"),
    *("decoder_token_time(ms)", "prefill_count", "prefill_token_times", "decode_token_times"),
    "prefill_average_time(ms)",
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What was measured, for the columns of the clean file; an empty text where it is unknown."""

    model: str
    fingerprint: str
    device: str
    dtype: str
    tensor_parallel: int
    version: str
    revision: str  # of the source, where it is a checkout


def mindie_row(at: Figures) -> str:
    """A line of `glm4v_performance.csv`. Its two times have two decimals, as those it is read from.

    Times are milliseconds; `input_len` counts the question alone, `embedding_len` the prompt.
    """
    first, other = round(at.prefill_ms, 2), round(at.decode_ms, 2)
    # The small number is MindIE's, against a division by zero.
    throughput = at.batch * at.output_tokens / (at.total_s + 1e-12)
    return (
        f"{at.batch}, {at.text_tokens}, {at.output_tokens},{at.prompt_tokens}, {_GAP}{first},"
        f"{other}, {at.total_s * 1000}, {_GAP}{throughput}\n"
    )


def benchmark_file(at: Figures) -> str:
    """`benchmark.csv`: a header and one row. Times of single steps are in seconds."""
    steps = at.timings
    row = (
        *(at.batch, at.prompt_tokens, at.output_tokens),
        f"{at.prefill_ms + sum(steps.decode) * 1000: .2f}",
        f"{at.prefill_ms: .2f}",
        f"{at.decode_ms: .2f}",
        len(steps.prefill),
        ",".join(map(str, steps.prefill)),
        ",".join(map(str, steps.decode)),
        f"{at.prefill_ms / at.batch: .2f}",
    )
    return _line(_BENCHMARK_COLUMNS) + _line(row)


def tidy_header() -> str:
    """The first line of the clean file."""
    return _line((*TIDY_FIGURES, *Setup.__dataclass_fields__))


def tidy_row(at: Figures, setup: Setup) -> str:
    """A line of the clean file; an unknown share of the roofline is an empty cell."""
    values = [getattr(at, name) for name in TIDY_FIGURES]
    shown = [f"{value:.4f}" if isinstance(value, float) else value for value in values]
    return _line("" if value is None else value for value in (*shown, *asdict(setup).values()))


def append(path: Path, header: str, row: str) -> None:
    """Append a row, after the header if the file is new.

    Raises InvalidRequest if the file has another header, or cannot be written.
    """
    try:
        with path.open("a+", encoding="utf-8", newline="") as file:
            file.seek(0)
            found = file.readline()
            if found and found != header:
                raise InvalidRequest(
                    f"{path} has other columns; choose another file with --csv, or move it away"
                )
            file.write(row if found else header + row)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be written: {error}; choose another") from None


def write_benchmark(path: Path, at: Figures) -> None:
    """Overwrite `benchmark.csv`, readable by the group. Raises InvalidRequest if that fails."""
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        path.write_text(benchmark_file(at), encoding="utf-8", newline="")
        os.chmod(path, BENCHMARK_MODE)
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be written: {error}; set ATB_LLM_BENCHMARK_FILEPATH to another"
        ) from None


TIDY_FIGURES = (
    *("batch", "text_tokens", "prompt_tokens", "output_tokens", "encode_ms", "prefill_ms"),
    *("decode_p50_ms", "decode_p90_ms", "decode_p99_ms", "total_ms", "tokens_per_s"),
    "roofline_share",
)


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
