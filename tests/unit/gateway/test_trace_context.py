"""Trace contexts: those of the W3C's examples are taken, others ignored."""

import pytest

from gateway.access.trace_context import traceparent

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("value", [VALID, VALID[:-1] + "0", "cc" + VALID[2:] + "-what-comes-later"])
def test_valid_values_are_kept(value: str) -> None:
    assert traceparent(value) == value


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "nonsense",
        VALID.upper(),
        "ff" + VALID[2:],
        VALID + "-more",  # version 00 has four parts
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "cc" + VALID[2:] + "-" + "x" * 1000,
    ],
)
def test_others_are_ignored(value: str | None) -> None:
    assert traceparent(value) == ""
