"""Parameter sets: typed, with units, brought up to date rather than doubled."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from tardis_imagetrove.errors import PermanentError
from tardis_imagetrove.mytardis.parameters import set_parameters
from tardis_imagetrove.parameters import Level, Parameter, Parameters

pytestmark = pytest.mark.django_db(transaction=True)

NAMESPACE = "http://example.edu/schema/2"


@pytest.fixture
def dataset(owner):
    from tardis.tardis_portal.models import Dataset

    return Dataset.objects.create(description="t1")


def values(dataset) -> list[tuple[str, object, str]]:
    return [
        (parameter.name.name, parameter.get(), parameter.name.units)
        for parameter_set in dataset.datasetparameterset_set.all()
        for parameter in parameter_set.datasetparameter_set.order_by("name__order")
    ]


def test_each_type_is_kept_as_mytardis_has_it(dataset):
    from tardis.tardis_portal.models import ParameterName

    moment = datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    given = (
        Parameter("EchoTime", 9.2, "ms", "Echo Time"),
        Parameter("Rows", 96),
        Parameter("Study Date", moment),
        Parameter("Modality", "MR"),
        Parameter("Comment", "x" * 300),
    )
    set_parameters(Parameters(Level.DATASET, given), dataset.pk, NAMESPACE)
    types = dict(ParameterName.objects.values_list("name", "data_type"))
    assert types == {
        "EchoTime": ParameterName.NUMERIC,
        "Rows": ParameterName.NUMERIC,
        "Study Date": ParameterName.DATETIME,
        "Modality": ParameterName.STRING,
        "Comment": ParameterName.LONGSTRING,
    }
    assert [(name, units) for name, _, units in values(dataset)][0] == ("EchoTime", "ms")
    found = {name: value for name, value, _ in values(dataset)}
    assert (found["EchoTime"], found["Rows"]) == ("9.2 ms", "96.0")
    assert set(ParameterName.objects.values_list("is_searchable", flat=True)) == {True}


def test_again_brings_up_to_date_and_doubles_nothing(dataset):
    for value in (1.0, 2.0):
        set_parameters(Parameters(Level.DATASET, (Parameter("EchoTime", value),)), dataset.pk, NAMESPACE)
    ((name, value, _),) = values(dataset)
    assert (name, float(value)) == ("EchoTime", 2.0)


def test_two_series_of_one_dataset_have_a_set_each(dataset):
    for uid, value in (("1.1", 1.0), ("1.2", 2.0), ("1.1", 3.0)):
        set_parameters(
            Parameters(
                Level.DATASET,
                (Parameter("SeriesInstanceUID", uid), Parameter("EchoTime", value)),
                "SeriesInstanceUID",
            ),
            dataset.pk,
            NAMESPACE,
        )
    assert dataset.datasetparameterset_set.count() == 2
    assert [str(value) for _, value, _ in values(dataset)] == ["1.1", "3.0", "1.2", "2.0"]


def test_a_schema_of_another_type_is_refused_by_name(dataset):
    from tardis.tardis_portal.models import Schema

    Schema.objects.create(namespace=NAMESPACE, type=Schema.EXPERIMENT)
    with pytest.raises(PermanentError, match=f"{NAMESPACE} is .* not one for a dataset"):
        set_parameters(Parameters(Level.DATASET, (Parameter("Rows", 1),)), dataset.pk, NAMESPACE)


def test_an_administrators_type_of_a_parameter_is_kept(dataset):
    from tardis.tardis_portal.models import ParameterName, Schema

    schema = Schema.objects.create(namespace=NAMESPACE, type=Schema.DATASET)
    ParameterName.objects.create(
        schema=schema, name="Study Date", full_name="Day", units="", data_type=ParameterName.STRING
    )
    moment = datetime(2020, 1, 2, tzinfo=timezone.utc)
    set_parameters(Parameters(Level.DATASET, (Parameter("Study Date", moment),)), dataset.pk, NAMESPACE)
    assert values(dataset)[0][1].startswith("2020-01-02")
