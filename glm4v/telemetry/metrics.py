"""Metrics of a process: read from its objects when somebody asks, never counted on the side.

Names follow Prometheus (https://prometheus.io/docs/practices/naming/): `glm4v_` first, base units,
counters end with `_total`. Nothing here knows how they are exposed.
"""

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

log = logging.getLogger(__name__)

_NAME = re.compile(r"glm4v_[a-z0-9]+(_[a-z0-9]+)*")
_READ_TIMEOUT_S = 1.0

Labels = tuple[str, ...]  # values, in the order of the metric's label names
Values = float | Mapping[Any, float]  # keys are `Labels`; a Mapping is invariant in them
Read = Callable[[], Values | Awaitable[Values]]


class Kind(StrEnum):
    """How a value may change."""

    COUNTER = "counter"  # only grows; 0 when the process starts
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value and the labels it has."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Metric:
    """What was read of one metric."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class _Collector:
    name: str
    kind: Kind
    help: str
    labels: Labels
    read: Read


class Registry:
    """The metrics of one process.

    A collector is a function without arguments that returns a number, or with labels a mapping from
    the labels' values to numbers; it may be asynchronous. Label values must be few: never a request
    id or a digest.
    """

    def __init__(self) -> None:
        self._collectors: dict[str, _Collector] = {}

    def counter(self, name: str, help: str, read: Read, labels: Labels = ()) -> None:
        """Register a value that only grows; its name ends with `_total`."""
        if not name.endswith("_total"):
            raise ValueError(f"counter {name}: its name must end with _total")
        self._add(_Collector(name, Kind.COUNTER, help, labels, read))

    def gauge(self, name: str, help: str, read: Read, labels: Labels = ()) -> None:
        """Register a value that goes up and down."""
        if name.endswith("_total"):
            raise ValueError(f"gauge {name}: only names of counters end with _total")
        self._add(_Collector(name, Kind.GAUGE, help, labels, read))

    def info(self, name: str, help: str, labels: Mapping[str, str]) -> None:
        """Register facts that do not change: labels of a gauge that is always 1."""
        if not name.endswith("_info"):
            raise ValueError(f"info {name}: its name must end with _info")
        self.gauge(name, help, lambda: {tuple(labels.values()): 1}, tuple(labels))

    async def collect(self) -> list[Metric]:
        """Read all metrics. One that cannot be read in a second is left out, and logged."""
        collectors = list(self._collectors.values())
        metrics = await asyncio.gather(*map(_collect, collectors))
        return [metric for metric in metrics if metric is not None]

    def _add(self, collector: _Collector) -> None:
        if not _NAME.fullmatch(collector.name):
            raise ValueError(f"metric {collector.name}: its name must be glm4v_… in lower case")
        if collector.name in self._collectors:
            raise ValueError(f"metric {collector.name} is registered already")
        self._collectors[collector.name] = collector


async def _collect(collector: _Collector) -> Metric | None:
    try:
        values = collector.read()
        if inspect.isawaitable(values):
            values = await asyncio.wait_for(values, _READ_TIMEOUT_S)
    except Exception as error:  # one metric must not hide the others
        reason = str(error) or type(error).__name__
        log.warning("metric %s could not be read: %s", collector.name, reason)
        return None
    by_labels = values if isinstance(values, Mapping) else {(): values}
    samples = tuple(
        Sample(dict(zip(collector.labels, labels, strict=True)), float(value))
        for labels, value in by_labels.items()
    )
    return Metric(collector.name, collector.kind, collector.help, samples)
