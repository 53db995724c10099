"""Reads measurements to be compared: result files of `bench serve`, CSV files of `bench offline`.

A file of `bench serve` is one round, and so is each row of a CSV file for its batch size.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.performance_csv import TIDY_FIGURES
from bench.serve.result_file import KIND, read_results
from bench.serve.summary import summarize
from glm4v.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared: a name with its unit, and whether more is better."""

    name: str
    is_rate: bool = False


Round = dict[Metric, list[float]]

_REQUEST = {"ttft_s": "time to first token, s", "tpot_s": "time per output token, s"}
_REQUEST |= {"e2el_s": "end-to-end latency, s"}
# By column: MindIE's files and the clean one. A name that ends with /s is a rate.
_COLUMNS = {
    "fisrt_token_time(ms)": "first token, ms",
    "non_first_token_time(ms)": "further token, ms",
    "E2E Throughput Average(Tokens/s)": "tokens/s",
    "prefill_time(ms)": "prefill, ms",
    "decoder_token_time(ms)": "further token, ms",
    "e2e_time(ms)": "whole batch, ms",
    "encode_ms": "images, ms",
    "prefill_ms": "prefill, ms",
    "decode_p50_ms": "decode step p50, ms",
    "decode_p99_ms": "decode step p99, ms",
    "total_ms": "whole batch, ms",
    "tokens_per_s": "tokens/s",
}
_BATCH = ("batch", "batch_size")


def read_side(path: Path) -> list[Round]:
    """The rounds of a file, or of all files in a folder. Raises InvalidRequest."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [each for file in files if file.is_file() for each in _read(file)]
    if not found:
        raise InvalidRequest(f"{path} has no measurements")
    return found


def _read(path: Path) -> list[Round]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            first = file.readline()
            if KIND in first:
                return [_served(path)]
            file.seek(0)
            return list(_rows(path, csv.DictReader(file, skipinitialspace=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from None


def _served(path: Path) -> Round:
    _, measurements = read_results(path)
    summary = summarize(measurements, {})
    answered = [each for each in measurements if not each.error]
    found: Round = {
        Metric("requests/s", is_rate=True): [summary.requests_per_s],
        Metric("output tokens/s", is_rate=True): [summary.tokens_per_s],
    }
    for latency, words in (("ttft", "time to first token"), ("itl", "inter-token latency")):
        p99 = getattr(summary, latency).p99
        if p99 is not None:
            found[Metric(f"p99 {words}, ms")] = [p99]
    for field, name in _REQUEST.items():
        values = [getattr(each, field) for each in answered]
        found[Metric(name)] = [value for value in values if value is not None]
    return found


def _rows(path: Path, rows: Iterable[dict[str, str]]) -> Iterable[Round]:
    for number, row in enumerate(rows, 2):
        batch = next((row[name] for name in _BATCH if name in row), None)
        names = {column: name for column, name in _COLUMNS.items() if row.get(column)}
        if batch is None or not names:
            raise InvalidRequest(
                f"{path} is neither a result file of `glm4v bench serve` nor a CSV file of "
                f"`glm4v bench offline` (its columns: {', '.join(TIDY_FIGURES[:4])}, …)"
            )
        yield {
            Metric(f"batch {batch.strip()}: {name}", name.endswith("/s")): [
                _finite(f"{path}:{number}: {column}", row[column])
            ]
            for column, name in names.items()
        }


def _finite(place: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidRequest(f"{place} is {cell!r}, not a number")
    return value
