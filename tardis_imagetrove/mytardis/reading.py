"""What a page shows of MyTARDIS's own: files with their addresses, and parameters with units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.urls import reverse


@dataclass(frozen=True)
class StoredFile:
    """A file in a dataset.

    Attributes:
        size: bytes.
        verified: whether MyTARDIS hands it out yet.
        download_url: MyTARDIS's own address for it, where MyTARDIS asks whether one may have it.
        view_url: its address to look at in the browser; empty if MyTARDIS does not show the like.
        sha512: as it was stored, in hexadecimal.
    """

    id: int
    filename: str
    size: int
    verified: bool
    download_url: str
    view_url: str
    sha512: str


@dataclass(frozen=True)
class Fact:
    """A parameter with its unit; ``value`` is a number, an aware date or text."""

    name: str
    label: str
    value: float | datetime | str
    units: str


def stored_files(datafile_ids: Iterable[int] | QuerySet) -> dict[int, StoredFile]:
    """Files by their ids, in one query; what has been deleted is left out."""
    from tardis.tardis_portal.models import DataFile, DataFileObject

    copies = DataFileObject.objects.filter(datafile=OuterRef("pk"), verified=True)
    found = DataFile.objects.filter(pk__in=datafile_ids).annotate(has_verified_copy=Exists(copies))
    return {
        datafile.pk: StoredFile(
            id=datafile.pk,
            filename=datafile.filename,
            size=int(datafile.size or 0),
            verified=datafile.has_verified_copy,
            download_url=datafile.download_url,
            view_url=datafile.view_url or "",
            sha512=datafile.sha512sum or "",
        )
        for datafile in found
    }


def verified_datafiles(datafile_ids: Iterable[int] | QuerySet) -> frozenset[int]:
    """Those files that have a verified copy, in one query."""
    from tardis.tardis_portal.models import DataFileObject

    copies = DataFileObject.objects.filter(datafile__in=datafile_ids, verified=True)
    return frozenset(copies.values_list("datafile_id", flat=True))


def thumbnail_url(datafile_id: int, width: int, height: int) -> str:
    """The address of a picture made to fit into so many pixels, behind MyTARDIS's check of downloads."""
    return reverse(
        "tardis.tardis_portal.iiif.download_image",
        kwargs={
            "datafile_id": datafile_id,
            "region": "full",
            "size": f"!{width},{height}",
            "rotation": 0,
            "quality": "native",
            "format": "jpg",
        },
    )


def dataset_facts(dataset_id: int, key: str, value: str, sensitive: bool) -> tuple[Fact, ...]:
    """Parameters of those sets of a dataset in which ``key`` has ``value``, in MyTARDIS's order.

    Hidden schemas are left out, and so are, unless ``sensitive``, parameters marked as sensitive.
    """
    from tardis.tardis_portal.models import DatasetParameter, ParameterName

    sets = DatasetParameter.objects.filter(
        parameterset__dataset=dataset_id, name__name=key, string_value=value
    ).values("parameterset")
    found = DatasetParameter.objects.filter(
        parameterset__in=sets, parameterset__schema__hidden=False
    ).select_related("name")
    if not sensitive and any(field.name == "sensitive" for field in ParameterName._meta.get_fields()):
        found = found.exclude(name__sensitive=True)
    facts = []
    for parameter in found.order_by("name__order", "name__full_name"):
        name = parameter.name
        if name.isNumeric():
            content = parameter.numerical_value
        elif name.isDateTime():
            content = parameter.datetime_value
        else:
            content = parameter.string_value
        if content not in (None, ""):
            facts.append(Fact(name.name, name.full_name or name.name, content, name.units or ""))
    return tuple(facts)


@dataclass(frozen=True)
class Measure:
    """A numeric parameter that series can be found by."""

    name: str
    label: str
    units: str


def _open_names(namespaces: Iterable[str]) -> QuerySet:
    """Numeric parameters of schemas, neither hidden nor, on any terms, sensitive."""
    from tardis.tardis_portal.models import ParameterName

    found = ParameterName.objects.filter(
        schema__namespace__in=list(namespaces), schema__hidden=False, data_type=ParameterName.NUMERIC
    )
    if any(field.name == "sensitive" for field in ParameterName._meta.get_fields()):
        found = found.exclude(sensitive=True)
    return found


def measures(namespaces: Iterable[str]) -> list[Measure]:
    """What series can be found by; a pair of a smallest and a largest value (``bMin``, ``bMax``) is one."""
    rows = {name.name: name for name in _open_names(namespaces).order_by("name", "-pk")}
    found = {}
    for name, row in rows.items():
        label = row.full_name or name
        base = name[:-3]
        if name in (f"{base}Min", f"{base}Max") and {f"{base}Min", f"{base}Max"} <= rows.keys():
            name, label = base, label.rpartition(", ")[0] or base
        found[name] = Measure(name, label, row.units or "")
    return sorted(found.values(), key=lambda one: one.label.lower())


def sets_measured(namespaces: Iterable[str], name: str, least: float | None, most: float | None) -> QuerySet:
    """Ids of the datasets' parameter sets with a value in the range, or with values of which some may be."""
    from tardis.tardis_portal.models import DatasetParameter

    names = _open_names(namespaces)

    def sets(name: str, least: float | None, most: float | None) -> Q:
        values = DatasetParameter.objects.filter(name__in=names.filter(name=name))
        if least is not None:
            values = values.filter(numerical_value__gte=least)
        if most is not None:
            values = values.filter(numerical_value__lte=most)
        return Q(parameterset__in=values.values("parameterset"))

    spread = sets(f"{name}Max", least, None) & sets(f"{name}Min", None, most)
    found = DatasetParameter.objects.filter(sets(name, least, most) | spread)
    return found.values("parameterset")


def keyed_sets(key: str, value: object, dataset: object) -> QuerySet:
    """Parameters ``key`` of a dataset with a value; the arguments may be references to an outer query."""
    from tardis.tardis_portal.models import DatasetParameter

    return DatasetParameter.objects.filter(name__name=key, string_value=value, parameterset__dataset=dataset)


@dataclass(frozen=True)
class ExperimentTitle:
    """An experiment as a list names it."""

    id: int
    title: str


def experiment_title(experiment_id: int) -> str:
    """An experiment's title; empty if there is no such experiment."""
    from tardis.tardis_portal.models import Experiment

    return Experiment.objects.filter(pk=experiment_id).values_list("title", flat=True).first() or ""


def experiments_of(dataset_ids: Iterable[int], visible: QuerySet) -> dict[int, list[ExperimentTitle]]:
    """By dataset, its experiments among the visible ones, in one query."""
    from tardis.tardis_portal.models import Dataset

    links = Dataset.experiments.through.objects.filter(dataset__in=list(dataset_ids), experiment__in=visible)
    found: dict[int, list[ExperimentTitle]] = {}
    for dataset, pk, title in links.order_by("experiment_id").values_list(
        "dataset_id", "experiment_id", "experiment__title"
    ):
        found.setdefault(dataset, []).append(ExperimentTitle(pk, title))
    return found


def parameter_sets_for(sets: QuerySet, key: str, value: str) -> QuerySet:
    """Of a dataset's parameter sets those with ``value`` under ``key``, and those without ``key`` at all."""
    from tardis.tardis_portal.models import DatasetParameter

    keyed = DatasetParameter.objects.filter(name__name=key).exclude(string_value=value)
    return sets.exclude(pk__in=keyed.values("parameterset"))


def pictures_other_than(dataset, datafile_ids: QuerySet) -> QuerySet:  # noqa: ANN001 (a Dataset)
    """The dataset's pictures, as its page previews them, without these files."""
    return dataset.get_images().exclude(Q(pk__in=datafile_ids))
