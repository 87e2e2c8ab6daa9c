"""Parameter sets: named, typed values with units, under a schema, at experiments, datasets and files."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from ..errors import PermanentError
from ..parameters import Level, Parameter, Parameters

#: MyTARDIS's limits on names and units, and what fits in a line of its metadata pane.
NAME_LENGTH = 60
LINE_LENGTH = 200


def set_parameters(parameters: Parameters, object_id: int, namespace: str) -> None:
    """Make the object's parameter set under ``namespace`` hold these values.

    The schema and its parameter names are made where they are missing; what an administrator
    has changed in them (units, full names, order) stays. A set that is there already is
    brought up to date rather than doubled, and its other parameters stay.

    Raises:
        PermanentError: the schema exists and is of another type.
    """
    from tardis.tardis_portal import models as portal

    level = parameters.level
    set_model, parameter_model, owner = {
        Level.EXPERIMENT: (portal.ExperimentParameterSet, portal.ExperimentParameter, "experiment_id"),
        Level.DATASET: (portal.DatasetParameterSet, portal.DatasetParameter, "dataset_id"),
        Level.DATAFILE: (portal.DatafileParameterSet, portal.DatafileParameter, "datafile_id"),
    }[level]

    with transaction.atomic():
        schema, _ = portal.Schema.objects.get_or_create(
            namespace=namespace, defaults={"type": _schema_type(level), "name": f"ImageTrove {level.value}"}
        )
        if problem := schema_problem(level, namespace):
            raise PermanentError(problem)
        # The lock makes a second worker wait and then find the set, where MyTARDIS has no uniqueness.
        portal.Schema.objects.select_for_update().get(pk=schema.pk)
        sets = set_model.objects.filter(schema=schema, **{owner: object_id})
        if parameters.key:
            key = next(value.value for value in parameters.values if value.name == parameters.key)
            sets = sets.filter(
                pk__in=parameter_model.objects.filter(name__name=parameters.key, string_value=key).values(
                    "parameterset"
                )
            )
        parameter_set = sets.first()
        if parameter_set is None:
            parameter_set = set_model.objects.create(schema=schema, **{owner: object_id})
        for order, parameter in enumerate(parameters.values):
            name = _parameter_name(schema, parameter, order)
            parameter_model.objects.filter(parameterset=parameter_set, name=name).delete()
            parameter_model.objects.create(
                parameterset=parameter_set, name=name, **_value(name, parameter.value)
            )


def _schema_type(level: Level) -> int:
    from tardis.tardis_portal.models import Schema

    return {
        Level.EXPERIMENT: Schema.EXPERIMENT,
        Level.DATASET: Schema.DATASET,
        Level.DATAFILE: Schema.DATAFILE,
    }[level]


def schema_problem(level: Level, namespace: str) -> str:
    """Why the schema of that namespace does not do for ``level``; empty if it does, or is not made yet."""
    from tardis.tardis_portal.models import Schema

    schema = Schema.objects.filter(namespace=namespace).first()
    if schema is None or schema.type == _schema_type(level):
        return ""
    return (
        f"schema {namespace} is MyTARDIS's {schema.get_type_display()}, not one for a {level.value}:"
        " correct the instrument's configuration or the schema"
    )


def _parameter_name(schema, parameter: Parameter, order: int):  # noqa: ANN001, ANN202 (MyTARDIS models)
    from tardis.tardis_portal.models import ParameterName

    if isinstance(parameter.value, datetime):
        data_type = ParameterName.DATETIME
    elif isinstance(parameter.value, str):
        data_type = ParameterName.LONGSTRING if len(parameter.value) > LINE_LENGTH else ParameterName.STRING
    else:
        data_type = ParameterName.NUMERIC
    name, _ = ParameterName.objects.get_or_create(
        schema=schema,
        name=parameter.name[:NAME_LENGTH],
        defaults={
            "full_name": (parameter.full_name or parameter.name)[:NAME_LENGTH],
            "units": parameter.units[:NAME_LENGTH],
            "data_type": data_type,
            "is_searchable": True,
            "order": order + 1,
        },
    )
    return name


def _value(name, value: float | int | str | datetime) -> dict[str, object]:  # noqa: ANN001
    """The value in the column that the parameter's type, perhaps set by an administrator, reads."""
    if name.isNumeric():
        try:
            return {"numerical_value": float(value)}
        except (TypeError, ValueError):
            raise PermanentError(
                f"parameter {name.name} is numeric in MyTARDIS, but {value!r} is not a number"
            ) from None
    if name.isDateTime():
        if not isinstance(value, datetime):
            raise PermanentError(f"parameter {name.name} is a date in MyTARDIS, but {value!r} is not")
        return {"datetime_value": value}
    # PostgreSQL has no room for NUL, which some instruments pad with.
    return {
        "string_value": value.isoformat() if isinstance(value, datetime) else str(value).replace("\0", "")
    }
