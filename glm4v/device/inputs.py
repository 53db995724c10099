"""The integers that a step of the language model needs, on the host and on the device."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """A step's integers on the host; `Device.upload` moves them all at once."""

    token_ids: Int64Array  # [tokens]; 0 for tokens of an image
    positions: Int64Array  # [tokens], rotary
    sample_indices: Int64Array  # [samples], tokens of the step after which one is sampled
    logprob_indices: Int64Array  # [scores], tokens of the step that score a token of a prompt


@dataclass(frozen=True, slots=True)
class DeviceInputs:
    """The same as int64 tensors on the device; valid until the next upload."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    sample_indices: torch.Tensor
    logprob_indices: torch.Tensor


def upload_at_once(inputs: StepInputs, device: torch.device) -> DeviceInputs:
    """One transfer for all tensors, which share its memory."""
    arrays = (
        inputs.token_ids,
        inputs.positions,
        inputs.sample_indices,
        inputs.logprob_indices,
    )
    packed = torch.from_numpy(np.concatenate(arrays)).to(device)
    return DeviceInputs(*packed.split_with_sizes([len(array) for array in arrays]))
