"""The last step of an answer has its last token, however the events came."""

import pytest

from gateway.doors.http.steps import Steps
from glm4v.v1 import inference_pb2 as api
from tests.unit.gateway.http.scripted_facade import EOS, Script, accepted, finished, tokens

LENGTH = api.FINISH_REASON_LENGTH

Expected = list[tuple[list[int], str, bool]]  # token ids, text, whether it is the last


def run(script: Script, *, hold: bool = False) -> list[Expected]:
    """The steps that each event completes."""
    steps = Steps({EOS}, hold=hold)
    return [
        [(list(step.token_ids), step.text, step.finished is not None) for step in steps.feed(event)]
        for event in script
        if not isinstance(event, Exception)
    ]


def test_tokens_that_cannot_be_the_last_ones_go_out_at_once() -> None:
    script = [accepted(), tokens(0, 13, text="am"), tokens(1, EOS), finished(2)]
    assert run(script) == [[], [([13], "am", False)], [], [([EOS], "", True)]]


def test_the_last_token_that_the_limit_allows_waits_for_the_end() -> None:
    script = [accepted(2), tokens(0, 13, text="am"), tokens(1, 319, text=" a"), finished(2, LENGTH)]
    assert run(script) == [[], [([13], "am", False)], [], [([319], " a", True)]]


@pytest.mark.parametrize(
    ("last", "limit", "expected"),
    [
        (EOS, 20, [([13, 319], "am a", False)]),
        (7, 3, [([13, 319], "", False)]),
    ],
)
def test_of_several_tokens_the_last_one_waits(last: int, limit: int, expected: Expected) -> None:
    _, first, end = run([accepted(limit), tokens(0, 13, 319, last, text="am a"), finished(3)])
    assert first == expected
    assert end == [([last], "" if last == EOS else "am a", True)]


def test_where_any_token_may_be_the_last_each_waits_for_the_next() -> None:
    script = [
        accepted(),
        tokens(0, 13, text="am"),
        tokens(1, 319, text=" a"),
        finished(2, stop_string="x", text="!"),
    ]
    assert run(script, hold=True) == [[], [], [([13], "am", False)], [([319], " a!", True)]]


def test_choices_wait_apart() -> None:
    script = [
        accepted(n=2),
        tokens(0, EOS, choice=1),
        tokens(0, 13, text="am"),
        finished(1, choice=1),
        tokens(1, EOS),
        finished(2),
    ]
    assert run(script) == [
        [],
        [],
        [([13], "am", False)],
        [([EOS], "", True)],
        [],
        [([EOS], "", True)],
    ]


def test_what_is_no_part_of_the_answer_makes_no_step() -> None:
    progress = api.GenerationEvent(progress=api.Progress(stage=api.STAGE_QUEUED))
    assert run([accepted(), progress]) == [[], []]
