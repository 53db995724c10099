"""The best tokens of each row of logits, as the host samples from them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Arrays on the host. A score is (logit - highest logit) / temperature, in single precision."""

    ids: Int64Array  # [rows, n] of the best tokens, ascending
    scores: Float64Array  # [rows, n] of these
    totals: Float64Array  # [rows] sum of e^score over all tokens; not finite if a logit is not
    all_scores: Callable[[int], Float64Array]  # those of all tokens of one row


def find_candidates(logits: torch.Tensor, temperatures: list[float], count: int) -> Candidates:
    """The best `count` tokens of each row of `logits` [rows, tokens] in single precision.

    `temperatures` has one for each row, 0 for the smallest there is. A row's result does not depend
    on the other rows.
    """
    tiny = torch.finfo(torch.float32).tiny
    divisor = torch.tensor([max(value, tiny) for value in temperatures], device=logits.device)
    # The maximum is zero, so a tiny temperature cannot give infinity.
    scores = (logits - logits.amax(dim=-1, keepdim=True)) / divisor[:, None]
    # Row by row: the sums of a whole batch would be rounded differently.
    totals = torch.stack([row.exp().sum() for row in scores])
    best, ids = scores.topk(min(count, scores.shape[1]), dim=-1)
    ids, by_id = ids.sort(dim=-1)
    return Candidates(
        ids=ids.cpu().numpy(),
        scores=best.gather(1, by_id).double().cpu().numpy(),
        totals=totals.double().cpu().numpy(),
        all_scores=lambda row: scores[row].double().cpu().numpy(),
    )
