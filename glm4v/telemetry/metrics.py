"""Metrics of a process: values are read from its objects when somebody asks; times are observed.

Names follow Prometheus (https://prometheus.io/docs/practices/naming/): `glm4v_` first, base units,
counters end with `_total`. Where OpenTelemetry has a name for the quantity
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/) it is used, `gen_ai_` first.
"""

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NAME = re.compile(r"(glm4v|gen_ai)_[a-z0-9]+(_[a-z0-9]+)*")
_READ_TIMEOUT_S = 1.0

Labels = tuple[str, ...]  # values, in the order of the metric's label names
Values = float | Mapping[Any, float]  # keys are `Labels`; a Mapping is invariant in them
Read = Callable[[], Values | Awaitable[Values]]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of start times beside each histogram, which nobody queries


_FAMILIES: dict[str, type[CounterMetricFamily] | type[GaugeMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}


@dataclass(frozen=True, slots=True)
class Description:
    """A metric without its values; `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class _Collector:
    what: Description
    read: Read


class Registry:
    """The metrics of one process.

    A collector is a function without arguments that returns a number, or with labels a mapping from
    the labels' values to numbers; it may be asynchronous. Label values must be few: never a request
    id or a digest.
    """

    def __init__(self) -> None:
        self._collectors: dict[str, _Collector] = {}
        self._histograms: dict[str, Histogram] = {}
        self._described: dict[str, Description] = {}

    def counter(self, name: str, help: str, read: Read, labels: Labels = ()) -> None:
        """Register a value that only grows; its name ends with `_total`."""
        if not name.endswith("_total"):
            raise ValueError(f"counter {name}: its name must end with _total")
        self._add(_Collector(Description(name, "counter", help, labels), read))

    def gauge(self, name: str, help: str, read: Read, labels: Labels = ()) -> None:
        """Register a value that goes up and down."""
        if name.endswith("_total"):
            raise ValueError(f"gauge {name}: only names of counters end with _total")
        self._add(_Collector(Description(name, "gauge", help, labels), read))

    def info(self, name: str, help: str, labels: Mapping[str, str]) -> None:
        """Register facts that do not change: labels of a gauge that is always 1."""
        if not name.endswith("_info"):
            raise ValueError(f"info {name}: its name must end with _info")
        self.gauge(name, help, lambda: {tuple(labels.values()): 1}, tuple(labels))

    def histogram(
        self, name: str, help: str, buckets: Sequence[float], labels: Labels = ()
    ) -> Histogram:
        """A histogram to be observed; `buckets` are upper bounds."""
        self._describe(Description(name, "histogram", help, labels))
        found = Histogram(name, help, labels, buckets=buckets, registry=None)
        self._histograms[name] = found
        return found

    async def collect(self) -> list[Metric]:
        """Read all metrics. One that cannot be read in a second is left out, and logged."""
        collectors = list(self._collectors.values())
        metrics = await asyncio.gather(*map(_collect, collectors))
        observed = [metric for each in self._histograms.values() for metric in each.collect()]
        return [metric for metric in metrics if metric is not None] + observed

    async def text(self) -> bytes:
        """All metrics in the text format of Prometheus, of the type CONTENT_TYPE."""
        snapshot = CollectorRegistry(auto_describe=False)
        snapshot.register(_Snapshot(await self.collect()))
        return generate_latest(snapshot)

    def described(self) -> list[Description]:
        """All metrics, in the order of their registration."""
        return list(self._described.values())

    def _add(self, collector: _Collector) -> None:
        self._describe(collector.what)
        self._collectors[collector.what.name] = collector

    def _describe(self, what: Description) -> None:
        name = what.name
        if not _NAME.fullmatch(name):
            raise ValueError(f"metric {name}: its name must be glm4v_… or gen_ai_… in lower case")
        if name in self._described:
            raise ValueError(f"metric {name} is registered already")
        self._described[name] = what


class _Snapshot:
    """What was read, as a collector of prometheus_client."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


async def _collect(collector: _Collector) -> Metric | None:
    try:
        values = collector.read()
        if inspect.isawaitable(values):
            async with asyncio.timeout(_READ_TIMEOUT_S):
                values = await values
    except Exception as error:  # one metric must not hide the others
        reason = str(error) or type(error).__name__
        log.warning("metric %s could not be read: %s", collector.what.name, reason)
        return None
    what = collector.what
    family = _FAMILIES[what.kind](what.name, what.help, labels=what.labels)
    for labels, value in (values if isinstance(values, Mapping) else {(): values}).items():
        family.add_metric([str(label) for label in labels], float(value))
    return family
