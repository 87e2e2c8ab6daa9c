"""The API for scripts, under MyTARDIS's own at ``/api/v1/``: series with their states, retry, instruments.

MyTARDIS mounts every class here whose name ends in ``AppResource``, as
``tardis-imagetrove_<resource_name>``. An import that fails takes the API away without a word,
and any other error all of MyTARDIS: what may fail is imported where it is used.
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.db.models import Prefetch, Q, QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.urls import NoReverseMatch, URLPattern, re_path, reverse
from tardis.tardis_portal.api import MyTardisAuthentication
from tastypie import fields, http
from tastypie.authorization import Authorization
from tastypie.bundle import Bundle
from tastypie.exceptions import BadRequest, ImmediateHttpResponse, Unauthorized
from tastypie.resources import ModelResource
from tastypie.serializers import Serializer
from tastypie.utils import trailing_slash

from .errors import ImageTroveError, RetriableError
from .models import Archive, FilterOutput, FilterRun, InstrumentConfiguration, Series
from .mytardis import mytardis
from .reasons import render

#: States in which a series' reason speaks of its own files and conversions alone. In the others it
#: is the operators' business: it may name a storage box, or the title where late files would go.
_ENDED = (Series.State.DONE, Series.State.PARTIAL)

_OFFSET_DIGITS = 18
"""More make a number that databases cannot count to."""


def is_staff(request: HttpRequest) -> bool:
    """Whether the visitor may see everything here and have it tried again."""
    return request.user.is_active and request.user.is_staff


class SignedIn(MyTardisAuthentication):
    """MyTARDIS's session, password or API key; without any of them there is nothing here to see."""

    def is_authenticated(self, request: HttpRequest, **kwargs: object) -> bool | HttpResponse:
        if not hasattr(request.user, "allowed_tokens"):
            request.user.allowed_tokens = []  # which MyTARDIS takes for granted
        try:
            answer = super().is_authenticated(request, **kwargs)
        except ValueError:  # a name with a NUL, which PostgreSQL refuses to be asked for
            return False
        return answer if answer is not True else request.user.is_authenticated and request.user.is_active


class SeriesAuthorization(Authorization):
    """Staff see all series; others those whose dataset MyTARDIS lets them see."""

    def read_list(self, object_list: QuerySet[Series], bundle: Bundle) -> QuerySet[Series]:
        if is_staff(bundle.request):
            return object_list
        return object_list.filter(dataset_key__dataset__in=mytardis().visible_datasets(bundle.request.user))

    def read_detail(self, object_list: QuerySet[Series], bundle: Bundle) -> bool:
        if is_staff(bundle.request) or bundle.obj.pk is None:  # None: the resource's schema is asked for
            return True
        key = bundle.obj.dataset_key
        return key is not None and bool(mytardis().may_view_dataset(bundle.request, key.dataset_id))


class StaffAuthorization(Authorization):
    """For staff alone."""

    def read_list(self, object_list: QuerySet, bundle: Bundle) -> QuerySet:
        if not is_staff(bundle.request):
            raise Unauthorized
        return object_list

    def read_detail(self, object_list: QuerySet, bundle: Bundle) -> bool:
        return is_staff(bundle.request)


class ReadOnlyResource(ModelResource):
    """What both resources share: only reading, JSON, and 403 for whoever is signed in and may not."""

    id = fields.IntegerField(attribute="id")  # text in the tastypie of MyTARDIS 4.7

    class Meta:
        object_class = None  # each has its own
        list_allowed_methods = ("get",)
        detail_allowed_methods = ("get",)
        serializer = Serializer(formats=["json"])

    def obj_get_list(self, bundle: Bundle, **kwargs: object) -> QuerySet:
        for name, values in bundle.request.GET.lists():
            if any("\0" in value for value in values):  # which PostgreSQL takes in no text
                raise BadRequest(f"{name}: a value cannot contain a NUL character")
            if name == "offset" and any(len(value) > _OFFSET_DIGITS for value in values):
                raise BadRequest(f"{name}: a number has at most {_OFFSET_DIGITS} digits")
        return super().obj_get_list(bundle, **kwargs)

    def get_multiple(self, request: HttpRequest, **kwargs: object) -> HttpResponse:
        self.is_authenticated(request)
        for pk in str(kwargs["pk_list"]).split(";"):
            if not pk.isdecimal():
                raise BadRequest(f"{pk!r} is not an id")
        return super().get_multiple(request, **kwargs)

    def unauthorized_result(self, exception: Exception) -> None:
        raise ImmediateHttpResponse(response=http.HttpForbidden())


class SeriesAppResource(ReadOnlyResource):
    """Received series: how they stand, where they went, what was made of them."""

    instrument = fields.CharField(
        attribute="configuration__name", null=True, help_text="Name of the instrument's configuration."
    )
    dataset = fields.IntegerField(
        attribute="dataset_key__dataset_id", null=True, help_text="Id of the dataset in MyTARDIS."
    )
    dataset_url = fields.CharField(null=True, help_text="Its page.")
    reason = fields.CharField(attribute="reason", readonly=True, help_text="Why, as text.")
    reasons = fields.ListField(help_text="Why: code, text and subject of each reason.")
    left_out = fields.CharField(readonly=True, help_text="Why files stay in the spool.")
    archives = fields.ListField(help_text="Versions of the DICOM archive, the newest first.")
    filter_runs = fields.ListField(help_text="What the filters made of them, or why they did not.")

    class Meta(ReadOnlyResource.Meta):
        authentication = SignedIn()
        authorization = SeriesAuthorization()
        object_class = Series
        resource_name = "series"
        queryset = (
            Series.objects.select_related("configuration", "dataset_key")
            .prefetch_related(
                Prefetch("archives", Archive.objects.select_related("datafile").order_by("-version")),
                Prefetch("archives__runs", FilterRun.objects.order_by("filter")),
                Prefetch("archives__runs__outputs", FilterOutput.objects.order_by("kind", "datafile")),
            )
            .order_by("-modified", "-pk")
        )
        fields = (
            "id",
            "series_uid",
            "study_uid",
            "description",
            "modality",
            "state",
            "project",
            "directory",
            "created",
            "modified",
        )
        filtering = {"state": ("exact", "in"), "series_uid": ("exact", "in")}
        ordering = ("id", "created", "modified", "state")

    def build_filters(self, filters: QueryDict | None = None, **kwargs: object) -> dict[str, object]:
        filters = QueryDict(mutable=True) if filters is None else filters.copy()
        for name in ("state", "state__exact", "state__in"):
            for value in ",".join(filters.getlist(name)).split(",") if name in filters else ():
                if value not in Series.State.values:
                    raise BadRequest(
                        f"{name}: unknown state {value!r}; the states are {', '.join(Series.State.values)}"
                    )
        # Tastypie filters by fields of the model itself; this one is its configuration's.
        instruments = filters.pop("instrument", [])
        found = super().build_filters(filters, **kwargs)
        return {**found, "configuration__name__in": instruments} if instruments else found

    def apply_filters(self, request: HttpRequest, applicable_filters: dict[str, object]) -> QuerySet[Series]:
        # Whoever has the UID of an original must not find its de-identified copies by it.
        found = super().apply_filters(
            request, {k: v for k, v in applicable_filters.items() if not k.startswith("series_uid__")}
        )
        for name, value in applicable_filters.items():
            if name.startswith("series_uid__"):
                how = name.removeprefix("series_uid__")
                public = Q(**{f"shown_uid__{how}": value}) & ~Q(shown_uid="")
                own = Q(**{name: value})
                found = found.filter(public | (own if is_staff(request) else own & Q(shown_uid="")))
        return found

    def apply_sorting(self, obj_list: QuerySet[Series], options: QueryDict | None = None) -> QuerySet[Series]:
        # The last word is the id's, or pages of those of one state would repeat some and leave out others.
        found = super().apply_sorting(obj_list, options)
        return found.order_by(*found.query.order_by, "-pk")

    def dehydrate(self, bundle: Bundle) -> Bundle:
        series: Series = bundle.obj
        staff = is_staff(bundle.request)
        bundle.data["reasons"], bundle.data["left_out"] = series.reasons, render(series.left_out)
        if not staff:
            bundle.data["series_uid"] = series.public_uid
        if not staff and series.state not in _ENDED:
            bundle.data["reason"] = bundle.data["left_out"] = ""
            bundle.data["reasons"] = []
        bundle.data["dataset_url"] = _dataset_url(bundle.data["dataset"])
        archives = list(series.archives.all())
        if not staff:  # what is in a dataset that it had before may be what is not to be shown any more
            archives = [one for one in archives if one.datafile.dataset_id == bundle.data["dataset"]]
        shown = _shown_files(bundle, archives, staff)
        bundle.data["archives"] = [
            {
                "version": archive.version,
                "superseded": archive is not archives[0],
                "datafile": archive.datafile_id,
                "instances": archive.instance_count,
                "sha512": archive.sha512,
                "created": archive.created,
                "profile": archive.profile,
            }
            for archive in archives
            if archive.datafile_id in shown
        ]
        bundle.data["filter_runs"] = [
            {
                "archive_version": archive.version,
                "filter": run.filter,
                "filter_version": run.filter_version,
                "state": run.state,
                "reason": run.reason if staff or run.state not in FilterRun.UNFINISHED else "",
                "reasons": run.reasons if staff or run.state not in FilterRun.UNFINISHED else [],
                "warnings": run.warnings,
                "converter": run.converter,
                "options": run.options,
                "programs": run.programs,
                "exit_status": run.exit_status,
                "input_sha512": run.input_sha512 if archive.datafile_id in shown else "",
                "seconds": run.seconds,
                "memory_mib": run.memory_mib,
                "attempts": run.attempts,
                "outputs": [
                    {"kind": output.kind, "datafile": output.datafile_id}
                    for output in run.outputs.all()
                    if output.datafile_id in shown
                ],
            }
            for archive in archives
            for run in archive.runs.all()
        ]
        return bundle

    def prepend_urls(self) -> list[URLPattern]:
        return [
            re_path(
                rf"^(?P<resource_name>{self._meta.resource_name})/(?P<pk>\d+)/retry{trailing_slash()}$",
                self.wrap_view("retry"),
                name="imagetrove_retry_series",
            ),
            re_path(
                rf"^(?P<resource_name>{self._meta.resource_name})/(?P<pk>\d+)/act/(?P<action>[a-z]+){trailing_slash()}$",
                self.wrap_view("act"),
                name="imagetrove_act",
            ),
        ]

    def act(self, request: HttpRequest, pk: str, action: str, **kwargs: object) -> HttpResponse:
        """Do one of the board's actions with the series; for staff who may change series."""
        from .operations.actions import ACTIONS, NotPossible
        from .tasks import open_spool

        self.method_check(request, allowed=["post"])
        self.is_authenticated(request)
        self.throttle_check(request)
        if not is_staff(request) or not request.user.has_perm("tardis_imagetrove.change_series"):
            return http.HttpForbidden()
        series = Series.objects.filter(pk=pk).first() if len(pk) < 19 else None
        if series is None or action not in ACTIONS:
            return http.HttpNotFound()
        given = self.deserialize(request, request.body) if request.body else {}
        given = given if isinstance(given, dict) else {}
        why = given.get("why", "")
        if not isinstance(why, str) or len(why) > 500 or "\0" in why:
            raise BadRequest("why: a text of at most 500 characters")
        values = {one.name: given.get(one.name, "") for one in ACTIONS[action].inputs} if given else {}
        for name, value in values.items():
            if not isinstance(value, str) or len(value) > 500 or "\0" in value:
                raise BadRequest(f"{name}: a text of at most 500 characters")
        try:
            by = request.user.get_username()
            done = ACTIONS[action].execute(series, open_spool(), by, why, values)
        except NotPossible as error:
            return self.error_response(request, {"error": str(error)}, response_class=http.HttpConflict)
        except (ImageTroveError, ImproperlyConfigured) as error:
            return self.error_response(request, {"error": str(error)}, response_class=_Unavailable)
        return self.create_response(request, {"done": done})

    def retry(self, request: HttpRequest, pk: str, **kwargs: object) -> HttpResponse:
        """Queue the series' ingest and the filters that failed; staff only."""
        self.method_check(request, allowed=["post"])
        self.is_authenticated(request)
        self.throttle_check(request)
        if not is_staff(request):
            return http.HttpForbidden()
        series = Series.objects.filter(pk=pk).first() if len(pk) < 19 else None
        if series is None:
            return http.HttpNotFound()
        from .tasks import queue_again

        try:
            filters = queue_again(series, by=request.user.get_username())
        except RetriableError as error:
            return self.error_response(request, {"error": str(error)}, response_class=_Unavailable)
        self.log_throttled_access(request)
        queued = {"series_uid": series.series_uid, "filters": filters}
        return self.create_response(request, queued, response_class=http.HttpAccepted)


def _shown_files(bundle: Bundle, archives: list[Archive], staff: bool) -> frozenset[int]:
    """Ids of the archives, and of what was made of them, that the visitor may know of."""
    ids = [archive.datafile_id for archive in archives]
    for archive in archives:
        ids += [output.datafile_id for run in archive.runs.all() for output in run.outputs.all()]
    if staff:
        return frozenset(ids)
    return mytardis().viewable_datafiles(bundle.request, bundle.data["dataset"], ids)


class _Unavailable(HttpResponse):
    status_code = 503


def _dataset_url(dataset_id: int | None) -> str | None:
    if dataset_id is None:
        return None
    try:
        return reverse("tardis_portal.view_dataset", kwargs={"dataset_id": dataset_id})
    except NoReverseMatch:  # a site without MyTARDIS's own pages
        return None


class InstrumentAppResource(ReadOnlyResource):
    """How instruments are configured; it is changed in admin."""

    owner = fields.CharField(attribute="owner__username", help_text="The account that owns what is made.")
    mytardis_instrument = fields.IntegerField(attribute="mytardis_instrument_id", null=True)
    storage_box = fields.IntegerField(attribute="storage_box_id", null=True)

    class Meta(ReadOnlyResource.Meta):
        authentication = SignedIn()
        authorization = StaffAuthorization()
        object_class = InstrumentConfiguration
        resource_name = "instrument"
        queryset = InstrumentConfiguration.objects.select_related("owner").order_by("name")
        filtering = {"name": ("exact",), "enabled": ("exact",)}
        ordering = ("name", "modified")

    def dehydrate(self, bundle: Bundle) -> Bundle:
        for name in (
            "instrument",
            "experiment_title",
            "dataset_title",
            "default_operators",
            "filters",
            "deidentification_options",
        ):
            bundle.data[name] = getattr(bundle.obj, name)  # as lists, where tastypie would make text of them
        return bundle
