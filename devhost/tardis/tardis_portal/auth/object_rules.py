"""Who may see, download and change what in MyTARDIS 4.7: datasets and files follow their experiments."""

from ..models import DataFile, Dataset, Experiment


def shown_files(request, datafiles):
    """Those of a dataset that its page lists: all."""
    return datafiles


def get_accessible_experiments(request):
    return Experiment.safe.all(request.user)


def get_accessible_experiments_for_dataset(request, dataset_id):
    return get_accessible_experiments(request).filter(datasets__id=dataset_id)


def get_owned_experiments(request):
    return Experiment.safe.owned(request.user)


def get_accessible_datafiles_for_user(request):
    return DataFile.objects.filter(dataset__experiments__in=get_accessible_experiments(request))


def has_experiment_ownership(request, experiment_id):
    return get_owned_experiments(request).filter(pk=experiment_id).exists()


def has_experiment_access(request, experiment_id):
    experiment = Experiment.objects.filter(pk=experiment_id).first()
    return experiment is not None and request.user.has_perm("tardis_acls.view_experiment", experiment)


def has_experiment_write(request, experiment_id):
    experiment = Experiment.objects.get(pk=experiment_id)
    return request.user.has_perm("tardis_acls.change_experiment", experiment)


def has_experiment_download_access(request, experiment_id):
    """By a rule or because it is public; being an administrator is not enough, as on the real host."""
    if Experiment.safe.owned_and_shared(request.user).filter(pk=experiment_id).exists():
        return True
    return Experiment.objects.get(pk=experiment_id).public_download_allowed()


def _experiments_of(dataset_id):
    """Ids of the experiments of a dataset; DoesNotExist if there is no such dataset."""
    return Dataset.objects.get(pk=dataset_id).experiments.values_list("pk", flat=True)


def has_dataset_ownership(request, dataset_id):
    return any(has_experiment_ownership(request, pk) for pk in _experiments_of(dataset_id))


def has_dataset_access(request, dataset_id):
    return any(has_experiment_access(request, pk) for pk in _experiments_of(dataset_id))


def has_dataset_write(request, dataset_id):
    if Dataset.objects.get(pk=dataset_id).immutable:
        return False
    return any(has_experiment_write(request, pk) for pk in _experiments_of(dataset_id))


def has_dataset_download_access(request, dataset_id):
    return any(has_experiment_download_access(request, pk) for pk in _experiments_of(dataset_id))


def has_datafile_access(request, datafile_id):
    dataset = Dataset.objects.filter(datafile=datafile_id).first()
    return dataset is not None and has_dataset_access(request, dataset.id)


def has_datafile_download_access(request, datafile_id):
    """DoesNotExist if there is no such file."""
    return has_dataset_download_access(request, Dataset.objects.get(datafile=datafile_id).id)
