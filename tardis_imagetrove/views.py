"""Views: thin, and behind MyTARDIS's own permission checks."""

from __future__ import annotations

from django.contrib.auth.mixins import UserPassesTestMixin
from django.views.generic import ListView

from .models import Series


class SeriesListView(UserPassesTestMixin, ListView):
    """How the received series stand; for staff, since titles may name people."""

    model = Series
    template_name = "tardis_imagetrove/series_list.html"
    paginate_by = 50
    raise_exception = False

    def test_func(self) -> bool:
        return self.request.user.is_active and self.request.user.is_staff

    def get_queryset(self):  # noqa: ANN201 (a queryset)
        found = Series.objects.select_related("configuration", "dataset_key").order_by("-modified")
        state = self.request.GET.get("state")
        return found.filter(state=state) if state in Series.State.values else found

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        return super().get_context_data(states=Series.State.choices, **kwargs)
