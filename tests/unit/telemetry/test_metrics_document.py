"""The page about metrics lists what the processes register, and nothing else."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from gateway import metrics as gateway_metrics
from gateway.records.request_metrics import RequestMetrics
from glm4v.telemetry.metrics import Registry
from lm_worker import metrics as lm_metrics
from vision_worker import metrics as vision_metrics

DOCUMENT = (Path(__file__).parents[3] / "docs" / "observability.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)
UNUSED = cast("Any", None)  # values are read when somebody asks, which nobody does


def documented(heading: str) -> set[tuple[str, str, tuple[str, ...]]]:
    section = DOCUMENT.partition(f"\n{heading}:\n")[2].strip().partition("\n\n")[0]
    rows = ROW.findall(section)
    return {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def registered(registry: Registry) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(each.name, each.kind, each.labels) for each in registry.described()}


def gateway() -> Registry:
    registry = Registry()
    gateway_metrics.register_metrics(registry, UNUSED, UNUSED, {}, UNUSED)
    gateway_metrics.register_http_metrics(registry, UNUSED)
    RequestMetrics(registry)
    return registry


def lm_worker() -> Registry:
    registry = Registry()
    lm_metrics.register_metrics(registry, UNUSED, "name")
    return registry


def vision_worker() -> Registry:
    registry = Registry()
    vision_metrics.register_metrics(registry, UNUSED, "name")
    return registry


@pytest.mark.parametrize(
    ("heading", "registry"),
    [
        ("Gateways", gateway()),
        ("Language workers", lm_worker()),
        ("Vision workers", vision_worker()),
    ],
)
def test_every_metric_is_documented_with_its_labels(heading: str, registry: Registry) -> None:
    assert registered(registry) == documented(heading)
