"""Sampling defaults of a checkpoint."""

from pathlib import Path

import pytest

from gateway.sampling import SamplingDefaults, read_defaults
from glm4v.errors import CheckpointError


def write(folder: Path, content: str) -> Path:
    (folder / "generation_config.json").write_text(content, encoding="utf-8")
    return folder


def test_they_are_those_of_the_generation_configuration(tmp_path: Path) -> None:
    folder = write(tmp_path, '{"do_sample": true, "temperature": 0.25, "top_p": 0.5}')
    assert read_defaults(folder) == SamplingDefaults(0.25, 0.5)


def test_a_checkpoint_without_one_gets_those_of_glm_4v_9b(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == SamplingDefaults(0.8, 0.8)
    assert read_defaults(write(tmp_path, "{}")) == SamplingDefaults(0.8, 0.8)


def test_a_checkpoint_that_does_not_sample_is_greedy(tmp_path: Path) -> None:
    folder = write(tmp_path, '{"do_sample": false, "temperature": 0.25}')
    assert read_defaults(folder).temperature == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not a generation configuration"),
        ("[]", "not a generation configuration"),
        ('{"temperature": null}', "not a generation configuration"),
        ('{"temperature": 11}', "temperature is 11; 0 to 10"),
        ('{"top_p": NaN}', "top_p is nan; above 0, up to 1"),
    ],
)
def test_values_that_no_request_may_have_are_refused(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: .*{said}"):
        read_defaults(write(tmp_path, content))
