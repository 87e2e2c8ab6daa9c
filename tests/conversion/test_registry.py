"""The registry: filters of the setting and of installed distributions, and mistakes that stop nobody else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from django.core import checks

from tardis_imagetrove.conversion.registry import kinds, load, survey
from tardis_imagetrove.errors import PermanentError
from tardis_imagetrove.filters.nifti import NiftiFilter

MODULE = """
from tardis_imagetrove.filters.base import Filter, FilterResult

class Histogram(Filter):
    name, title, version = "{name}", "Histogram", "1"
    def run(self, series, out):
        return FilterResult(skipped="nothing to count")

class Nameless(Filter):
    run = Histogram.run

class Abstract(Filter):
    name, title, version = "abstract", "Abstract", "1"
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution with a module of filters, as pip leaves it on disk."""

    def put(distribution: str, module: str, *points: str, name: str = "histogram", code: str = "") -> None:
        site = tmp_path / distribution
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = "\n".join(points)
        info.joinpath("entry_points.txt").write_text(f"[tardis_imagetrove.filters]\n{lines}\n")
        site.joinpath(f"{module}.py").write_text(code or MODULE.format(name=name))
        monkeypatch.syspath_prepend(site)

    before = set(sys.modules)
    yield put
    for module in set(sys.modules) - before:
        if Path(getattr(sys.modules[module], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[module]


def told() -> list[str]:
    return [
        str(message.msg) for message in checks.run_checks(tags=["imagetrove"]) if message.id[-4:] == "E005"
    ]


def test_an_installed_distribution_brings_a_filter_after_the_settings(install):
    install("imaging-extras", "extras_one", "histogram = extras_one:Histogram")
    assert list(load()) == ["nifti", "minc", "picture", "metadata", "histogram"]
    assert told() == []


def test_without_it_the_filter_is_gone(install):
    assert "histogram" not in load()


def test_named_paths_are_the_whole_list(install):
    install("imaging-extras", "extras_two", "histogram = extras_two:Histogram")
    assert list(load(["tardis_imagetrove.filters.nifti.NiftiFilter"])) == ["nifti"]


def test_a_filter_that_the_setting_names_too_keeps_the_settings_place(install, settings):
    install("imaging-extras", "extras_three", "histogram = extras_three:Histogram")
    paths = ["extras_three.Histogram", "tardis_imagetrove.filters.nifti.NiftiFilter"]
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTERS": paths}
    assert list(load()) == ["histogram", "nifti"]
    assert told() == []


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("bad = no_such_module:Histogram", "cannot be imported: No module named 'no_such_module'"),
        ("bad = broken_extras:Gone", "cannot be imported: AttributeError"),
        ("bad = pathlib:Path", "is not a subclass of tardis_imagetrove.filters.base.Filter"),
        ("bad = broken_extras:Nameless", "has no name"),
        ("bad = broken_extras:Abstract", "cannot be used: TypeError"),
    ],
)
def test_a_broken_entry_point_is_told_by_name_and_stops_no_other(install, caplog, point, words):
    install("broken-extras", "broken_extras", point, "histogram = broken_extras:Histogram")
    assert list(load()) == ["nifti", "minc", "picture", "metadata", "histogram"]
    (problem,) = survey().entry_point_problems
    assert problem.startswith(f"distribution broken-extras, entry point {point} ")
    assert words in problem
    assert told() == [f"{problem}."]
    assert problem in caplog.text


def test_a_module_that_fails_as_it_is_imported_is_told(install):
    install("broken-extras", "failing_extras", "bad = failing_extras:Histogram", code="1 / 0")
    (problem,) = survey().entry_point_problems
    assert "cannot be imported: ZeroDivisionError: division by zero" in problem
    assert "nifti" in load()


def test_a_name_that_is_taken_is_told_and_the_first_stays(install):
    install("greedy-extras", "greedy_extras", "nifti = greedy_extras:Histogram", name="nifti")
    assert isinstance(load()["nifti"], NiftiFilter)
    (message,) = told()
    assert "distribution greedy-extras" in message
    assert "two filters are named 'nifti'" in message


def test_a_mistake_in_the_setting_is_raised_and_each_is_checked(settings):
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTERS": ["no.such.Filter", "pathlib.Path"]}
    with pytest.raises(PermanentError, match=r"IMAGETROVE\['FILTERS'\]: no\.such\.Filter cannot be imported"):
        load()
    assert len(told()) == 2


def test_kinds_are_listed_once_in_the_order_of_the_filters():
    assert list(kinds()) == ["NIfTI", "Sidecar", "Gradients", "MINC", "Picture"]


def test_a_kind_outlives_the_use_of_its_filter(settings):
    path = "tardis_imagetrove.filters.minc.MincFilter"
    settings.IMAGETROVE = {**settings.IMAGETROVE, "FILTERS": [path]}
    assert list(kinds()) == ["MINC", "NIfTI", "Sidecar", "Gradients", "Picture"]
