"""What the ranks of a tensor-parallel group compute together."""

from abc import ABC, abstractmethod
from datetime import timedelta
from urllib.parse import unquote, urlsplit

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from glm4v.errors import Unavailable


class Collective(ABC):
    """One rank's end of a group; every rank has to make the same calls in the same order."""

    rank: int
    size: int

    @abstractmethod
    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks; may reuse the memory of `tensor`."""

    @abstractmethod
    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The tensors of all ranks, which have one shape, joined along `dim` by rank."""


class SingleRank(Collective):
    """A group of one."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The tensor itself."""
        return tensor


class ProcessGroup(Collective):
    """Ranks in processes of their own; one group per process.

    `backend` is "gloo", "nccl" or "hccl"; `address` is the URL "tcp://host:port" or "file:///path"
    and the same for all ranks. `timeout_s` bounds every call: a rank that dies or hangs makes the
    others raise within it. Raises Unavailable when not all ranks come within `join_s`.
    """

    def __init__(
        self,
        backend: str,
        address: str,
        *,
        rank: int,
        size: int,
        timeout_s: float = 60.0,
        join_s: float = 60.0,
    ) -> None:
        self.rank = rank
        self.size = size
        try:
            self._store = _open_store(address, rank, size, timedelta(seconds=join_s))
            # The group's own wait for them is of `timeout_s`, and a process may take long to start.
            if self._store.add(f"lives:{rank}", 1) > 1:
                raise Unavailable("this rank has come before: the group starts anew with rank 0")
            self.meet("come", join_s)
            timeout = timedelta(seconds=timeout_s)
            dist.init_process_group(
                backend, store=self._store, rank=rank, world_size=size, timeout=timeout
            )
            # Commands are bytes on the host, whatever the tensors are on.
            self._control = (
                None if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
            )
        except (RuntimeError, Unavailable) as error:  # DistError is one; gloo raises plain ones
            reason = str(error).partition("\n")[0]
            raise Unavailable(
                f"rank {rank} of {size}: no {backend} group at {address} within {join_s:g} s "
                f"({reason}); are all ranks started?"
            ) from error

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in the memory of `tensor`."""
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The tensors of all ranks joined along `dim`."""
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts, dim)

    def send(self, data: bytes) -> None:
        """Rank 0: give `data` to all other ranks."""
        payload = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        dist.broadcast(torch.tensor([len(data)]), 0, group=self._control)
        dist.broadcast(payload, 0, group=self._control)

    def receive(self) -> bytes:
        """The other ranks: what rank 0 sends next."""
        length = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(length, 0, group=self._control)
        payload = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(payload, 0, group=self._control)
        return payload.numpy().tobytes()

    def meet(self, name: str, within_s: float) -> None:
        """Wait until all ranks have come here; raises Unavailable when one does not."""
        try:
            self._store.set(f"{name}:{self.rank}", "here")
            self._store.wait(
                [f"{name}:{rank}" for rank in range(self.size)], timedelta(seconds=within_s)
            )
        except dist.DistError as error:
            raise Unavailable(
                f"rank {self.rank} of {self.size}: not all ranks were {name} in {within_s:g} s"
            ) from error

    def check_restarts(self) -> None:
        """Raise Unavailable when a rank has ended and come again: it is not in this group."""
        for rank in range(self.size):
            if self._store.add(f"lives:{rank}", 0) > 1:
                raise Unavailable(f"rank {rank} has ended and was started again: so do we")

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def _open_store(address: str, rank: int, size: int, timeout: timedelta) -> Store:
    """Where the ranks find each other; torch's own reading of file: URLs does not unquote them."""
    if address.startswith("file:"):
        path = unquote(urlsplit(address).path)
        store: Store = dist.FileStore(path, size)  # type: ignore[attr-defined]  # documented
        store.set_timeout(timeout)
        return store
    store, _, _ = next(rendezvous(address, rank, size, timeout=timeout))
    return store
