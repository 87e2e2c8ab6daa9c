"""Views: thin, and behind MyTARDIS's own permission checks."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.mixins import UserPassesTestMixin
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.http import HttpRequest
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import ListView
from tardis.tardis_portal.views.pages import DatasetView

from .dataset_page import gather, outputs_of
from .models import Series
from .mytardis.reading import parameter_sets_for, pictures_other_than

MANY_SERIES = 20
"""A dataset of more has its metadata pane filled with those of the shown series only."""


@method_decorator(never_cache, name="dispatch")
class SeriesListView(UserPassesTestMixin, ListView):
    """How the received series stand; for staff, since titles may name people."""

    model = Series
    template_name = "tardis_imagetrove/series_list.html"
    paginate_by = 50
    raise_exception = False

    def test_func(self) -> bool:
        return self.request.user.is_active and self.request.user.is_staff

    @property
    def state(self) -> str:
        """The state that is asked for; empty for all."""
        state = self.request.GET.get("state", "")
        return state if state in Series.State.values else ""

    def get_queryset(self):  # noqa: ANN201 (a queryset)
        found = Series.objects.select_related("configuration", "dataset_key").order_by("-modified")
        return found.filter(state=self.state) if self.state else found

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        style = static_url("tardis_imagetrove/dataset.css")
        return super().get_context_data(
            state=self.state, states=Series.State.choices, imagetrove_style=style, **kwargs
        )


@method_decorator(never_cache, name="dispatch")
class DatasetPage(DatasetView):
    """MyTARDIS's page of a dataset, with its series: viewer, facts, conversions and downloads.

    MyTARDIS shows it for the schemas that ``DATASET_VIEWS`` names it for. Who may see it is
    asked by :class:`DatasetView` itself.
    """

    template_name = "tardis_imagetrove/dataset.html"

    def find_custom_view_override(self, request: HttpRequest, dataset: Any) -> None:
        """This is the override; looking for another would find this one again."""

    def get_context_data(self, request: HttpRequest, dataset: Any, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(request, dataset, **kwargs)
        page = gather(request, dataset.pk, request.GET.get("series", ""), context["has_download_permissions"])
        if len(page.lines) > MANY_SERIES:
            context["parametersets"] = parameter_sets_for(
                context["parametersets"], "SeriesInstanceUID", page.chosen.uid
            )
        # The standard preview goes on showing what the viewer does not.
        others = pictures_other_than(dataset, outputs_of(dataset.pk))
        dataset.get_images = lambda: others
        return {
            **context,
            "imagetrove": page,
            "imagetrove_script": static_url("tardis_imagetrove/dataset.js"),
            "imagetrove_style": static_url("tardis_imagetrove/dataset.css"),
            "imagetrove_niivue": static_url("tardis_imagetrove/niivue/niivue.umd.js"),
        }


def static_url(name: str) -> str:
    """Address of a static file; empty if this installation does not have it, or has not collected it."""
    if finders.find(name) is None:
        return ""
    try:
        return staticfiles_storage.url(name)
    except ValueError:  # a storage with a manifest knows only what was collected
        return ""
