"""Agreement of two backends, against values worked out by hand."""

import math

import pytest

from glm4v.errors import InvalidRequest
from precision.agreement import Agreement, Distances, agreement, first_divergence, step_distances
from precision.recording import Recorded, Recording, Step
from precision.tolerance import TOLERANCES, Tolerance, excesses, tolerance_of

ALLOWED = Tolerance(mean=0.1, largest=0.5)


def step(*top: tuple[int, float], token: int | None = None) -> Step:
    return Step(top[0][0] if token is None else token, top)


def compared(reference: list[Step], decoded: list[Step], forced: list[Step]) -> Agreement:
    left = Recording("cpu", "", frozenset(), {"a.png": Recorded("left", tuple(reference))})
    right = Recorded("right", tuple(decoded), tuple(forced))
    return agreement(left, Recording("npu", "", frozenset(), {"a.png": right}))


@pytest.mark.parametrize(
    ("candidate", "index"),
    [([1, 2, 3], None), ([1, 9, 3], 1), ([1, 2], 2), ([1, 2, 3, 4], 3), ([], 0)],
)
def test_first_divergence(candidate: list[int], index: int | None) -> None:
    assert first_divergence([1, 2, 3], candidate) == index


def test_distances_of_a_step_are_those_of_the_references_tokens() -> None:
    reference = step((7, -0.1), (8, -2.5), (9, -6.0), (5, -9.0))
    candidate = step((8, -0.5), (7, -0.6), (4, -7.0))
    # 9 and 5 are not listed: less probable than -7. That is 1 below -6, and says nothing of -9.
    assert step_distances(reference, candidate) == pytest.approx([0.5, 2.0, 1.0, 0.0])


def test_only_the_eight_most_probable_tokens_count() -> None:
    reference = step(*((number, -float(number)) for number in range(12)))
    candidate = step(*((number, -float(number) - (number > 7)) for number in range(12)))
    assert step_distances(reference, candidate) == [0.0] * 8


def test_decoded_steps_count_up_to_the_first_token_that_differs() -> None:
    reference = [step((1, -0.1)), step((2, -0.2), (3, -0.25)), step((4, -0.1)), step((0, -0.1))]
    decoded = [step((1, -0.2)), step((3, -0.2), (2, -0.3)), step((9, -5.0))]
    forced = [step((1, -0.1)), step((3, -0.2), (2, -0.3)), step((4, -0.4)), step((0, -0.1))]
    found = compared(reference, decoded, forced)
    (image,) = found.images
    assert image.decode == pytest.approx((0.1, 0.1, 0.05))
    assert image.prefill == pytest.approx((0.0, 0.1, 0.05, 0.3, 0.0))
    assert (image.steps, image.same_best, image.divergence) == (4, 3, 1)
    assert image.margin == pytest.approx(0.05)
    assert found.prefill.mean == pytest.approx(0.09)
    assert found.prefill.largest == pytest.approx(0.3)
    assert found.diverged == [image]
    assert excesses(found, ALLOWED) == []


def test_a_token_that_rounding_cannot_explain_fails_though_distances_are_small() -> None:
    # The candidate computes what the reference does, and takes the second best token.
    same = step((1, -0.01), (2, -4.0))
    found = compared([same, same], [same, step((1, -0.01), (2, -4.0), token=2)], [same, same])
    assert found.prefill.largest == found.decode.largest == 0.0
    (line,) = excesses(found, ALLOWED)
    assert line.startswith("a.png: token 1 differs, which the reference prefers by 4")


@pytest.mark.parametrize(
    ("distances", "named"),
    [
        (Distances(0.2, 0.1, 0.3, 0.4), ["prefill: the mean"]),
        (Distances(0.05, 0.01, 0.3, 0.6), ["prefill: the largest"]),
        (Distances(math.nan, 0.0, 0.0, math.nan), ["prefill: the mean", "prefill: the largest"]),
    ],
)
def test_what_exceeds_the_tolerance_is_named(distances: Distances, named: list[str]) -> None:
    fine = Distances(0.0, 0.0, 0.0, 0.0)
    found = excesses(Agreement((), distances, fine), ALLOWED)
    assert [line[: len(start)] for line, start in zip(found, named, strict=True)] == named


def test_the_coarsest_dtype_decides() -> None:
    assert tolerance_of({"float32", "bfloat16"}) == TOLERANCES["bfloat16"]
    assert tolerance_of({"float16", "float32"}) == TOLERANCES["float16"]
    assert tolerance_of({"float32"}) == TOLERANCES["float32"]
    with pytest.raises(InvalidRequest, match="no tolerance is known for int4; set --tolerance"):
        tolerance_of({"float32", "int4"})
