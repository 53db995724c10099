"""The chart's README, its schema and the settings of the processes say the same."""

import json
from typing import Any

import pytest
import yaml

from glm4v import __version__
from glm4v.process.environment import PROCESSES, variable_of
from tests.chart.helm import CHART, ROOT, SCENARIOS
from tools.chart import COMPONENTS, README, SET_BY_VALUES, table, with_settings, with_table


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_bytes())
    return loaded


def test_the_table_of_values_is_as_they_are() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_table(text), "run make chart"
    assert table().count("\n") > 100


def test_every_value_of_the_schema_has_a_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def missing(node: dict[str, Any], found: Any, path: str) -> list[str]:
        names: list[str] = []
        for name, below in node.get("properties", {}).items():
            if name == "settings" or f"{path}{name}" == "global":
                continue
            if name not in found:
                names.append(path + name)
            elif isinstance(found[name], dict):
                names += missing(below, found[name], f"{path}{name}.")
        return names

    assert missing(schema(), values, "") == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_settings_of_the_schema_are_those_of_the_process(component: str) -> None:
    """Names and types; a setting that is new belongs into the schema, or among the values."""
    kind = PROCESSES[COMPONENTS[component]]
    described = kind.model_json_schema()["properties"]
    known = schema()["properties"][component]["properties"]["settings"]["properties"]
    assert with_settings(schema()) == schema(), "run make chart"
    expected = {variable_of(name) for name in kind.model_fields if name not in SET_BY_VALUES}
    assert known.keys() == expected
    for name in kind.model_fields:
        if name not in SET_BY_VALUES:
            said = known[variable_of(name)]
            assert said["type"] == described[name].get("type", "string"), name
            assert said.get("enum") == described[name].get("enum"), name


def test_every_scenario_is_listed() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    for scenario in SCENARIOS:
        assert f"ci/{scenario}-values.yaml" in text


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__
