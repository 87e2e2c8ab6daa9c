"""What docs/monitoring/ asks Prometheus for is what the receiver exposes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tardis_imagetrove.receiving import read_metrics
from tardis_imagetrove.scp.metrics import _PREFIX
from tardis_imagetrove.scp.records import Counters

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "monitoring"


@pytest.fixture
def exposed() -> dict[str, str]:
    """Label of each metric by its name."""
    metrics = read_metrics(
        SimpleNamespace(counters=Counters, open_associations=0),
        SimpleNamespace(waiting=lambda: (0, 0.0), spool=SimpleNamespace(free_bytes=lambda: 0)),
        SimpleNamespace(senders=()),
        SimpleNamespace(waiting=0, outcomes={}),
        False,
    )
    return {_PREFIX + metric.name: metric.label for metric in metrics}


def expressions(name: str) -> list[str]:
    text = (FOLDER / name).read_text()
    if name.endswith(".json"):
        return [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
    return re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize(("name", "least"), [("imagetrove-alerts.yml", 8), ("imagetrove-dashboard.json", 15)])
def test_only_metrics_and_labels_that_exist_are_asked_for(name, least, exposed):
    asked = expressions(name)
    assert len(asked) >= least
    for expression in asked:
        names = re.findall(rf"\b{_PREFIX}\w+", expression)
        assert names or expression.startswith("up{")
        assert set(names) <= exposed.keys(), expression
        for label in re.findall(r"by \((\w+)\)", expression):
            assert {exposed[one] for one in names} == {label}, expression


def test_the_dashboard_shows_every_metric_that_is_not_a_setting(exposed):
    shown = " ".join(expressions("imagetrove-dashboard.json"))
    assert {name for name in exposed if not re.search(rf"\b{name}\b", shown)} == {f"{_PREFIX}promiscuous"}


def test_each_panel_has_its_own_place_and_number():
    panels = json.loads((FOLDER / "imagetrove-dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells) and all(x < 24 for x, _ in cells)
    assert len({panel["id"] for panel in panels}) == len(panels)
