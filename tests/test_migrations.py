"""An upgrade carries the rows of the last version over."""

from __future__ import annotations

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

APP = "tardis_imagetrove"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def migrate(name: str):
    """The models as they are after the migration of this name."""
    executor = MigrationExecutor(connection)
    executor.migrate([(APP, name)])
    return MigrationExecutor(connection).loader.project_state([(APP, name)]).apps


@pytest.fixture
def at():
    yield migrate
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes(APP))


def test_states_and_reasons_of_0007_become_data_and_go_back(at, owner):
    from tardis.tardis_portal.models import DataFile, Dataset

    old = at("0007_state_words")
    states = ("receiving", "ingesting", "waiting", "held", "converting", "done", "partial")
    Series = old.get_model(APP, "Series")
    for state in states:
        Series.objects.create(
            series_uid=f"1.2.{len(state)}{state[0]}", description=state, state=state, reason="a; b"
        )
    Series.objects.create(series_uid="1.2.3", description="none", state="done", left_out="x.dcm: bad")
    file = DataFile.objects.create(
        dataset=Dataset.objects.create(description="d"), filename="x", size=1, md5sum="0" * 32
    )
    held = Series.objects.get(state="held")
    archive = old.get_model(APP, "Archive").objects.create(
        series=held, version=1, datafile_id=file.pk, sha512="", instance_count=1, losses="one; two"
    )
    runs = old.get_model(APP, "FilterRun").objects
    runs.create(archive=archive, filter="nifti", state="partial", reason="a; b", warnings=["a", "b"])
    runs.create(archive=archive, filter="minc", state="failed", reason="no nii2mnc; really")
    runs.create(archive=archive, filter="picture", state="waiting", reason="box", warnings=["doubtful"])
    runs.create(archive=archive, filter="metadata", state="done")

    new = at("0008_states")
    Series, FilterRun = new.get_model(APP, "Series"), new.get_model(APP, "FilterRun")
    legacy = {"code": "legacy", "text": "a; b", "subject": ""}
    for one in Series.objects.exclude(description="none"):
        assert (one.state, one.reasons, one.reason_code) == (one.description, [legacy], "legacy")
    none = Series.objects.get(description="none")
    assert (none.reasons, none.left_out[0]["text"]) == ([], "x.dcm: bad")
    found = {
        run.filter: [(one["code"], one["text"]) for one in run.reasons] for run in FilterRun.objects.all()
    }
    assert found == {
        "nifti": [("warning", "a"), ("warning", "b")],
        "minc": [("legacy", "no nii2mnc; really")],
        "picture": [("legacy", "box"), ("warning", "doubtful")],
        "metadata": [],
    }
    assert new.get_model(APP, "Archive").objects.get().losses == ["one", "two"]

    Series.objects.filter(description="held").update(state="discarded")
    Series.objects.filter(description="receiving").update(state="queued")
    old = at("0007_state_words")
    Series = old.get_model(APP, "Series")
    assert {one.description: one.state for one in Series.objects.filter(reason="a; b")} == {
        state: state for state in states
    }
    assert old.get_model(APP, "FilterRun").objects.get(filter="nifti").warnings == ["a", "b"]
    assert old.get_model(APP, "Archive").objects.get().losses == "one; two"
