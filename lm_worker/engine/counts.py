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
    """

    steps: int = 0
    computed_tokens: int = 0
    sampled_tokens: int = 0
    prefix_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
