"""The score of de-identification (``make score-deidentification``), for a few of its objects."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "deidentification.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("score_deidentification", BENCHMARK)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["Enhanced PET Image Storage", "MR_small.dcm", "SC_rgb_jpeg_gdcm.dcm"])
def test_nothing_identifying_is_left_and_research_values_are_as_they_were(benchmark, name):
    for words, score in benchmark.run(only=name).items():
        assert score.objects > 0 and not score.held and not score.unwritable, words
        assert score.misses == []
        assert score.checks["identifying values removed"] > 2000
        assert score.checks["research values preserved"] > 300


def test_the_score_sees_what_is_left_and_what_is_lost(benchmark, monkeypatch):
    """With copies that are not de-identified, and with a list that keeps too little."""
    real = benchmark.deidentify

    def as_it_was(path, out, *_):
        out.write_bytes(path.read_bytes())

    monkeypatch.setattr(benchmark, "deidentify", as_it_was)
    monkeypatch.setattr(benchmark, "score_corners", lambda *_: None)
    score = benchmark.run(only="Enhanced PET Image Storage")["strictest"]
    assert score.failures["identifying values removed"] == score.checks["identifying values removed"]
    assert score.failures["patient's name and number removed from kept text"] > 0
    assert score.failures["replaced the same everywhere"] > 0

    monkeypatch.setattr(benchmark, "deidentify", real)
    from tardis_imagetrove.deidentification import rules

    rules.decide.cache_clear()
    monkeypatch.setattr(rules, "KEPT", rules.KEPT - {0x00181030, 0x00180087})
    score = benchmark.run(only="Enhanced PET Image Storage")["strictest"]
    rules.decide.cache_clear()
    assert {miss.split(": ")[2].split(" ")[0] for miss in score.misses} == {"MagneticFieldStrength"}
