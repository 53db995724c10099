"""Copies of a plan are right in its order, and devices that make them wrongly are noticed."""

from dataclasses import replace

import pytest

from lm_worker.plan import BlockCopy, SampledToken, StepPlan
from tests.unit.lm_worker.callers import SYSTEM, Bench, question
from tests.unit.lm_worker.simulated_steps import StepRunner, alone, make_request


class LateCopies(StepRunner):
    """Makes the copies of a step after the step has written its tokens."""

    def execute(self, plan: StepPlan) -> list[list[SampledToken]]:
        super().execute(replace(plan, copies=()))
        return super().execute(plan)


class ShiftedCopies(StepRunner):
    """Copies from the block beside."""

    def execute(self, plan: StepPlan) -> list[list[SampledToken]]:
        return super().execute(replace(plan, copies=tuple(_shifted(copy) for copy in plan.copies)))


class ShortCopies(StepRunner):
    """Leaves out the last token of every copy."""

    def execute(self, plan: StepPlan) -> list[list[SampledToken]]:
        copies = tuple(copy._replace(num_tokens=copy.num_tokens - 1) for copy in plan.copies)
        return super().execute(replace(plan, copies=copies))


def _shifted(copy: BlockCopy) -> BlockCopy:
    return copy._replace(source=copy.source - 1 if copy.source else 1)


@pytest.mark.parametrize(
    ("device", "is_right"),
    [(StepRunner, True), (LateCopies, False), (ShiftedCopies, False), (ShortCopies, False)],
)
def test_a_source_may_be_given_away_by_the_plan_that_copies_it(
    device: type[StepRunner], is_right: bool
) -> None:
    """And copies that a device makes wrongly change answers, or read what was never written."""
    bench = Bench(block_size=64, blocks=2)
    bench.device = device(64, 1000, blocks=2)
    beginning = SYSTEM[:50]
    bench.add([question(0, beginning=beginning)])
    bench.finish()
    bench.add([make_request("long", (*beginning, *range(700, 760)), most=1)])  # takes both blocks
    try:
        computed = bench.step()
        answers_are_right = bench.sequences[1].token_ids == alone(bench.sequences[1].request)
    except RuntimeError:
        assert not is_right
        return
    assert computed == {1: 60}
    assert answers_are_right == is_right
