"""Views: thin, and behind MyTARDIS's own permission checks."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth.mixins import LoginRequiredMixin, UserPassesTestMixin
from django.contrib.auth.views import redirect_to_login
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse, QueryDict, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import ListView, TemplateView, View
from tardis.tardis_portal.views.pages import DatasetView

from .dataset_page import gather, outputs_of, pictured, thumbnails
from .errors import ImageTroveError, PermanentError
from .models import Audit, InstrumentConfiguration, ScanDownload, Series
from .mytardis import mytardis
from .mytardis.reading import experiments_of, parameter_sets_for, pictures_other_than
from .operations import bids, board, downloads, scans
from .operations.actions import ACTIONS, Action, NotPossible, do_all
from .operations.audit import open_findings
from .operations.large import CappedPaginator
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
    paginator_class = CappedPaginator

    def get_queryset(self):  # noqa: ANN201 (a queryset)
        self.search = scans.Search.of(self.request.GET)
        return self.search.found(self.request.user)

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        context = super().get_context_data(**kwargs)
        page = list(context["object_list"])
        datasets = {one.dataset_key.dataset_id for one in page}
        titles = experiments_of(datasets, mytardis().visible_experiments(self.request.user))
        return {
            **context,
            "rows": [(one, titles.get(one.dataset_key.dataset_id, ())) for one in page],
            # Whether a visitor may have a picture is asked where it is fetched: here it would be asked for each dataset.
            "pictured": pictured([one.pk for one in page]),
            "search": self.search,
            "own_query": self.search.query(),
            "measures": scans.choices(),
            "instruments": scans.instruments(self.request.user),
            "modalities": scans.modalities(self.request.user),
            "kinds": downloads.kinds(),
            "imagetrove_style": static_url("tardis_imagetrove/dataset.css"),
        }


@method_decorator(never_cache, name="dispatch")
class ThumbnailView(LoginRequiredMixin, View):
    """Leads to MyTARDIS's thumbnail of a series' newest picture, for whoever may have it."""

    http_method_names = ("get",)

    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        series = get_object_or_404(scans.visible(request.user).select_related("dataset_key"), pk=pk)
        if address := thumbnails(request, series.dataset_key.dataset_id, [pk]).get(pk):
            return redirect(address)
        raise Http404


@method_decorator(never_cache, name="dispatch")
class ChooseDownloadView(LoginRequiredMixin, View):
    """Lists the files of chosen scans; without those that cannot be had only once the visitor agrees."""

    http_method_names = ("post",)

    def post(self, request: HttpRequest) -> HttpResponse:
        given, problem, plan = request.POST, "", None
        whole = given.get("scope") == "found"
        ids = [int(pk) for pk in given.getlist("series") if pk.isdecimal() and len(pk) < 19]
        kinds = [kind for kind in downloads.kinds() if kind in given.getlist("kind")]
        search = scans.Search.of(QueryDict(given.get("filter", "")))
        found = search.found(request.user) if whole else scans.visible(request.user).filter(pk__in=ids)
        try:
            plan = downloads.plan(request, found, kinds)
            if not kinds:
                problem = "Choose at least one kind of file."
            elif not plan.files and not plan.left_out:
                problem = "There are no such files of the series that you chose."
        except PermanentError as error:
            problem = f"{error}."
        if plan and plan.files and not problem and (not plan.left_out or "agreed" in given):
            return redirect("tardis_imagetrove:download", downloads.keep(request.user, plan).token)
        context = {
            "problem": problem,
            "plan": plan,
            "scope": "found" if whole else "chosen",
            "ids": () if whole else ids,
            "kinds": kinds,
            "query": search.query(),
            "imagetrove_style": static_url("tardis_imagetrove/dataset.css"),
        }
        return render(
            request, "tardis_imagetrove/download_refused.html", context, status=400 if problem else 409
        )


def _kept(request: HttpRequest, token: UUID) -> downloads.Packed:
    """The visitor's own download of that address."""
    return downloads.Packed(get_object_or_404(ScanDownload, token=token, user=request.user))


@method_decorator(never_cache, name="dispatch")
class DownloadView(LoginRequiredMixin, TemplateView):
    """What a download holds, and how to have it."""

    template_name = "tardis_imagetrove/download.html"

    def get_context_data(self, token: UUID, **kwargs: object) -> dict[str, object]:
        packed = _kept(self.request, token)
        address = reverse("tardis_imagetrove:download-tar", args=[token])
        return super().get_context_data(
            packed=packed,
            problems=packed.problems(self.request),
            days=downloads.KEPT_DAYS,
            address=self.request.build_absolute_uri(address),
            page_address=self.request.build_absolute_uri(),
            imagetrove_style=static_url("tardis_imagetrove/dataset.css"),
            **kwargs,
        )


@method_decorator(never_cache, name="dispatch")
class TarView(View):
    """The bytes of a download, or of a part of it (RFC 9110, sections 13 and 14), to a session or an API key."""

    http_method_names = ("get", "head")

    def get(self, request: HttpRequest, token: UUID) -> HttpResponseBase:
        if not request.user.is_authenticated:
            # Here, since an import of MyTARDIS's API that fails should not take the pages with it.
            from .api import SignedIn

            if "Authorization" not in request.headers:
                return redirect_to_login(request.get_full_path())
            if SignedIn().is_authenticated(request) is not True:
                return HttpResponse("The API key or password is wrong.\n", "text/plain", 401)
        packed = _kept(request, token)
        if problems := packed.problems(request):
            told = "".join(f"{problem}.\n" for problem in [*problems[:20], "Select the scans again"])
            return HttpResponse(told, "text/plain; charset=utf-8", 409)
        # A part is asked for on the condition that the whole is still the same.
        asked = request.headers.get("Range", "")
        if request.headers.get("If-Range", packed.etag) != packed.etag:
            asked = ""
        try:
            part = downloads.part_of(asked, packed.size)
        except ValueError:
            answer = HttpResponse(status=416)
            answer["Content-Range"] = f"bytes */{packed.size}"
            return answer
        start, stop = part or (0, packed.size)
        content = packed.read(start, stop, downloads.Access(request)) if request.method == "GET" else ()
        answer = StreamingHttpResponse(content, content_type="application/x-tar", status=206 if part else 200)
        answer["Content-Length"] = str(stop - start)
        answer["Accept-Ranges"] = "bytes"
        answer["ETag"] = packed.etag
        answer["Content-Disposition"] = f'attachment; filename="{packed.filename}"'
        if part:
            answer["Content-Range"] = f"bytes {start}-{stop - 1}/{packed.size}"
        return answer


@method_decorator(never_cache, name="dispatch")
class BidsView(LoginRequiredMixin, TemplateView):
    """What a BIDS dataset of scans would hold, before it is built."""

    template_name = "tardis_imagetrove/bids.html"

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        style = static_url("tardis_imagetrove/dataset.css")
        found = bids.preview(self.request, self.request.GET)
        return super().get_context_data(preview=found, imagetrove_style=style, most=bids.MOST, **kwargs)

    def post(self, request: HttpRequest, **kwargs: object) -> HttpResponse:
        """Make the dataset of the address ready to be downloaded."""
        try:
            return redirect("tardis_imagetrove:download", bids.keep(request, request.GET).token)
        except PermanentError as error:
            return self.render_to_response(self.get_context_data(problem=str(error), **kwargs), status=400)


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
    paginator_class = CappedPaginator

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
                findings=open_findings().count(),
            ),
            **kwargs,
        )


@method_decorator(never_cache, name="dispatch")
class FindingsView(ForStaff, ListView):
    """What audits have found, the newest first."""

    template_name = "tardis_imagetrove/findings.html"
    paginate_by = 50

    def get_queryset(self):  # noqa: ANN201 (a queryset)
        return open_findings().order_by("-first_seen", "-pk")

    def get_context_data(self, **kwargs: object) -> dict[str, object]:
        shown = super().get_context_data(**self.context(last=Audit.objects.first()), **kwargs)
        uids = [finding.subject for finding in shown["object_list"]]
        found = dict(Series.objects.filter(series_uid__in=uids).values_list("series_uid", "pk"))
        shown["rows"] = [(finding, found.get(finding.subject)) for finding in shown["object_list"]]
        return shown


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
