"""`glm4v bench compare`: ratios, intervals and verdicts, and the files that it reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.command import command
from bench.compare.rounds import Metric, Round, read_side
from bench.compare.verdict import LEAST_VALUES, compare, interval
from bench.performance_csv import MINDIE_HEADER
from bench.serve.measurement import Measurement
from bench.serve.result_file import write_results
from glm4v.errors import InvalidRequest

LATENCY = Metric("latency")
RATE = Metric("tokens/s", is_rate=True)
GAP = " " * 16


def rounds(metric: Metric, *values: float) -> list[Round]:
    return [{metric: [value]} for value in values]


def test_the_interval_of_a_ratio_by_hand() -> None:
    # All medians of resamples lie between the least and the greatest value.
    ratio, low, high = interval([10, 10, 10, 10, 10], [4, 5, 5, 5, 6])
    assert ratio == 0.5
    assert low is not None
    assert high is not None
    assert 0.4 <= low <= 0.5 <= high <= 0.6


@pytest.mark.parametrize(
    ("a", "b", "latency", "rate"),
    [
        ([10, 11, 12, 11, 10], [20, 21, 22, 21, 20], "slower", "faster"),
        ([20, 21, 22, 21, 20], [10, 11, 12, 11, 10], "faster", "slower"),
        ([10, 12, 11, 13, 9], [11, 10, 12, 9, 13], "no difference shown", "no difference shown"),
        ([10, 10, 10, 10, 10], [10, 10, 10, 10, 10], "no difference shown", "no difference shown"),
        ([10, 10, 10, 10], [20, 20, 20, 20, 20], "too few rounds", "too few rounds"),
        ([10], [20], "too few rounds", "too few rounds"),
        ([0, 0, 0, 0, 0], [1, 1, 1, 1, 1], "too few rounds", "too few rounds"),
    ],
)
def test_verdicts(a: list[float], b: list[float], latency: str, rate: str) -> None:
    [found] = compare(rounds(LATENCY, *a), rounds(LATENCY, *b))
    assert found.verdict == latency
    [found] = compare(rounds(RATE, *a), rounds(RATE, *b))
    assert found.verdict == rate


def test_requests_of_few_rounds_are_values_and_those_of_many_are_not() -> None:
    one: list[Round] = [{LATENCY: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}]
    twice: list[Round] = [{LATENCY: [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]}]
    [found] = compare(one, twice)
    assert (found.counts, found.of_rounds) == ((6, 6), False)
    assert (found.ratio, found.verdict) == (2.0, "too few rounds")
    [found] = compare(one * 5, one * 6)
    assert (found.counts, found.of_rounds) == ((5, 6), True)


def test_an_interval_covers_the_true_ratio() -> None:
    """95 % wanted; a percentile interval of medians of 20 values is a little off."""
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        a = generator.lognormal(0.0, 0.2, 20)
        b = generator.lognormal(np.log(1.3), 0.2, 20)
        _, low, high = interval(list(a), list(b))
        assert low is not None
        assert high is not None
        covered += low <= 1.3 <= high
    assert 0.91 <= covered / 200 <= 0.995


def test_requests_of_one_round_would_call_equal_systems_different() -> None:
    """Rounds differ by 5 %, requests by 20 %: why a verdict takes rounds."""
    generator = np.random.default_rng(2)

    def measured() -> list[float]:
        return list(generator.lognormal(generator.normal(0.0, 0.05), 0.2, 100))

    def medians() -> list[float]:
        return [float(np.median(measured())) for _ in range(LEAST_VALUES)]

    wrong = [0, 0]
    for _ in range(60):
        for number, draw in enumerate((measured, medians)):
            _, low, high = interval(draw(), draw())
            assert low is not None
            assert high is not None
            wrong[number] += not low <= 1 <= high
    assert wrong[0] / 60 > 0.2
    assert wrong[1] / 60 < 0.12


def test_result_files_of_serve_are_rounds(tmp_path: Path) -> None:
    for number in range(2):
        found = [
            Measurement(0, False, 0.0, first_s=0.5, ended_s=2.0, gaps_s=[1.5], output_tokens=4),
            Measurement(1, False, 0.0, ended_s=1.0, error="timeout"),
        ]
        write_results(tmp_path / f"{number}.jsonl", {}, found)
    first, second = read_side(tmp_path)
    assert first == second
    assert first == {
        Metric("requests/s", is_rate=True): [0.5],
        Metric("output tokens/s", is_rate=True): [2.0],
        Metric("p99 time to first token, ms"): [500.0],
        Metric("p99 inter-token latency, ms"): [1500.0],
        Metric("time to first token, s"): [0.5],
        Metric("time per output token, s"): [0.5],
        Metric("end-to-end latency, s"): [2.0],
    }


def test_the_guides_file_is_read_with_its_blanks(tmp_path: Path) -> None:
    path = tmp_path / "glm4v_performance.csv"
    row = f"1, 4, 256,1611, {GAP}310.52,28.41, 7600.123, {GAP}33.683664\n"
    path.write_text(MINDIE_HEADER + row + row)
    first, second = read_side(path)
    assert first == second
    assert first == {
        Metric("batch 1: first token, ms"): [310.52],
        Metric("batch 1: further token, ms"): [28.41],
        Metric("batch 1: tokens/s", is_rate=True): [33.683664],
    }


@pytest.mark.parametrize(
    "content", ["", "a,b\n1,2\n", "batch,total_ms\n1,much\n", "batch,total_ms\n1,nan\n", "\0"]
)
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=r"other\.csv"):
        read_side(path)


def test_the_command_prints_a_table_or_an_object(tmp_path: Path) -> None:
    for name, total in (("a", 100.0), ("b", 50.0)):
        rows = "".join(f"1,{total + each},\n" for each in range(6))
        (tmp_path / f"{name}.csv").write_text("batch,total_ms,tokens_per_s\n" + rows)
    sides = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    result = CliRunner().invoke(command, ["compare", *sides])
    assert result.exit_code == 0, result.output
    assert "batch 1: whole batch, ms" in result.stdout
    assert "faster" in result.stdout
    [found] = json.loads(CliRunner().invoke(command, ["compare", *sides, "--json"]).stdout)
    assert found["verdict"] == "faster"
    assert found["ratio"] == pytest.approx(52.5 / 102.5)
