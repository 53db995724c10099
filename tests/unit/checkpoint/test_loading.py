"""Progress is said now and then, and found again in a line of the log."""

import logging

import pytest

from glm4v.checkpoint.loading import Loading, progress_in


def test_it_speaks_every_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    times = [0.0, 1.0, 4.9, 5.0, 5.0, 9.9, 10.0, 10.0]  # asked once more to note when it spoke
    loading = Loading(28_000_000_000, clock=iter(times).__next__)
    for _ in range(5):
        loading.add(6_000_000_000)
    assert caplog.messages == ["weights: 18.0 of 28.0 GB", "weights: 28.0 of 28.0 GB"]


def test_what_it_says_is_found_in_a_workers_line() -> None:
    line = "2026-11-29 18:14:47,685 INFO glm4v.checkpoint.loading weights: 18.0 of 28.0 GB"
    assert progress_in(line) == "weights: 18.0 of 28.0 GB"
    assert progress_in("2026-11-29 18:14:47,685 INFO glm4v.process.service ready on a") is None
