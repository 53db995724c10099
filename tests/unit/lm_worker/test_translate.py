"""Jobs become requests of the engine, also those of older releases."""

from dataclasses import fields

import pytest

from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from lm_worker.plan import SamplingParams
from lm_worker.translate import sequence_request
from tests.vocabularies import small_spec


def as_float32(params: SamplingParams) -> SamplingParams:
    """Numbers of one digit, which a float32 field has rounded."""
    rounded = {
        field.name: round(value, 6)
        for field in fields(params)
        if isinstance(value := getattr(params, field.name), float)
    }
    return SamplingParams(
        **rounded,
        top_k=params.top_k,
        seed=params.seed,
        want_logprobs=params.want_logprobs,
        top_logprobs=params.top_logprobs,
        logit_bias=params.logit_bias,
    )


# Written by gateways that had a message `Sampling` of their own for the parameters.
@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (  # what a request gets that sets nothing
            "0a01721201661a030102032a180dcdcc4c3f15cdcc4c3f1832250000803f28073d0000803f30094001"
            "4802800103980101a00101",
            SamplingParams(0.8, 50, 0.8, seed=7, want_logprobs=True, top_logprobs=2),
        ),
        (  # every parameter set
            "0a01721201661a030102032a430d0000c03f150000003f1807250000a03f28ffffffffffffffffff01"
            "350000803e3d0000003f45000000c04d00000040520808f403150000003f52070803150000c8c23009"
            "40014802800103980101a00101",
            SamplingParams(
                temperature=1.5,
                top_k=7,
                top_p=0.5,
                repetition_penalty=1.25,
                seed=2**64 - 1,
                want_logprobs=True,
                top_logprobs=2,
                typical_p=0.5,
                min_p=0.25,
                frequency_penalty=-2.0,
                presence_penalty=2.0,
                logit_bias=((3, -100.0), (500, 0.5)),
            ),
        ),
        (  # greedy: fields at zero are absent
            "0a01721201661a030102032a0f150000803f250000803f3d0000803f300940014802800103980101a00101",
            SamplingParams(want_logprobs=True, top_logprobs=2),
        ),
        (  # of a release that had no typical_p
            "0a01721201661a030102032a0a150000803f250000803f300940014802800103980101a00101",
            SamplingParams(want_logprobs=True, top_logprobs=2),
        ),
    ],
)
def test_a_job_of_an_older_release_has_the_parameters_it_was_written_with(
    recorded: str, expected: SamplingParams
) -> None:
    job = pb.Job.FromString(bytes.fromhex(recorded))
    request = sequence_request(job, small_spec())
    assert as_float32(request.sampling) == expected
    assert (request.prompt_ids, request.max_tokens, request.priority) == ((1, 2, 3), 9, 3)


def test_the_engine_knows_every_parameter_of_the_api() -> None:
    known = {field.name for field in fields(SamplingParams)}
    assert known >= {*api.SamplingParams.DESCRIPTOR.fields_by_name}
