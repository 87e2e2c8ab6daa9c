"""The search of scans: each finds what MyTARDIS lets them see, by what they may know of it, and nothing else."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from tardis.tardis_portal import models as portal

from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Archive, DatasetKey, FilterOutput, FilterRun, Series
from tardis_imagetrove.mytardis import mytardis
from tardis_imagetrove.operations.large import CappedPaginator, distinct
from tardis_imagetrove.operations.scans import Search

from ..conftest import configure, deliver, phantom, series_uid
from ..mytardis.test_access import PER_OBJECT, person

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def series(owner, box, spool, scratch, tmp_path) -> Series:
    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")
    paths = phantom(
        tmp_path / "in", slices=2, overrides={"ReferringPhysicianName": "12345^Rhea", "EchoTime": "30"}
    )
    deliver(spool, *paths)
    for run in ingest_series(spool, series_uid(paths[0]), ["metadata"], scratch):
        run_filter(run, scratch, 60)
    return Series.objects.get()


@pytest.fixture
def member(series, django_user_model):
    return person(django_user_model, "member", "Project 12345")


def page(client, **query: str) -> str:
    answer = client.get(reverse("tardis_imagetrove:scans"), query)
    assert answer.status_code == 200 and "no-store" in answer["Cache-Control"]
    return answer.content.decode()


FOUND = "1 series"


@pytest.mark.parametrize("only_experiments", [True, pytest.param(False, marks=PER_OBJECT)])
def test_members_find_it_and_strangers_nothing(
    owner, box, spool, scratch, tmp_path, django_user_model, settings, client, only_experiments
):
    settings.ONLY_EXPERIMENT_ACLS = only_experiments
    configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")
    paths = phantom(tmp_path / "in", slices=2, overrides={"ReferringPhysicianName": "12345^Rhea"})
    deliver(spool, *paths)
    ingest_series(spool, series_uid(paths[0]), (), scratch)
    text = page(person(django_user_model, "member", "Project 12345"))
    assert FOUND in text and "t1_phantom_oblique" in text
    title = portal.Experiment.objects.get().title
    assert title in text
    text = page(person(django_user_model, "other", "Project 54321"))
    # Not even in the lists of instruments and modalities.
    assert "0 series" in text and "t1_phantom_oblique" not in text and title not in text
    assert Series.objects.get().configuration.name not in text and "<option>MR" not in text
    assert client.get(reverse("tardis_imagetrove:scans")).status_code == 302


def test_it_is_found_by_each_field_and_not_by_another(series, member):
    title = portal.Experiment.objects.get().title
    experiment = str(portal.Experiment.objects.get().pk)
    configuration = str(series.configuration_id)
    for query, other in (
        ({"q": f"OBLIQUE {title[:4]}"}, {"q": "oblique nothing"}),
        ({"q": "12345"}, {"q": "54321"}),
        ({"modality": "MR"}, {"modality": "CT"}),
        ({"instrument": configuration}, {"instrument": "99999"}),
        ({"experiment": experiment}, {"experiment": "99999"}),
        ({"since": "2001-01-01"}, {"since": "2999-01-01"}),
        ({"until": "2999-01-01"}, {"until": "2001-01-01"}),
        ({"measure": "EchoTime", "least": "29", "most": "31"}, {"measure": "EchoTime", "most": "29"}),
        ({"measure": "EchoTime", "least": "30"}, {"measure": "RepetitionTime", "most": "0"}),
    ):
        assert FOUND in page(member, **query), query
        assert "0 series" in page(member, **other), other


def test_the_title_of_an_experiment_that_one_may_not_see_is_not_shown_and_not_found(series, member, owner):
    hidden = portal.Experiment.objects.create(title="secretname", created_by=owner)
    series.dataset_key.dataset.experiments.add(hidden)
    assert "secretname" not in page(member)
    assert "0 series" in page(member, q="secretname")
    assert "0 series" in page(member, experiment=str(hidden.pk))


def test_hidden_and_sensitive_parameters_are_not_searched(series, member):
    names = portal.ParameterName.objects.filter(name="EchoTime")
    assert 'value="EchoTime"' in page(member)
    if hasattr(portal.ParameterName, "sensitive"):
        names.update(sensitive=True)
    else:
        portal.Schema.objects.filter(parametername__in=names).update(hidden=True)
    text = page(member, measure="EchoTime", least="29")
    assert 'value="EchoTime"' not in text and "0 series" in text


def test_values_of_another_dataset_find_nothing(series, member, owner):
    """A series that was moved: what its former dataset says of it is not this one's visitors' business."""
    sets = portal.DatasetParameterSet.objects.all()
    elsewhere = portal.Dataset.objects.create(description="former")
    sets.update(dataset=elsewhere)
    assert "0 series" in page(member, measure="EchoTime", least="29")


def test_values_that_differ_are_found_by_their_range(series, member):
    parameter = portal.DatasetParameter.objects.get(name__name="EchoTime")
    schema, sets = parameter.name.schema, parameter.parameterset
    parameter.delete()
    for name, value in (("EchoTimeMin", 10), ("EchoTimeMax", 50)):
        made = portal.ParameterName.objects.create(
            schema=schema, name=name, full_name=f"Echo time, {name}", data_type=portal.ParameterName.NUMERIC
        )
        portal.DatasetParameter.objects.create(parameterset=sets, name=made, numerical_value=value)
    assert FOUND in page(member, measure="EchoTime", least="45")
    assert FOUND in page(member, measure="EchoTime", least="20", most="30")
    assert "0 series" in page(member, measure="EchoTime", least="51")
    assert "0 series" in page(member, measure="EchoTime", most="9")


def test_a_series_whose_files_lie_in_a_former_dataset_is_not_listed(series, member):
    elsewhere = portal.Dataset.objects.create(description="former")
    portal.DataFile.objects.update(dataset=elsewhere)
    assert "0 series" in page(member)


@pytest.mark.parametrize("value", ["\0", "x" * 5000, "nan", "9" * 400, "-1", "²"])
def test_odd_questions_are_no_errors(series, member, value):
    names = (
        "q",
        "instrument",
        "modality",
        "experiment",
        "measure",
        "least",
        "most",
        "since",
        "until",
        "order",
    )
    page(member, **dict.fromkeys(names, value))


def test_an_address_keeps_what_was_asked():
    asked = {"q": "a b", "measure": "EchoTime", "least": "0.5", "since": "2026-01-01", "order": "oldest"}
    search = Search.of(asked)
    assert search.query() == "q=a+b&measure=EchoTime&least=0.5&since=2026-01-01&order=oldest"


def test_a_thumbnail_is_for_whoever_may_have_the_picture(series, member, scratch, django_user_model):
    address = reverse("tardis_imagetrove:thumbnail", args=[series.pk])
    assert address not in page(member) and member.get(address).status_code == 404
    archive = series.archives.get()
    run_filter(FilterRun.objects.create(archive=archive, filter="picture").pk, scratch, 60)
    picture = FilterOutput.objects.get(kind="Picture").datafile
    assert f'src="{address}"' in page(member)
    led = member.get(address)
    assert led.status_code == 302 and f"/{picture.pk}/" in led["Location"]
    assert member.get(led["Location"]).status_code == 200
    stranger = person(django_user_model, "stranger", "Project 54321")
    assert stranger.get(address).status_code == 404
    picture.file_objects.update(verified=False)
    assert member.get(address).status_code == 404


def test_many_datasets_take_no_more_queries_than_one(series, member):
    def queries() -> int:
        with CaptureQueriesContext(connection) as caught:
            page(member)
        return len(caught)

    queries()  # what is remembered from the first page on is not counted
    few = queries()
    key = series.dataset_key
    archive = series.archives.get()
    for number in range(30):
        dataset = portal.Dataset.objects.create(description=f"dataset {number}")
        dataset.experiments.add(key.experiment_key.experiment)
        other = DatasetKey.objects.create(key=str(number), experiment_key=key.experiment_key, dataset=dataset)
        another = Series.objects.create(
            series_uid=f"1.2.{number}", dataset_key=other, directory="1", modality="CT", state="done"
        )
        datafile = portal.DataFile.objects.create(dataset=dataset, filename="a", size=1, md5sum="0" * 32)
        Archive.objects.create(
            series=another, version=1, datafile=datafile, sha512=archive.sha512, instance_count=1
        )
        mytardis().inherit_dataset_access(key.experiment_key.experiment_id, dataset.pk)
    assert "31 series" in page(member)
    assert queries() == few


def test_more_than_can_be_paged_through_is_said(series, member, monkeypatch):
    monkeypatch.setattr(CappedPaginator, "MOST", 0)
    assert "more than 0 series" in page(member)


def test_the_values_of_a_column_are_listed_once_and_in_order(owner):
    for number, modality in enumerate(["PT", "MR", "", "MR", "CT", "PT"]):
        Series.objects.create(series_uid=f"1.{number}", modality=modality)
    assert distinct(Series, "modality") == ["CT", "MR", "PT"]
    assert distinct(Series, "modality", most=2) == ["CT", "MR"]
    assert distinct(Series, "reason_code") == []
