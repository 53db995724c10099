"""What the ranks of a tensor-parallel group compute together."""

from abc import ABC, abstractmethod
from datetime import timedelta

import torch
import torch.distributed as dist

from glm4v.errors import Unavailable


class Collective(ABC):
    """One rank's end of a group; every rank has to make the same calls in the same order."""

    @abstractmethod
    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks; may reuse the memory of `tensor`."""

    @abstractmethod
    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The tensors of all ranks, which have one shape, joined along `dim` by rank."""


class SingleRank(Collective):
    """A group of one."""

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The tensor itself."""
        return tensor


class ProcessGroup(Collective):
    """Ranks in processes of their own; one group per process.

    `backend` is "gloo", "nccl" or "hccl"; `address` is "tcp://host:port" or "file:///path" and the
    same for all ranks. Raises Unavailable when the others do not come in time.
    """

    def __init__(
        self, backend: str, address: str, *, rank: int, size: int, timeout_s: float = 60.0
    ) -> None:
        self._size = size
        try:
            dist.init_process_group(
                backend,
                init_method=address,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_s),
            )
        except dist.DistError as error:
            raise Unavailable(
                f"rank {rank} of {size}: the group at {address} did not form in {timeout_s:g} s; "
                "are all ranks started?"
            ) from error

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in the memory of `tensor`."""
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The tensors of all ranks joined along `dim`."""
        parts = [torch.empty_like(tensor) for _ in range(self._size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim)

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()
