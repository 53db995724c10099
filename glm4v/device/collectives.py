"""Collective operations of the ranks of a tensor-parallel group."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import unquote, urlsplit

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from glm4v.errors import Unavailable


class Collective(ABC):
    """One rank of a group; all ranks must make the same calls in the same order."""

    rank: int
    size: int

    @abstractmethod
    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks; may reuse the memory of `tensor`."""

    @abstractmethod
    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The tensors of all ranks, of equal shape, joined along `dim` by rank."""


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
    """One rank of a group whose ranks are processes; a process has one group at most.

    `backend` is one of torch's; `address` is the URL "tcp://host:port" or "file:///path", the same
    for all ranks. Raises Unavailable if not all ranks join within `join_timeout_s`. Later every
    call raises Unavailable if a rank died, or did not answer within `timeout_s`.
    """

    def __init__(
        self,
        backend: str,
        address: str,
        *,
        rank: int,
        size: int,
        timeout_s: float = 60.0,
        join_timeout_s: float = 60.0,
    ) -> None:
        self.rank = rank
        self.size = size
        try:
            self._store = _open_store(address, rank, size, timedelta(seconds=join_timeout_s))
            if self._store.add(f"starts:{rank}", 1) > 1:
                raise Unavailable(f"rank {rank} joined twice; restart rank 0 to form a new group")
            # `init_process_group` would wait for `timeout_s`, which is too short for start-up.
            self.barrier("joined", join_timeout_s)
            timeout = timedelta(seconds=timeout_s)
            dist.init_process_group(
                backend, store=self._store, rank=rank, world_size=size, timeout=timeout
            )
            # Commands are bytes on the host, whatever device the tensors are on.
            self._control = (
                None if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
            )
        except (RuntimeError, Unavailable) as error:  # torch's backends raise plain RuntimeErrors
            raise Unavailable(
                f"rank {rank} of {size}: no {backend} group at {address} within "
                f"{join_timeout_s:g} s ({_reason(error)}); are all ranks started?"
            ) from error

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in the memory of `tensor`."""
        tensor = tensor.contiguous()
        with _failures_as_unavailable():
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """The tensors of all ranks joined along `dim`."""
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _failures_as_unavailable():
            dist.all_gather(parts, tensor)
        return torch.cat(parts, dim)

    def send(self, data: bytes) -> None:
        """Rank 0: broadcast `data` to all other ranks."""
        payload = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        with _failures_as_unavailable():
            dist.broadcast(torch.tensor([len(data)]), 0, group=self._control)
            dist.broadcast(payload, 0, group=self._control)

    def receive(self) -> bytes:
        """The other ranks: the next data that rank 0 sends."""
        length = torch.zeros(1, dtype=torch.int64)
        with _failures_as_unavailable():
            dist.broadcast(length, 0, group=self._control)
            payload = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(payload, 0, group=self._control)
        return payload.numpy().tobytes()

    def barrier(self, name: str, within_s: float) -> None:
        """Wait until all ranks called this with `name`; raises Unavailable if one does not."""
        try:
            self._store.set(f"{name}:{self.rank}", "here")
            self._store.wait(
                [f"{name}:{rank}" for rank in range(self.size)], timedelta(seconds=within_s)
            )
        except dist.DistError as error:
            raise Unavailable(
                f"rank {self.rank} of {self.size}: only some ranks {name} within {within_s:g} s"
            ) from error

    def check_restarts(self) -> None:
        """Raise Unavailable if a rank exited and was started again: it is not in this group."""
        for rank in range(self.size):
            if self._store.add(f"starts:{rank}", 0) > 1:
                raise Unavailable(f"rank {rank} was restarted; stopping the tensor-parallel group")

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def init_gloo_group(
    address: str, *, rank: int, size: int, timeout_s: float, join_timeout_s: float
) -> ProcessGroup:
    """A group of processes whose tensors are on the host.

    Ranks of one host, which meet at a "file:" address, talk over the loopback interface.
    """
    if address.startswith("file:"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return ProcessGroup(
        "gloo", address, rank=rank, size=size, timeout_s=timeout_s, join_timeout_s=join_timeout_s
    )


@contextmanager
def _failures_as_unavailable() -> Iterator[None]:
    """Raise Unavailable for the plain RuntimeErrors of torch's backends."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise Unavailable(f"a rank died or hangs: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _open_store(address: str, rank: int, size: int, timeout: timedelta) -> Store:
    """The store in which the ranks find each other; torch does not unquote file: URLs itself."""
    if address.startswith("file:"):
        path = unquote(urlsplit(address).path)
        store: Store = dist.FileStore(path, size)  # type: ignore[attr-defined]  # documented
        store.set_timeout(timeout)
        return store
    store, _, _ = next(rendezvous(address, rank, size, timeout=timeout))
    return store
