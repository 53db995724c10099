"""MindIE's CSV files byte for byte, and the clean one as programs read it."""

import csv
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from bench.offline import Figures
from bench.performance_csv import (
    MINDIE_HEADER,
    Setup,
    append,
    benchmark_file,
    mindie_row,
    tidy_header,
    tidy_row,
    write_benchmark,
)
from glm4v.errors import InvalidRequest
from offline.batch import Timings

# Files as MindIE's own code writes them for the times below.
MINDIE = Path(__file__).parent / "mindie"
# 3 prefills of one question each and 2 further tokens.
AT = Figures(
    batch=3,
    text_tokens=4,
    prompt_tokens=1611,
    output_tokens=3,
    timings=Timings(encode=0.5, prefill=(0.25, 0.125, 0.125), decode=(0.0625, 0.03125), total=1.25),
    roofline_share=None,
)
KNOWN = Figures(
    batch=1,
    text_tokens=4,
    prompt_tokens=1611,
    output_tokens=256,
    timings=Timings(encode=0.0, prefill=(0.31052,), decode=(0.02841,) * 255, total=7.600123),
    roofline_share=None,
)
SETUP = Setup("glm-4v-9b", "f00d", "cpu", "float32, kernels", 2, "0.1.0", "")


def test_glm4v_performance_csv_is_mindies_byte_for_byte(tmp_path: Path) -> None:
    for at in (KNOWN, AT):
        append(tmp_path / "a.csv", MINDIE_HEADER, mindie_row(at))
    # AT: 500 ms and 46.875 ms; three answers of 3 tokens in 1.25 s.
    expected = (MINDIE / "glm4v_performance.csv").read_bytes()
    assert (tmp_path / "a.csv").read_bytes() == expected


def test_benchmark_csv_is_mindies_byte_for_byte(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "a.csv", AT)
    assert (tmp_path / "a.csv").read_bytes() == (MINDIE / "benchmark.csv").read_bytes()


def test_a_single_step_is_not_quoted() -> None:
    once = replace(AT, timings=replace(AT.timings, prefill=(0.5,)))
    assert benchmark_file(once).splitlines()[1].startswith("3,1611,3, 593.75, 500.00, 46.88,1,0.5,")


def test_a_new_file_gets_the_header_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for row in ("1,2\n", "3,4\n"):
        append(path, "x,y\n", row)
    assert path.read_bytes() == b"x,y\n1,2\n3,4\n"


def test_a_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n")
    with pytest.raises(InvalidRequest, match="other columns; choose another file with --csv"):
        append(path, MINDIE_HEADER, mindie_row(AT))
    assert path.read_text() == "x,y\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be written"):
        append(tmp_path / "missing" / "a.csv", "x\n", "1\n")
    with pytest.raises(InvalidRequest, match="ATB_LLM_BENCHMARK_FILEPATH"):
        write_benchmark(tmp_path, AT)


def test_benchmark_csv_is_overwritten_and_not_for_everyone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "benchmark.csv"
    for at in (AT, KNOWN):
        write_benchmark(path, at)
    assert path.read_bytes() == benchmark_file(KNOWN).encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_tidy_file_has_a_value_under_every_name() -> None:
    text = tidy_header() + tidy_row(AT, SETUP) + tidy_row(replace(AT, roofline_share=0.5), SETUP)
    first, second = csv.DictReader(text.splitlines())
    assert first["decode_p50_ms"] == "46.8750"
    assert first["decode_p90_ms"] == "59.3750"  # 31.25 + 0.9 * 31.25
    assert first["decode_p99_ms"] == "62.1875"
    assert first["encode_ms"] == "500.0000"
    assert first["tokens_per_s"] == "7.2000"
    assert first["dtype"] == "float32, kernels"
    assert first["tensor_parallel"] == "2"
    assert (first["roofline_share"], second["roofline_share"]) == ("", "0.5000")
    assert None not in first
    assert " " not in tidy_header()
