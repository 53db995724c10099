"""Captured graphs: what a real device would keep of them, and replay.

A capture keeps operators with the addresses of their tensors and the values of everything else. It
computes nothing. A replay computes over whatever is at those addresses by then, with the values of
the capture, or of the last update of the task group.
"""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map


class _Event(IntEnum):
    """As in runtime.c."""

    CAPTURE_BEGIN = 0
    CAPTURE_END = 1
    GROUP_BEGIN = 2
    GROUP_END = 3
    UPDATE_BEGIN = 4
    UPDATE_END = 5
    REPLAY = 6
    DESTROY = 7


_THREAD = threading.local()
_KEPT: list["Recorder"] = []
_LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)


@dataclass
class Call:
    """An operator with CPU tensors over the device's memory."""

    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[tuple[int, torch.Tensor]] = field(default_factory=list)  # of a recorded one
    _used: list[Any] = field(default_factory=list)  # the leaves that the last run was given

    def __call__(self) -> Any:
        """Compute over the device's memory."""
        return self._with(self.args, self.kwargs)

    def on_copies(self) -> Any:
        """Compute over copies: the device's memory stays as it is."""

        def copied(value: Any) -> Any:
            return value.clone() if isinstance(value, torch.Tensor) else value

        args, kwargs = tree_map(copied, (self.args, self.kwargs))
        return self._with(args, kwargs)

    def argument(self, tensor: torch.Tensor) -> int | None:
        """Which of the last run's arguments, by number of leaf, was `tensor`."""
        return next((i for i, used in enumerate(self._used) if used is tensor), None)

    def replay(self) -> None:
        """Compute, and put the results where those of the capture were."""
        leaves = tree_leaves(self())
        for index, memory in self.outputs:
            memory.copy_(leaves[index])

    def _with(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._used = tree_leaves([args, kwargs])
        return self.run(*args, **kwargs)


class Recorder:
    """The graphs of one thread. It lives as long as the process: graphs may be collected late."""

    def __init__(self) -> None:
        self._graphs: dict[int, list[Call]] = {}
        self._recording: list[Call] | None = None
        self._group: list[Call] | None = None
        self._groups: dict[int, list[Call]] = {}
        self._updating: list[Call] | None = None
        self._callback = _LISTENER(self._on_event)
        ctypes.CDLL("libascendcl.so").pretend_listen(self._callback)

    @classmethod
    def of_this_thread(cls) -> "Recorder":
        """The recorder that hears of this thread's captures and replays from the runtime."""
        if not hasattr(_THREAD, "recorder"):
            _THREAD.recorder = cls()
            _KEPT.append(_THREAD.recorder)
        recorder: Recorder = _THREAD.recorder
        return recorder

    @property
    def is_recording(self) -> bool:
        """Whether a capture is under way."""
        return self._recording is not None

    @property
    def is_updating(self) -> bool:
        """Whether a task group is being updated."""
        return self._updating is not None

    def record(self, call: Call) -> None:
        """Keep a call of the capture."""
        assert self._recording is not None
        self._recording.append(call)
        if self._group is not None:
            self._group.append(call)

    def update(self, call: Call) -> None:
        """Give the recorded call of the task group the arguments of this one."""
        assert self._updating is not None
        (recorded,) = self._updating
        recorded.args, recorded.kwargs = call.args, call.kwargs

    def _on_event(self, kind: int, handle: int) -> None:
        match _Event(kind):
            case _Event.CAPTURE_BEGIN:
                self._recording = []
            case _Event.CAPTURE_END:
                assert self._recording is not None
                self._graphs[handle] = self._recording
                self._recording = None
            case _Event.GROUP_BEGIN:
                self._group = []
            case _Event.GROUP_END:
                assert self._group is not None
                self._groups[handle] = self._group
                self._group = None
            case _Event.UPDATE_BEGIN:
                self._updating = self._groups[handle]
            case _Event.UPDATE_END:
                self._updating = None
            case _Event.REPLAY:
                # The emulation is on outside of operators: it would look at all that they call.
                with torch._C._DisableTorchDispatch():
                    for call in self._graphs[handle]:
                        call.replay()
            case _Event.DESTROY:
                self._graphs.pop(handle, None)
