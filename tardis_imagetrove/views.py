"""Views: thin, and behind MyTARDIS's own permission checks."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.mixins import LoginRequiredMixin, UserPassesTestMixin
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import ListView, TemplateView, View
from tardis.tardis_portal.views.pages import DatasetView

from .dataset_page import gather, outputs_of, thumbnails
from .errors import ImageTroveError, PermanentError
from .models import InstrumentConfiguration, Series
from .mytardis import mytardis
from .mytardis.reading import experiments_of, parameter_sets_for, pictures_other_than
from .operations import bids, board, scans
from .operations.actions import ACTIONS, Action, NotPossible, do_all
from .operations.mine import DAYS, mine
from .operations.status import spool_problems
from .tasks import open_spool

MANY_SERIES = 20
"""A dataset of more has its metadata pane filled with those of the shown series only."""


MOST_AT_ONCE = 1000
"""Series that one request does something with."""


class ForStaff(UserPassesTestMixin):
    """For staff, since titles may name people; nothing of it is kept by browsers."""

    raise_exception = False
    request: HttpRequest

    def test_func(self) -> bool:
        return self.request.user.is_active and self.request.user.is_staff

    @property
    def may_act(self) -> bool:
        """To see a series is not enough to do something with it."""
        return self.request.user.has_perm("tardis_imagetrove.change_series")

    def context(self, **more: object) -> dict[str, object]:
        """What all pages of the board have."""
        style = static_url("tardis_imagetrove/dataset.css")
        return {"imagetrove_style": style, "may_act": self.may_act, **more}


@method_decorator(never_cache, name="dispatch")
class MineView(LoginRequiredMixin, TemplateView):
    """Where a researcher's scans are."""

    template_name = "tardis_imagetrove/mine.html"

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        style = static_url("tardis_imagetrove/dataset.css")
        return super().get_context_data(
            mine=mine(self.request.user), days=DAYS, imagetrove_style=style, **kwargs
        )


@method_decorator(never_cache, name="dispatch")
class ScansView(LoginRequiredMixin, ListView):
    """All scans that the visitor may see, searched."""

    model = Series
    template_name = "tardis_imagetrove/scans.html"
    paginate_by = 50

    def get_queryset(self):  # noqa: ANN201 (a queryset)
        self.search = scans.Search.of(self.request.GET)
        return self.search.found(self.request.user)

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        context = super().get_context_data(**kwargs)
        page = list(context["object_list"])
        by_dataset: dict[int, list[int]] = {}
        for series in page:
            by_dataset.setdefault(series.dataset_key.dataset_id, []).append(series.pk)
        pictures: dict[int, str] = {}
        for dataset_id, ids in by_dataset.items():
            pictures.update(thumbnails(self.request, dataset_id, ids))
        titles = experiments_of(by_dataset, mytardis().visible_experiments(self.request.user))
        return {
            **context,
            "rows": [
                (one, pictures.get(one.pk, ""), titles.get(one.dataset_key.dataset_id, ())) for one in page
            ],
            "search": self.search,
            "own_query": self.search.query(),
            "measures": scans.choices(),
            "instruments": scans.instruments(self.request.user),
            "modalities": scans.modalities(self.request.user),
            "imagetrove_style": static_url("tardis_imagetrove/dataset.css"),
        }


@method_decorator(never_cache, name="dispatch")
class BidsView(LoginRequiredMixin, TemplateView):
    """What a BIDS dataset of scans would hold, before it is built."""

    template_name = "tardis_imagetrove/bids.html"

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        style = static_url("tardis_imagetrove/dataset.css")
        found = bids.preview(self.request, self.request.GET)
        return super().get_context_data(preview=found, imagetrove_style=style, most=bids.MOST, **kwargs)


class Acts(ForStaff):
    """For staff who may change series."""

    def test_func(self) -> bool:
        return super().test_func() and self.may_act


@method_decorator(never_cache, name="dispatch")
class SeriesListView(ForStaff, ListView):
    """How the received series stand."""

    model = Series
    template_name = "tardis_imagetrove/series_list.html"
    paginate_by = 50

    @property
    def search(self) -> board.Search:
        return board.Search.of(self.request.GET)

    def get_queryset(self):  # noqa: ANN201 (a queryset)
        return self.search.found()

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        search = self.search
        tabs = [{**vars(tab), "query": search.query(state=tab.state)} for tab in board.tabs()]
        return super().get_context_data(
            **self.context(
                search=search,
                state=search.state,
                tabs=tabs,
                all_query=search.query(state=""),
                own_query=search.query(),
                instruments=InstrumentConfiguration.objects.order_by("name"),
                modalities=board.choices("modality"),
                reasons=board.choices("reason_code"),
                actions=ACTIONS.values(),
                problems=spool_problems(),
            ),
            **kwargs,
        )


@method_decorator(never_cache, name="dispatch")
class SeriesView(ForStaff, TemplateView):
    """One series: what happened to it, why it stands as it does, and what can be done."""

    template_name = "tardis_imagetrove/series.html"

    def get_context_data(self, pk: int, **kwargs: object) -> dict[str, object]:
        series = get_object_or_404(Series.objects.select_related("configuration", "dataset_key"), pk=pk)
        shown, problem = None, ""
        try:
            shown = board.show(series, open_spool())
        except (ImageTroveError, ImproperlyConfigured) as error:
            problem = str(error)
        return super().get_context_data(**self.context(series=series, shown=shown, problem=problem), **kwargs)


@method_decorator(never_cache, name="dispatch")
class ExplainView(ForStaff, TemplateView):
    """What each instrument's rule says of a file that is uploaded, or of a series; nothing is kept."""

    template_name = "tardis_imagetrove/explain.html"

    def post(self, request: HttpRequest) -> HttpResponse:
        uid, upload = request.POST.get("uid", "").strip(), request.FILES.get("file")
        told: dict[str, object] = {"uid": uid[:64]}
        try:
            if upload is not None:
                verdicts = board.verdicts_of_bytes(upload.chunks())
            elif uid:
                verdicts = board.verdicts_of_series(uid, open_spool())
            else:
                raise PermanentError("choose a file, or give a SeriesInstanceUID")
            told["verdicts"] = board.in_words(verdicts)
        except (ImageTroveError, ImproperlyConfigured, OSError) as error:
            told["problem"] = f"{error}."
        return self.render_to_response(self.get_context_data(**self.context(**told)))

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        return super().get_context_data(**{**self.context(), **kwargs})


class Chosen(Acts, View):
    """The series that a form of the board is about, and the action."""

    http_method_names = ("post",)

    def setup(self, request: HttpRequest, *args: object, **kwargs: object) -> None:
        super().setup(request, *args, **kwargs)
        self.search = board.Search.of(QueryDict(request.POST.get("filter", "")))
        self.scope = "found" if request.POST.get("scope") == "found" else "chosen"
        self.ids = [int(pk) for pk in request.POST.getlist("series") if pk.isdecimal() and len(pk) < 19]

    def action(self) -> Action:
        """The action that is asked for."""
        action = ACTIONS.get(self.request.POST.get("action", ""))
        if action is None:
            raise Http404
        return action

    @property
    def given(self) -> dict[str, str]:
        """What the action takes beside the reason."""
        return {
            one.name: self.request.POST.get(one.name, "").replace("\0", "")[:500]
            for one in self.action().inputs
        }

    def chosen(self):  # noqa: ANN201 (a queryset)
        """The series, those that have waited longest first."""
        if self.scope == "found":
            return self.search.found().order_by("modified", "pk")
        return Series.objects.filter(pk__in=self.ids[:MOST_AT_ONCE]).order_by("modified", "pk")

    def ask(self, problem: str = "") -> HttpResponse:
        """The page that says what will be done, and with how many."""
        chosen = self.chosen()
        count = chosen.count()
        context = self.context(
            action=self.action(),
            count=count,
            first=chosen[:10],
            more=max(0, count - 10),
            most=MOST_AT_ONCE,
            query=self.search.query(),
            scope=self.scope,
            ids=self.ids if self.scope == "chosen" else (),
            why=self.request.POST.get("why", ""),
            inputs=[
                (one, one.choices() if one.choices else None, self.given.get(one.name, ""))
                for one in self.action().inputs
            ],
            problem=problem,
        )
        return render(self.request, "tardis_imagetrove/confirm.html", context, status=400 if problem else 200)


@method_decorator(never_cache, name="dispatch")
class ConfirmView(Chosen):
    """What an action would be done with; nothing is done yet."""

    def post(self, request: HttpRequest) -> HttpResponse:
        return self.ask()


@method_decorator(never_cache, name="dispatch")
class ActView(Chosen):
    """Do an action, and say what became of it with each series."""

    def post(self, request: HttpRequest) -> HttpResponse:
        action, why = self.action(), request.POST.get("why", "").replace("\0", "")[:500]
        if action.wants_why and not why.strip():
            return self.ask("Say why; it is kept with the series.")
        try:
            action.read(self.given)
            spool = open_spool()
        except (NotPossible, ImproperlyConfigured) as error:
            return self.ask(f"{error}.")
        by = request.user.get_username()
        outcomes = list(do_all(action, self.chosen()[:MOST_AT_ONCE], spool, by, why, self.given))
        context = self.context(
            action=action,
            outcomes=outcomes,
            done=sum(not one.problem for one in outcomes),
            query=self.search.query(),
        )
        return render(request, "tardis_imagetrove/acted.html", context)


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
