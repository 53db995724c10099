"""What an engine has done so far, for metrics."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Counters that only grow.

    Attributes:
        steps: Steps executed.
        computed_tokens: Tokens that went through the model, those of prompts included.
        sampled_tokens: Tokens of answers.
        prefix_tokens: Known tokens of sequences that were started, at each start.
        cached_tokens: Those of them that the prefix cache had, copied ones included.
        preemptions: Running sequences whose blocks were taken for others.
        drafts: Steps of sequences that computed draft tokens too.
        draft_tokens: Draft tokens that went through the model.
        accepted_tokens: Those of them that were right.
        forced_tokens: Tokens of outputs that were not sampled, as a format allows no others.
    """

    steps: int = 0
    computed_tokens: int = 0
    sampled_tokens: int = 0
    prefix_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    forced_tokens: int = 0
