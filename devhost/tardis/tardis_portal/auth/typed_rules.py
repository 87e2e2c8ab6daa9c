"""Who may see, download and change what in MyTARDIS 5.0: by the experiment's rights, or by each object's own."""

from django.conf import settings
from django.db.models import Q

from ..models import DataFile, DatafileACL, Dataset, DatasetACL, Experiment, ExperimentACL
from ..models.typed_acl import public_user

MODELS = {"experiment": Experiment, "dataset": Dataset, "datafile": DataFile}
ACLS = {"experiment": ExperimentACL, "dataset": DatasetACL, "datafile": DatafileACL}
RIGHTS = {
    "view": "canRead",
    "download": "canDownload",
    "change": "canWrite",
    "sensitive": "canSensitive",
    "delete": "canDelete",
}


def has_right(user, action, kind, obj):
    """By a row of the object's own; an owner may do everything."""
    acls = {**ACLS, **_project_acls()}
    right = Q(isOwner=True) | (Q(**{RIGHTS[action]: True}) if action in RIGHTS else Q())
    return acls[kind].objects.filter(acls[kind].granted_to(user), right, **{kind: obj}).exists()


def _project_acls():
    from tardis.apps.projects.models import ProjectACL

    return {"project": ProjectACL}


def _object(kind, pk):
    from tardis.apps.projects.models import Project

    return {**MODELS, "project": Project}[kind].objects.filter(pk=pk).first()


def _experiments(kind, obj):
    if kind == "datafile":
        return obj.dataset.experiments.all()
    return obj.experiments.all()


def has_X_access(request, obj_id, ct_type, perm_type):  # noqa: N802 (the real host's name)
    """False also for what does not exist."""
    obj = _object(ct_type, obj_id)
    if obj is None:
        return False
    if perm_type == "change" and (getattr(obj, "immutable", False) or getattr(obj, "locked", False)):
        return False
    if settings.ONLY_EXPERIMENT_ACLS and ct_type != "experiment":
        return any(
            has_X_access(request, experiment.pk, "experiment", perm_type)
            for experiment in _experiments(ct_type, obj)
        )
    return request.user.has_perm(f"tardis_acls.{perm_type}_{ct_type}", obj)


def has_access(request, obj_id, ct_type):
    return has_X_access(request, obj_id, ct_type, "view")


def has_download_access(request, obj_id, ct_type):
    return has_X_access(request, obj_id, ct_type, "download")


def has_write(request, obj_id, ct_type):
    return has_X_access(request, obj_id, ct_type, "change")


def has_sensitive_access(request, obj_id, ct_type):
    return has_X_access(request, obj_id, ct_type, "sensitive")


def has_ownership(request, obj_id, ct_type):
    """A row says so; being an administrator is not enough."""
    if ct_type == "experiment" or not settings.ONLY_EXPERIMENT_ACLS:
        owned = ACLS[ct_type].objects.filter(ACLS[ct_type].granted_to(request.user), isOwner=True)
        return request.user.is_authenticated and owned.filter(**{ct_type: obj_id}).exists()
    experiments = _experiments(ct_type, _object(ct_type, obj_id))
    return any(has_ownership(request, experiment.pk, "experiment") for experiment in experiments)


def shown_files(request, datafiles):
    """Those of a dataset that its page lists: all, or those that name the visitor or everybody."""
    if settings.ONLY_EXPERIMENT_ACLS:
        return datafiles
    rows = DatafileACL.objects.filter(DatafileACL.granted_to(request.user) | Q(user=public_user()))
    return datafiles.filter(pk__in=rows.values("datafile"))


def get_accessible_experiments(request):
    return Experiment.safe.all(user=request.user)


def get_accessible_experiments_for_dataset(request, dataset_id):
    return get_accessible_experiments(request).filter(datasets__id=dataset_id)


def get_accessible_datafiles_for_user(request):
    return DataFile.objects.filter(dataset__experiments__in=get_accessible_experiments(request))
