"""Pictures: those that parameters name, and the one that stands for a dataset."""

from django.conf import settings
from django.core.files.storage import FileSystemStorage
from django.http import FileResponse, HttpResponseNotFound, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.views.decorators.cache import never_cache

from ..auth import decorators as authz
from ..models import Dataset, DatasetParameter, ExperimentParameter
from ..shortcuts import return_response_error


def _load_image(parameter):
    """The file under METADATA_STORE_PATH that the parameter names; its units are the mimetype."""
    try:
        picture = FileSystemStorage(settings.METADATA_STORE_PATH).open(parameter.string_value)
    except OSError:
        return HttpResponseNotFound()
    return FileResponse(picture, content_type=parameter.name.units)


@never_cache
def load_experiment_image(request, parameter_id):
    parameter = get_object_or_404(ExperimentParameter, pk=parameter_id)
    if not authz.may_view(request, parameter.parameterset.experiment_id, "experiment"):
        return return_response_error(request)
    return _load_image(parameter)


@never_cache
def load_dataset_image(request, parameter_id):
    parameter = get_object_or_404(DatasetParameter, pk=parameter_id)
    if not authz.may_view(request, parameter.parameterset.dataset_id, "dataset"):
        return return_response_error(request)
    return _load_image(parameter)


@authz.dataset_access_required
def dataset_thumbnail(request, dataset_id):
    address = Dataset.objects.get(pk=dataset_id).get_thumbnail_url()
    return HttpResponseRedirect(address) if address else HttpResponseNotFound()
