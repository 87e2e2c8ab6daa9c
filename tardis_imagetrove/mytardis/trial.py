"""A trial's people in MyTARDIS, and what came of them there: made to try a site out, and removed without a trace."""

from __future__ import annotations

import contextlib
import posixpath
from dataclasses import dataclass

from django.contrib.auth.models import Group, User

from . import accounts
from .flavours import mytardis

PREFIX = "imagetrove-selftest"


@dataclass(frozen=True)
class Names:
    """How everything that a trial makes is called; ``token`` is a trial's own.

    Attributes:
        group: of the project, whose members may see the series.
        namespace: that the schemas of its metadata begin with.
    """

    token: str

    @property
    def owner(self) -> str:
        return f"{PREFIX}-{self.token}-owner"

    @property
    def member(self) -> str:
        return f"{PREFIX}-{self.token}-member"

    @property
    def stranger(self) -> str:
        return f"{PREFIX}-{self.token}-stranger"

    @property
    def group(self) -> str:
        return f"{PREFIX}-{self.token}"

    @property
    def namespace(self) -> str:
        return f"http://imagetrove.example/{PREFIX}/{self.token}/"


@dataclass(frozen=True)
class People:
    """The accounts of a trial: who owns it, who is in its project, who has nothing to do with it."""

    owner: User
    member: User
    stranger: User


def make_people(names: Names) -> People:
    """Three accounts without passwords, and a group with one member.

    Raises:
        PermanentError: MyTARDIS cannot make accounts as the site is set up.
    """
    owner, member, stranger = (
        accounts.create(name, "", "ImageTrove", "self-test")
        for name in (names.owner, names.member, names.stranger)
    )
    member.groups.add(Group.objects.create(name=names.group))
    return People(owner, member, stranger)


def dataset_parameters(dataset_id: int, namespace: str) -> dict[str, str | float]:
    """Texts and numbers by name of the dataset's parameters under a schema."""
    from tardis.tardis_portal.models import DatasetParameter

    found = DatasetParameter.objects.filter(
        parameterset__dataset_id=dataset_id, parameterset__schema__namespace=namespace
    ).values_list("name__name", "string_value", "numerical_value")
    return {name: text or number for name, text, number in found}


def remove(names: Names) -> list[str]:
    """Remove whatever there is of a trial; returns words on what could not be removed."""
    from tardis.tardis_portal.models import Dataset, Experiment, Schema

    experiments = Experiment.objects.filter(created_by__username=names.owner)
    datasets = Dataset.objects.filter(experiments__in=experiments).distinct()
    left = _remove_files(datasets)
    Dataset.objects.filter(pk__in=list(datasets.values_list("pk", flat=True))).delete()
    experiments.delete()
    mytardis().remove_projects_of(names.owner)
    Schema.objects.filter(namespace__startswith=names.namespace).delete()
    Group.objects.filter(name=names.group).delete()
    User.objects.filter(username__in=(names.owner, names.member, names.stranger)).delete()
    return left


def _remove_files(datasets) -> list[str]:  # noqa: ANN001 (a queryset of datasets)
    """Delete the datasets' files, with their bytes and the folders that these leave empty."""
    from tardis.tardis_portal.models import DataFile, DataFileObject

    stored = [
        (dfo.storage_box, dfo.storage_box.get_initialised_storage_instance(), dfo.uri)
        for dfo in DataFileObject.objects.filter(datafile__dataset__in=datasets).select_related("storage_box")
    ]
    DataFile.objects.filter(dataset__in=datasets).delete()
    left = []
    for box, storage, uri in stored:
        try:
            if storage.exists(uri):
                left.append(
                    f"storage box {box}: {uri} still exists: is the box's attribute can_delete false?"
                )
                continue
        except Exception as error:  # storages raise what they like
            left.append(f"storage box {box}: {uri}: {type(error).__name__}: {error}")
            continue
        # A storage of files removes a folder that is empty, and refuses another.
        while (uri := posixpath.dirname(uri)) and hasattr(storage, "location"):
            with contextlib.suppress(Exception):
                if not any(storage.listdir(uri)):
                    storage.delete(uri)
    return left
