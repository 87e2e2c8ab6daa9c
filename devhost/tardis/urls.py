"""The host's addresses, and those of the apps it finds."""

import logging
from importlib import import_module

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include, path, re_path
from tardis.app_config import format_app_name_for_url, get_tardis_apps
from tardis.tardis_portal import api, download, iiif, views
from tardis.tardis_portal.flavour import TYPED
from tastypie.api import Api
from tastypie.resources import Resource

logger = logging.getLogger(__name__)


def _app_pages():
    """Each app's `urls` under its name; as on the real host one that fails to import is left out."""
    for label, package in get_tardis_apps():
        try:
            yield path(f"{format_app_name_for_url(label)}/", include(f"{package}.urls"))
        except Exception:
            logger.exception("The pages of %s are not mounted", package)


def _app_resources():
    """Each app's `*AppResource` classes of its `api`, renamed to start with the app's name."""
    for label, package in get_tardis_apps():
        try:
            module = import_module(f"{package}.api")
        except ImportError as error:
            logger.debug("%s has no API: %s", package, error)
            continue
        for name in dir(module):
            resource = getattr(module, name)
            if not name.endswith("AppResource") or not issubclass(resource, Resource):
                continue
            if not resource._meta.resource_name.startswith(label):
                prefix = format_app_name_for_url(label)
                resource._meta.resource_name = f"{prefix}_{resource._meta.resource_name}"
            yield resource


def _links_of_the_flavour():
    """5.0's own pages link to its SFTP app."""
    if TYPED:
        page = path("", views.IndexView.as_view(), name="index")
        yield path("apps/sftp/", include(([page], "sftp"), namespace="tardis.apps.sftp"))


v1_api = Api(api_name="v1")
for _resource in (api.ExperimentResource, api.DatasetResource, api.DataFileResource, *_app_resources()):
    v1_api.register(_resource())

_IMAGE = r"^datafile/iiif/(?P<datafile_id>\d+)/(?P<region>[^/]+)/(?P<size>[^/]+)/(?P<rotation>[\d.]+)/"

_DATASET, _THUMBNAIL = (
    (r"^dataset/view/(?P<dataset_id>\d+)/$", r"^dataset/thumbnail/(?P<dataset_id>\d+)/$")
    if TYPED
    else (r"^dataset/(?P<dataset_id>\d+)$", r"^dataset/(?P<dataset_id>\d+)/thumbnail$")
)

urlpatterns = [
    path("api/", include(v1_api.urls)),
    re_path(
        r"^experiment/view/(?P<experiment_id>\d+)/$",
        views.ExperimentView.as_view(),
        name="tardis_portal.view_experiment",
    ),
    re_path(_DATASET, views.DatasetView.as_view(), name="tardis_portal.view_dataset"),
    re_path(
        _THUMBNAIL,
        views.dataset_thumbnail,
        name="tardis.tardis_portal.views.dataset_thumbnail",
    ),
    re_path(
        r"^datafile/view/(?P<datafile_id>\d+)/$",
        download.view_datafile,
        name="tardis.tardis_portal.download.view_datafile",
    ),
    re_path(
        _IMAGE + r"(?P<quality>\w+)$",
        iiif.download_image,
        name="tardis.tardis_portal.iiif.download_image",
    ),
    re_path(
        _IMAGE + r"(?P<quality>\w+).(?P<format>\w+)$",
        iiif.download_image,
        name="tardis.tardis_portal.iiif.download_image",
    ),
    re_path(
        r"^download/datafile/(?P<datafile_id>\d+)/$",
        download.download_datafile,
        name="tardis.tardis_portal.download.download_datafile",
    ),
    re_path(
        r"^download/dataset/(?P<dataset_id>\d+)/$",
        download.streaming_download_dataset,
        name="tardis.tardis_portal.download.streaming_download_dataset",
    ),
    re_path(
        r"^download/dataset/(?P<dataset_id>\d+)/(?P<comptype>[a-z]{3})/$",
        download.streaming_download_dataset,
        name="tardis.tardis_portal.download.streaming_download_dataset",
    ),
    re_path(
        r"^display/DatasetImage/load/(?P<parameter_id>\d+)/$",
        views.load_dataset_image,
        name="tardis.tardis_portal.views.load_dataset_image",
    ),
    re_path(
        r"^display/ExperimentImage/load/(?P<parameter_id>\d+)/$",
        views.load_experiment_image,
        name="tardis.tardis_portal.views.load_experiment_image",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("apps/", include(list(_app_pages()))),
    *_links_of_the_flavour(),
    path(
        "",
        views.site_routed_view,
        {"default_view": views.IndexView.as_view(), "site_mappings": settings.INDEX_VIEWS},
        name="tardis.tardis_portal.views.index",
    ),
    path(
        "login/",
        views.site_routed_view,
        {"default_view": views.login, "site_mappings": settings.LOGIN_VIEWS},
        name="tardis.tardis_portal.views.login",
    ),
    *staticfiles_urlpatterns(),
]
