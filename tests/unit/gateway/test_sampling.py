"""Sampling defaults of a checkpoint.

The right values are what `generate()` of transformers 4.48.3 did with the same files and a tiny
Llama: its `generation_config` and the list of its logits processors.
"""

import logging
from pathlib import Path

import pytest

from gateway.admission.sampling import SamplingDefaults, read_defaults, resolve
from glm4v.errors import CheckpointError
from glm4v.v1 import inference_pb2 as api


def write(folder: Path, content: str) -> Path:
    (folder / "generation_config.json").write_text(content, encoding="utf-8")
    return folder


def defaults(
    temperature: float,
    top_p: float,
    top_k: int = 0,
    *,
    repetition_penalty: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    max_tokens: int | None = None,
) -> SamplingDefaults:
    """The checkpoint's values, all of them set."""
    params = api.SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        min_p=min_p,
        typical_p=typical_p,
        frequency_penalty=0.0,
        presence_penalty=0.0,
    )
    return SamplingDefaults(params, max_tokens)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # As published: generate() adds its own top_k.
        (
            '{"do_sample": true, "temperature": 0.8, "top_p": 0.8, "max_length": 8192}',
            defaults(0.8, 0.8, top_k=50),
        ),
        ('{"do_sample": true}', defaults(1.0, 1.0, top_k=50)),
        (
            '{"do_sample": true, "temperature": 5.0, "top_p": 1.0, "top_k": 1}',
            defaults(5.0, 1.0, top_k=1),
        ),
        ('{"do_sample": true, "top_k": 0}', defaults(1.0, 1.0)),
        # Greedy; what is given holds for a request that asks for a temperature.
        ("{}", defaults(0.0, 1.0, top_k=50)),
        ('{"do_sample": null}', defaults(0.0, 1.0, top_k=50)),
        ('{"temperature": 0.3, "top_p": 0.5, "top_k": 7}', defaults(0.0, 0.5, top_k=7)),
        (
            '{"do_sample": false, "temperature": 0.25, "repetition_penalty": 3.0}',
            defaults(0.0, 1.0, top_k=50, repetition_penalty=3.0),
        ),
        (
            '{"do_sample": true, "min_p": 0.25, "typical_p": 0.5, "repetition_penalty": 1.5}',
            defaults(1.0, 1.0, 50, repetition_penalty=1.5, min_p=0.25, typical_p=0.5),
        ),
        # Greedy: no step that draws is made, whatever stands there.
        (
            '{"do_sample": false, "temperature": 0.0, "top_p": 0.0, "top_k": -1, "min_p": 2,'
            ' "typical_p": 0}',
            defaults(0.0, 1.0),
        ),
        # A null switches the step off.
        (
            '{"do_sample": true, "temperature": null, "top_p": null, "top_k": null, "min_p": null,'
            ' "typical_p": null, "repetition_penalty": null}',
            defaults(1.0, 1.0),
        ),
        ('{"max_new_tokens": 9}', defaults(0.0, 1.0, top_k=50, max_tokens=9)),
    ],
)
def test_they_are_those_of_generate(
    tmp_path: Path, content: str, expected: SamplingDefaults
) -> None:
    assert read_defaults(write(tmp_path, content)) == expected


def test_without_a_file_the_fields_of_the_configuration_count(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"eos_token_id": 5}')
    assert read_defaults(tmp_path) == defaults(0.0, 1.0, top_k=50)
    config.write_text('{"do_sample": true, "temperature": 0.3, "top_k": 3}')
    assert read_defaults(tmp_path) == defaults(0.3, 1.0, top_k=3)
    write(tmp_path, "{}")
    assert read_defaults(tmp_path) == defaults(0.0, 1.0, top_k=50)


def test_a_request_overrides_each_of_them(tmp_path: Path) -> None:
    content = '{"do_sample": true, "top_k": 7, "repetition_penalty": 3.0, "min_p": 0.5}'
    params, _ = read_defaults(write(tmp_path, content))
    silent = resolve(api.SamplingParams(), params, seed=4)
    assert (silent.top_k, silent.repetition_penalty, silent.min_p, silent.seed) == (7, 3.0, 0.5, 4)
    asked = api.SamplingParams(temperature=0, top_k=0, repetition_penalty=1, min_p=0, seed=0)
    spoken = resolve(asked, params, seed=4)
    assert (spoken.temperature, spoken.top_k, spoken.repetition_penalty) == (0.0, 0, 1.0)
    assert (spoken.min_p, spoken.seed, spoken.top_p) == (0.0, 0, 1.0)


def test_what_generate_would_apply_and_we_do_not_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read_defaults(write(tmp_path, '{"num_beams": 1, "no_repeat_ngram_size": 0}'))
        assert not caplog.text
        read_defaults(write(tmp_path, '{"num_beams": 4, "suppress_tokens": [3]}'))
    assert "generation_config.json: ignored: num_beams, suppress_tokens" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable as JSON"),
        ("[]", "a JSON object is needed"),
        ('{"temperature": "hot"}', "wrong type: .*hot"),
        ('{"do_sample": true, "temperature": 11}', "temperature is 11; 0 to 10"),
        ('{"do_sample": true, "top_p": NaN}', "top_p is nan; above 0, up to 1"),
        ('{"do_sample": true, "top_k": -1}', "top_k is -1; 0 to"),
        ('{"max_new_tokens": 0}', "max_new_tokens is 0; 1 to"),
    ],
)
def test_values_that_no_request_may_have_are_refused(
    tmp_path: Path, content: str, said: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: .*{said}"):
        read_defaults(write(tmp_path, content))
