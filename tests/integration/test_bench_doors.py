"""`glm4v bench doors` on a few streams: every door delivers every token, or the benchmark fails."""

import json

from typer.testing import CliRunner

from bench.command import command


def test_every_door_is_measured() -> None:
    arguments = ["doors", "--clients", "3", "--tokens", "5", "--rate", "50", "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert [each["door"] for each in figures] == ["gRPC", "KServe", "SSE"]
    for each in figures:
        assert each["clients"] == 3
        assert 0 < each["p50_ms"] <= each["p99_ms"]
        assert 0 < each["tokens_s"] <= 3 * 5 / (3 / 50)
