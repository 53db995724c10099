"""What is repeated and what is another request, across releases of the gateway."""

import hashlib

import pytest
from google.protobuf import text_format

from gateway.access.caller import Caller
from gateway.admission.content_digest import content_digest
from glm4v.v1 import inference_pb2 as api
from tests.unit.gateway.test_admission import admission

IMAGE = "ab" * 32
SAID = 'messages { role: ROLE_USER parts { text: "hello" } }'

PARTLY = (
    SAID
    + """
sampling {
  temperature: 0.25 seed: 3
  logit_bias { key: 9 value: 1 } logit_bias { key: 2 value: -1 }
}
stop: "b" stop: "a" max_tokens: 5 top_logprobs: 1 n: 2
response_format { choice { options: "yes" options: "no" } }
"""
)

# Recorded, of the model "model-a": what a journal says of a request has to be what every later
# release makes of it. Beside each what releases before this form made of it.
RECORDED = [
    (
        SAID,
        "01eae572b8fd7949c0af2d58ee522837f4f536e0b4853124663cb2b787ac5e420c",
        "fba9d3ecf08aec934fef4a4ed908548bc845bd287cc24458e72fa0bd2966ad05",
    ),
    (
        PARTLY,
        "0174d131920928241ed5ffd6dbca4d9dfccd13bf811fa30a98ac86afe19c5c4d7c",
        "0aa502cefdf1ab2c7a38a14c4a58122cd7ab2f33ce303c4d4d4dba2b8a787a62",
    ),
]
EVERYTHING = """
messages { role: ROLE_SYSTEM parts { text: "简短" } }
messages { role: ROLE_USER parts { image { data: "file" } } parts { text: "a" } parts { text: "" } }
messages { role: ROLE_ASSISTANT }
messages { role: ROLE_USER parts { text: "b" } }
sampling {
  temperature: 0.1 top_p: 1 top_k: 0 repetition_penalty: 2 seed: 18446744073709551615
  min_p: 0.25 typical_p: 0.5 frequency_penalty: -1.5 presence_penalty: 2
  logit_bias { key: 300 value: 1 } logit_bias { key: 5 value: -100 }
}
max_tokens: 7 stop: "b" stop: "a" stop: "b" stop_token_ids: 9 stop_token_ids: 3 ignore_eos: true
top_logprobs: 0 request_id: "r" orphan_timeout_s: 3 return_prompt_ids: true min_tokens: 2
priority: 1 cache_salt: "salt"
response_format { choice { options: "yes" options: "no" } } n: 2 best_of: 3
prompt_logprobs: 1
"""


def digest(request: str, owner: str = "") -> str:
    parsed = text_format.Parse(request, api.GenerateRequest())
    return content_digest(parsed, "model", IMAGE, owner).hex()


def test_it_is_that_of_the_written_form() -> None:
    assert digest(SAID) == "01" + sha256('["model",[[1,[[[1,2],[2,[[[1,"hello"]]]]]]]]]')
    temperature = "0.10000000149011612"  # single precision
    assert digest(EVERYTHING) == "01" + sha256(
        '["model",[[1,[[[1,1],[2,[[[1,"简短"]]]]],'
        f'[[1,2],[2,[[[2,[[2,"{IMAGE}"]]]],[[1,"a"]],[[1,""]]]]],[[1,3]],'
        '[[1,2],[2,[[[1,"b"]]]]]]],'
        f"[2,[[1,{temperature}],[2,1.0],[3,0],[4,2.0],[5,18446744073709551615],[6,0.25],[7,0.5],"
        "[8,-1.5],[9,2.0],[10,[[5,-100.0],[300,1.0]]]]],"
        '[3,7],[4,["a","b"]],[5,[3,9]],[6,true],[7,0],[11,2],'
        '[14,[[3,[[1,["yes","no"]]]]]],[15,2],[16,3],[17,1]]]'
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(("said", "expected", "formerly"), RECORDED)
async def test_it_is_what_earlier_releases_made_of_it(
    said: str, expected: str, formerly: str
) -> None:
    asked = text_format.Parse(said, api.GenerateRequest())
    job = (await admission().admit(asked, Caller(), None)).job
    assert job.content_digest.hex() == expected
    assert job.former_digest.hex() == formerly


def test_an_owner_with_a_name_is_part_of_it() -> None:
    assert digest(SAID, "ann") == "01" + sha256(
        '["model",[[1,[[[1,2],[2,[[[1,"hello"]]]]]]]],"ann"]'
    )
    assert len({digest(SAID), digest(SAID, "ann"), digest(SAID, "bob")}) == 3


async def test_a_request_with_an_owner_has_no_digest_of_releases_without_owners() -> None:
    asked = text_format.Parse(SAID, api.GenerateRequest())
    assert not (await admission().admit(asked, Caller("ann"), None)).job.former_digest


def test_it_does_not_depend_on_the_order_of_what_has_none_nor_on_how_an_image_came() -> None:
    other = EVERYTHING.replace('stop: "b" stop: "a" stop: "b"', 'stop: "a" stop: "b"')
    other = other.replace('data: "file"', f'digest: "{IMAGE}"')
    other = other.replace("orphan_timeout_s: 3 return_prompt_ids: true", "orphan_timeout_s: 4")
    assert digest(other) == digest(EVERYTHING)
    assert digest(SAID + "sampling {}") == digest(SAID)
    assert digest(SAID + "sampling { temperature: 0 }") != digest(SAID)
