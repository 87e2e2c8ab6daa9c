"""The pages of the index, an experiment and a dataset, which apps may replace or extend."""

import logging
import re

from django.conf import settings
from django.contrib.sites.shortcuts import get_current_site
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.paginator import Paginator
from django.db.models import Count, Exists, OuterRef, Sum
from django.utils.module_loading import import_string
from django.views.generic.base import TemplateView

from ..auth import decorators as authz
from ..models import DataFileObject, Dataset, Experiment
from ..shortcuts import (
    get_experiment_referer,
    render_response_index,
    return_response_error,
    return_response_not_found,
)

logger = logging.getLogger(__name__)

FILES_ON_A_PAGE = 100
EXPERIMENTS_ON_THE_INDEX = 8


def _resolve_view(view):
    """The function of a view given as it is, as a class, or by its dotted name (ImportError)."""
    if isinstance(view, str):
        view = import_string(view)
    return view.as_view() if hasattr(view, "as_view") else view


def _override(candidates, request, **kwargs):
    """The answer of the first candidate that can be imported, or None.

    One that cannot is logged, and raised when DEBUG is on.
    """
    for candidate in candidates:
        try:
            return _resolve_view(candidate)(request, **kwargs)
        except (ImportError, AttributeError) as error:
            logger.error("custom view import failed. view name: %r, error-msg: %s", candidate, error)
            if settings.DEBUG:
                raise
    return None


def site_routed_view(request, default_view, site_mappings, **kwargs):
    """The view that `site_mappings` (domain or Site id -> view) has for this site, else the default."""
    candidates = []
    if site_mappings:
        site = get_current_site(request)
        chosen = site_mappings.get(site.domain) or site_mappings.get(site.id)
        candidates = [chosen] if chosen else []
    answer = _override(candidates, request, **kwargs)
    return answer if answer is not None else _resolve_view(default_view)(request, **kwargs)


def _overrides_for(parametersets, views):
    """Views whose pattern matches the namespace of one of the parameter sets, in their order."""
    namespaces = [parameterset.schema.namespace for parameterset in parametersets]
    return [view for pattern, view in views if any(re.match(pattern, name) for name in namespaces)]


def rapid_connect_context():
    """What the index page says of Rapid Connect; like the real one it breaks without an address."""
    if not settings.RAPID_CONNECT_ENABLED:
        return {"RAPID_CONNECT_ENABLED": False}
    address = settings.RAPID_CONNECT_CONFIG.get("authnrequest_url")
    if not address:
        raise ImproperlyConfigured(
            "RAPID_CONNECT_CONFIG['authnrequest_url'] must be set when RAPID_CONNECT_ENABLED is True."
        )
    return {"RAPID_CONNECT_ENABLED": True, "RAPID_CONNECT_LOGIN_URL": address}


class IndexView(TemplateView):
    """The newest experiments the visitor may see."""

    template_name = "tardis_portal/index.html"

    def get_context_data(self, request, **kwargs):
        context = super().get_context_data(**kwargs)
        context.update(rapid_connect_context())
        newest = Experiment.objects.annotate(dataset_count=Count("datasets")).order_by("-update_time")
        if request.user.is_authenticated:
            seen = Experiment.safe.owned_and_shared(request.user).values("pk")
            context["private_experiments"] = newest.filter(pk__in=seen)[:EXPERIMENTS_ON_THE_INDEX]
        public = Experiment.safe.public().values("pk")
        context["public_experiments"] = newest.filter(pk__in=public)[:EXPERIMENTS_ON_THE_INDEX]
        return context

    def get(self, request, *args, **kwargs):
        return render_response_index(request, self.template_name, self.get_context_data(request, **kwargs))


class ExperimentView(TemplateView):
    """One experiment with its datasets; an app may subclass it and name it in EXPERIMENT_VIEWS."""

    template_name = "tardis_portal/view_experiment.html"

    def find_custom_view_override(self, request, experiment):
        """The answer of a view of EXPERIMENT_VIEWS, or None; a subclass there must return None."""
        views = _overrides_for(experiment.getParameterSets(), settings.EXPERIMENT_VIEWS)
        return _override(views, request, experiment_id=experiment.id)

    def get_context_data(self, request, experiment, **kwargs):
        context = super().get_context_data(**kwargs)
        datasets = experiment.datasets.annotate(file_count=Count("datafile"), bytes=Sum("datafile__size"))
        context.update(
            experiment=experiment,
            subtitle=experiment.title,
            has_write_permissions=authz.may_change(request, experiment.id, "experiment"),
            has_download_permissions=authz.may_download(request, experiment.id, "experiment"),
            parametersets=experiment.getParameterSets().exclude(schema__hidden=True),
            datasets=datasets.select_related("instrument").order_by(settings.DATASET_ORDERING),
        )
        if request.user.is_authenticated:
            context["is_owner"] = authz.owns(request, experiment.id, "experiment")
        return context

    def get(self, request, *args, **kwargs):
        try:
            experiment = Experiment.safe.get(request.user, kwargs["experiment_id"])
        except Experiment.DoesNotExist:
            # As on the real host a visitor who has not signed in is not told what exists.
            if request.user.is_authenticated:
                return return_response_not_found(request)
            return return_response_error(request)
        except PermissionDenied:
            return return_response_error(request)
        override = self.find_custom_view_override(request, experiment)
        if override is not None:
            return override
        template = kwargs.get("template_name") or self.template_name
        return render_response_index(request, template, self.get_context_data(request, experiment))


class DatasetView(TemplateView):
    """One dataset with its files; an app may subclass it and name it in DATASET_VIEWS."""

    template_name = "tardis_portal/view_dataset.html"

    def find_custom_view_override(self, request, dataset):
        """The answer of a view of DATASET_VIEWS, or None; a subclass there must return None."""
        views = _overrides_for(dataset.getParameterSets(), settings.DATASET_VIEWS)
        return _override(views, request, dataset_id=dataset.id)

    def get_context_data(self, request, dataset, **kwargs):
        context = super().get_context_data(**kwargs)
        instrument = dataset.instrument
        verified = DataFileObject.objects.filter(datafile=OuterRef("pk"), verified=True)
        files = authz.shown_files(request, dataset.datafile_set.annotate(is_verified=Exists(verified)))
        files = files.order_by("directory", "filename")
        limit = settings.MAX_IMAGES_IN_CAROUSEL
        context.update(
            dataset=dataset,
            subtitle=dataset.description,
            datafile_count=files.count(),
            datafiles=Paginator(files, FILES_ON_A_PAGE).get_page(request.GET.get("page")),
            parametersets=dataset.getParameterSets().exclude(schema__hidden=True),
            has_download_permissions=authz.may_download(request, dataset.id, "dataset"),
            has_write_permissions=authz.may_change(request, dataset.id, "dataset"),
            from_instrument=instrument.name if instrument else None,
            from_facility=instrument.facility.name if instrument else None,
            from_experiment=get_experiment_referer(request, dataset.id),
            other_experiments=authz.get_accessible_experiments_for_dataset(request, dataset.id),
            carousel_slice=f":{limit}" if limit else ":",
            protocol=[list(item) for item in dataset.get_download_urls().items()],
            default_format=settings.DEFAULT_ARCHIVE_FORMATS[0],
        )
        return context

    def get(self, request, *args, **kwargs):
        dataset_id = kwargs["dataset_id"]
        try:
            if not authz.may_view(request, dataset_id, "dataset"):
                return return_response_error(request)
        except Dataset.DoesNotExist:
            return return_response_not_found(request)
        dataset = Dataset.objects.get(pk=dataset_id)
        override = self.find_custom_view_override(request, dataset)
        if override is not None:
            return override
        template = kwargs.get("template_name") or self.template_name
        return render_response_index(request, template, self.get_context_data(request, dataset, **kwargs))
