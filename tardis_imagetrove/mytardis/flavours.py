"""The flavours of MyTARDIS, which differ in how they keep access rights and projects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from functools import cache

from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth.models import Group, User
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from ..errors import PermanentError
from .base import MyTardis


@cache
def mytardis() -> MyTardis:
    """The adapter of the MyTARDIS that this runs in, told by the models that it has."""
    if "objectacl" in apps.all_models["tardis_portal"]:
        return ObjectAclMyTardis()
    return TypedAclMyTardis()


class ObjectAclMyTardis(MyTardis):
    """MyTARDIS 4.7: one ``ObjectACL`` model; datasets and files follow their experiment."""

    def group_admins(self, group_id: int) -> list[str]:
        from tardis.tardis_portal.models import GroupAdmin

        admins = GroupAdmin.objects.filter(group_id=group_id, user__is_staff=False)
        return list(admins.order_by("user__username").values_list("user__username", flat=True))

    def grant_experiment(self, experiment_id: int, owner_id: int, group_id: int | None) -> None:
        from django.contrib.contenttypes.models import ContentType
        from tardis.tardis_portal.models import Experiment, ObjectACL

        def grant(plugin: str, entity: int, **rights: bool) -> None:
            ObjectACL.objects.get_or_create(
                content_type=ContentType.objects.get_for_model(Experiment),
                object_id=experiment_id,
                pluginId=plugin,
                entityId=str(entity),
                defaults={"aclOwnershipType": ObjectACL.SYSTEM_OWNED, "canRead": True, **rights},
            )

        # As MyTARDIS itself records who made an experiment.
        grant(
            "django_user",
            owner_id,
            canWrite=True,
            canDelete=True,
            isOwner=True,
            aclOwnershipType=ObjectACL.OWNER_OWNED,
        )
        if group_id is not None:
            grant("django_group", group_id)

    def visible_datasets(self, user: User) -> QuerySet:
        from tardis.tardis_portal.models import Dataset

        if user.is_active and user.is_superuser:
            return Dataset.objects.all()
        return Dataset.objects.filter(experiments__in=self.visible_experiments(user))

    def visible_experiments(self, user: User) -> QuerySet:
        from django.contrib.contenttypes.models import ContentType
        from tardis.tardis_portal.models import Experiment, ObjectACL

        if user.is_active and user.is_superuser:
            return Experiment.objects.all()
        who = Q(pluginId="django_user", entityId=str(user.pk))
        for provider, group in user.userprofile.ext_groups:
            who |= Q(pluginId=provider, entityId=str(group))
        rules = ObjectACL.objects.filter(
            who,
            Q(canRead=True) | Q(isOwner=True),
            ObjectACL.get_effective_query(),
            content_type=ContentType.objects.get_for_model(Experiment),
        )
        return Experiment.objects.filter(_public(Experiment) | Q(pk__in=rules.values("object_id")))

    @staticmethod
    def may_view_dataset(request: HttpRequest, dataset_id: int) -> bool:
        from tardis.tardis_portal.auth.decorators import has_dataset_access

        return has_dataset_access(request, dataset_id)

    @staticmethod
    def may_download_datafile(request: HttpRequest, datafile_id: int) -> bool:
        from tardis.tardis_portal.auth.decorators import has_datafile_download_access

        return has_datafile_download_access(request, datafile_id)

    def viewable_datafiles(
        self, request: HttpRequest, dataset_id: int, datafile_ids: Iterable[int]
    ) -> frozenset[int]:
        return frozenset(datafile_ids)

    def downloadable_datafiles(
        self, request: HttpRequest, dataset_id: int, datafile_ids: Iterable[int]
    ) -> frozenset[int]:
        from tardis.tardis_portal.auth.decorators import has_dataset_download_access

        allowed = has_dataset_download_access(request, dataset_id)
        return frozenset(datafile_ids) if allowed else frozenset()


#: What the owner and a group that may read are given; ownership types are ACL.OWNER_OWNED and SYSTEM_OWNED.
_OWNER = {
    "isOwner": True,
    "canRead": True,
    "canDownload": True,
    "canWrite": True,
    "canDelete": True,
    "canSensitive": True,
    "aclOwnershipType": 1,
}
_READER = {"canRead": True, "canDownload": True, "aclOwnershipType": 2}


class TypedAclMyTardis(MyTardis):
    """MyTARDIS 5.0: a model of access rights for each of experiment, dataset and file, and projects."""

    def group_admins(self, group_id: int) -> list[str]:
        from tardis.tardis_portal.models import GroupAdmin

        admins = GroupAdmin.objects.filter(group_id=group_id).select_related("admin_user", "admin_group")
        return sorted(
            [
                admin.admin_user.username
                for admin in admins
                if admin.admin_user and not admin.admin_user.is_staff
            ]
            + [f"the group {admin.admin_group.name}" for admin in admins if admin.admin_group]
        )

    @staticmethod
    def missing_setting() -> str:
        if hasattr(django_settings, "DEFAULT_PERMISSIONS"):
            return ""
        return "settings.DEFAULT_PERMISSIONS is missing: this MyTARDIS fails whenever a user is made"

    @staticmethod
    def site_problems() -> list[tuple[str, str]]:
        found = []
        try:
            reverse("tardis.apps.sftp:index")
        except NoReverseMatch:
            found.append(
                (
                    "MyTARDIS's pages of experiments and datasets link to tardis.apps.sftp, which is not there:"
                    " they answer 500 to everybody who may download.",
                    'INSTALLED_APPS += ("tardis.apps.sftp",), then migrate.',
                )
            )
        if problem := TypedAclMyTardis.missing_setting():
            found.append((f"{problem}.", "DEFAULT_PERMISSIONS = [] is enough."))
        return found

    @staticmethod
    def database_problems() -> list[tuple[str, str]]:
        number = getattr(django_settings, "PUBLIC_USER_ID", None)
        if User.objects.filter(pk=number).exists():
            return []
        return [
            (
                f"User {number} (PUBLIC_USER_ID) does not exist: MyTARDIS cannot save an experiment,"
                " dataset or file.",
                "PUBLIC_USER_ID is the id of the user PUBLIC_USER, which MyTARDIS's migrations make.",
            )
        ]

    @property
    def _per_object(self) -> bool:
        return not getattr(django_settings, "ONLY_EXPERIMENT_ACLS", True)

    @property
    def _has_projects(self) -> bool:
        return apps.is_installed("tardis.apps.projects")

    def remove_projects_of(self, username: str) -> None:
        if not self._has_projects:
            return
        from tardis.apps.projects.models import Project

        Project.objects.filter(created_by__username=username).delete()

    def grant_experiment(self, experiment_id: int, owner_id: int, group_id: int | None) -> None:
        from tardis.tardis_portal.models import ExperimentACL

        ExperimentACL.objects.get_or_create(experiment_id=experiment_id, user_id=owner_id, defaults=_OWNER)
        if group_id is not None:
            ExperimentACL.objects.get_or_create(
                experiment_id=experiment_id, group_id=group_id, defaults=_READER
            )

    def inherit_dataset_access(self, experiment_id: int, dataset_id: int) -> None:
        from tardis.tardis_portal.models import DatasetACL, ExperimentACL

        if self._per_object:
            _copy_rights(
                ExperimentACL.objects.filter(experiment_id=experiment_id), DatasetACL, dataset_id=dataset_id
            )

    def inherit_datafile_access(self, datafile_id: int) -> None:
        from tardis.tardis_portal.models import DataFile, DatafileACL, DatasetACL

        if self._per_object:
            dataset_id = DataFile.objects.values_list("dataset_id", flat=True).get(pk=datafile_id)
            _copy_rights(
                DatasetACL.objects.filter(dataset_id=dataset_id), DatafileACL, datafile_id=datafile_id
            )

    def visible_datasets(self, user: User) -> QuerySet:
        from tardis.tardis_portal.models import Dataset, DatasetACL

        if user.is_active and user.is_superuser:
            return Dataset.objects.all()
        if self._per_object:
            own = DatasetACL.objects.filter(*_readable_by(user)).values("dataset")
            return Dataset.objects.filter(_public(Dataset) | Q(pk__in=own))
        return Dataset.objects.filter(experiments__in=self.visible_experiments(user))

    def visible_experiments(self, user: User) -> QuerySet:
        from tardis.tardis_portal.models import Experiment, ExperimentACL

        if user.is_active and user.is_superuser:
            return Experiment.objects.all()
        shared = ExperimentACL.objects.filter(*_readable_by(user)).values("experiment")
        return Experiment.objects.filter(_public(Experiment) | Q(pk__in=shared))

    @staticmethod
    def may_view_dataset(request: HttpRequest, dataset_id: int) -> bool:
        from tardis.tardis_portal.auth.decorators import has_access

        return has_access(request, dataset_id, "dataset")

    @staticmethod
    def may_download_datafile(request: HttpRequest, datafile_id: int) -> bool:
        from tardis.tardis_portal.auth.decorators import has_download_access

        return has_download_access(request, datafile_id, "datafile")

    def viewable_datafiles(
        self, request: HttpRequest, dataset_id: int, datafile_ids: Iterable[int]
    ) -> frozenset[int]:
        from tardis.tardis_portal.models import DataFile

        if not self._per_object:
            return frozenset(datafile_ids)
        return _with_right(request.user, datafile_ids, "canRead", DataFile.PUBLIC_ACCESS_METADATA)

    def downloadable_datafiles(
        self, request: HttpRequest, dataset_id: int, datafile_ids: Iterable[int]
    ) -> frozenset[int]:
        from tardis.tardis_portal.auth.decorators import has_download_access
        from tardis.tardis_portal.models import DataFile

        if self._per_object:
            return _with_right(request.user, datafile_ids, "canDownload", DataFile.PUBLIC_ACCESS_METADATA + 1)
        allowed = has_download_access(request, dataset_id, "dataset")
        return frozenset(datafile_ids) if allowed else frozenset()

    @staticmethod
    def may_see_sensitive(request: HttpRequest, dataset_id: int) -> bool:
        from tardis.tardis_portal.auth.decorators import has_sensitive_access

        return has_sensitive_access(request, dataset_id, "dataset")

    def join_project(self, experiment_id: int, owner_id: int, group_id: int, ours: QuerySet) -> None:
        if not self._has_projects:
            return
        from tardis.apps.projects.models import Project, ProjectACL
        from tardis.tardis_portal.models import ExperimentACL

        # Projects have no unique name: the group, which has, is the lock.
        group = Group.objects.select_for_update().get(pk=group_id)
        named = Project.objects.filter(name=group.name)
        # A project's page shows the titles of all its experiments to whoever sees one of them.
        shared = ExperimentACL.objects.filter(group=group, experiment__in=ours).values("experiment")
        trusted = named.filter(
            Q(experiments__in=shared)
            | Q(created_by=owner_id)
            | Q(created_by__is_staff=True)
            | Q(created_by__is_superuser=True)
            | Q(created_by__groups=group)
        )
        project = trusted.order_by("pk").first()
        if project is None and (stranger := named.select_related("created_by").order_by("pk").first()):
            raise PermanentError(
                f"the project {group.name!r} was created by {stranger.created_by.username}, who is neither staff nor in the"
                " group of that name, and would be shown the titles of these scans; an administrator must rename the"
                " project or add its maker to the group"
            )
        if project is None:
            project = Project.objects.create(
                name=group.name,
                description="",
                principal_investigator_id=owner_id,
                created_by_id=owner_id,
            )
            ProjectACL.objects.create(project=project, user_id=owner_id, **_OWNER)
            ProjectACL.objects.create(project=project, group_id=group_id, **_READER)
        project.experiments.add(experiment_id)


def _granted_to(user: User) -> tuple[Q, Q]:
    """The rows of an ACL model of 5.0 that count for a user today."""
    from tardis.tardis_portal.auth.token_auth import TokenGroupProvider

    today = date.today()
    who = Q(token__in=TokenGroupProvider().getGroups(user) if hasattr(user, "allowed_tokens") else [])
    if user.is_authenticated:
        who |= Q(user=user) | Q(group__in=user.groups.all())
    # As 5.0 has it: only a row that has not begun and has ended does not count.
    return who, ~Q(effectiveDate__gte=today, expiryDate__lte=today)


def _readable_by(user: User) -> tuple[Q, Q, Q]:
    """The rows of an ACL model of 5.0 that let a user see their object today."""
    return (*_granted_to(user), Q(canRead=True) | Q(isOwner=True))


def _with_right(user: User, datafile_ids: Iterable[int], right: str, public: int) -> frozenset[int]:
    """Those files that are public from this level upwards, or on which a row of their own gives the right."""
    from tardis.tardis_portal.models import DataFile, DatafileACL

    wanted, found = list(datafile_ids), set()
    if user.is_active and user.is_superuser:
        return frozenset(wanted)
    allowed = DatafileACL.objects.filter(*_granted_to(user), Q(**{right: True}) | Q(isOwner=True))
    readable = DataFile.objects.filter(Q(public_access__gte=public) | Q(pk__in=allowed.values("datafile")))
    for start in range(0, len(wanted), 500):
        found.update(readable.filter(pk__in=wanted[start : start + 500]).values_list("pk", flat=True))
    return frozenset(found)


def _public(model) -> Q:  # noqa: ANN001 (a model of MyTARDIS with public_access)
    """What anybody may see: from metadata upwards; an embargo is below that."""
    return Q(public_access__gte=model.PUBLIC_ACCESS_METADATA)


def _copy_rights(source, model, **target: int) -> None:  # noqa: ANN001 (querysets and classes of MyTARDIS)
    """Give ``target`` the rights of ``source``, entry by entry, where it has none yet."""
    flags = ("canRead", "canDownload", "canWrite", "canDelete", "canSensitive", "isOwner", "aclOwnershipType")
    dates = ("effectiveDate", "expiryDate")
    for acl in source:
        model.objects.get_or_create(
            **target,
            user_id=acl.user_id,
            group_id=acl.group_id,
            token_id=acl.token_id,
            defaults={name: getattr(acl, name) for name in (*flags, *dates)},
        )
