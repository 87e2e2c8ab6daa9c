"""Admin: instruments are configured here, and operators see how series stand and have them tried again."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from itertools import islice

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_permission_codename
from django.core.exceptions import ImproperlyConfigured, PermissionDenied, ValidationError
from django.core.validators import URLValidator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.shortcuts import render as render_page
from django.urls import URLPattern, path, reverse
from django.utils.html import escape
from django.utils.timezone import now

from .conversion import registry
from .deidentification import Option
from .errors import ImageTroveError, RetriableError
from .filters.base import Filter
from .folder_sources import MOST_LEFT_OUT, left_out
from .models import (
    Archive,
    AuditFinding,
    Event,
    FilterOutput,
    FilterRun,
    FolderSource,
    InstrumentConfiguration,
    Notice,
    PixelRule,
    ProjectGroup,
    Sender,
    Series,
    Subscription,
)
from .operations.pixel_rules import try_rule
from .operations.trying import try_instrument
from .reasons import render
from .signin.admin import FederatedIdentityAdmin, ProjectMemberAdmin  # noqa: F401


class LinesField(forms.CharField):
    """A list of names, one a line."""

    widget = forms.Textarea

    def __init__(self, **kwargs: object) -> None:
        super().__init__(widget=forms.Textarea(attrs={"rows": 3, "cols": 60}), **kwargs)

    def prepare_value(self, value: object) -> object:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: object) -> list[str]:
        return [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]


class PairsField(LinesField):
    """Name/value pairs, one ``Name = value`` a line."""

    def prepare_value(self, value: object) -> object:
        return super().prepare_value(
            [" = ".join(pair) for pair in value] if isinstance(value, list) else value
        )

    def to_python(self, value: object) -> list[list[str]]:
        pairs = []
        for line in super().to_python(value):
            name, equals, wanted = line.partition("=")
            if not equals:
                raise forms.ValidationError(f"{line!r} needs an = between the DICOM field and its value.")
            pairs.append([name.strip(), wanted.strip()])
        return pairs


def _about(conversion: Filter) -> str:
    """A filter in words: its name, what it makes, and of what."""
    kinds = ", ".join(dict.fromkeys(made.kind for made in conversion.makes)) or conversion.title
    takes = conversion.takes
    of = [*(["with pixels"] if takes.pixels else []), *sorted(takes.modalities)]
    return f"{conversion.name} ({kinds}{', of series ' + ', '.join(of) if of else ''})"


class InstrumentConfigurationForm(forms.ModelForm):
    instrument = PairsField(
        label="Matching DICOM fields",
        help_text="Fields and values that must all match, one per line: ManufacturerModelName = Skyra",
    )
    experiment_title = LinesField(
        help_text="DICOM fields, one per line. Their values, joined by /, make the title."
    )
    dataset_title = LinesField(
        help_text="DICOM fields, one per line. Their values, joined by /, make the title."
    )
    default_operators = LinesField(required=False, help_text="Names or mail addresses, one per line.")
    filters = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Conversion filters to run; none ticked means all.",
    )

    deidentification_options = forms.MultipleChoiceField(
        label="De-identification options",
        required=False,
        choices=[(option.value, option.title) for option in Option],
        widget=forms.CheckboxSelectMultiple,
        help_text="Attributes that are kept in spite of the profile. None ticked is the strictest.",
    )

    bids_rules = forms.CharField(
        label="Rules",
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 8, "cols": 100, "spellcheck": "false"}),
        help_text="One per line; the first match counts. "
        r"ProtocolName ~ fmri_(?P&lt;task&gt;\w+) => func/bold task-{task} names series by a pattern; "
        "SeriesDescription = QA => leave out: quality assurance excludes them. # begins a comment.",
    )

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if "filters" in self.fields:
            known = registry.survey().filters
            gone = [name for name in self.instance.filters or () if name not in known]
            self.fields["filters"].choices = [
                *((name, _about(conversion)) for name, conversion in known.items()),
                *((name, f"{name}: unknown filter; untick it") for name in gone),
            ]

    class Meta:
        model = InstrumentConfiguration
        fields = "__all__"  # noqa: DJ007 (the fieldsets say which)
        labels = {
            "mytardis_instrument": "MyTARDIS instrument",
            "schema_experiment": "Schema of experiments",
            "schema_dataset": "Schema of datasets",
            "schema_file": "Schema of files",
        }
        help_texts = {
            "schema_experiment": "Namespace of the experiments' parameters: http://example.edu/schema/1",
            "schema_dataset": "Namespace of the datasets' parameters: http://example.edu/schema/2. "
            "A pattern in DATASET_VIEWS must match it.",
            "schema_file": "Namespace of the files' parameters: http://example.edu/schema/3",
        }

    def clean_filters(self) -> list[str]:
        names = self.cleaned_data["filters"]
        unknown = sorted(set(names) - registry.load().keys())
        if unknown:
            raise forms.ValidationError(
                f"Unknown filter: {', '.join(unknown)}. The filters are {', '.join(registry.load())}."
            )
        return names


class SenderInline(admin.TabularInline):
    """Who may store: without a sender nothing of the instrument is taken."""

    model = Sender
    extra = 1
    verbose_name_plural = "senders (all others are rejected)"


@admin.register(InstrumentConfiguration)
class InstrumentConfigurationAdmin(admin.ModelAdmin):
    form = InstrumentConfigurationForm
    list_display = ("name", "enabled", "mytardis_instrument", "owner", "project_field", "modified")
    list_filter = ("enabled",)
    list_select_related = ("mytardis_instrument", "owner")
    autocomplete_fields = ("owner", "mytardis_instrument")
    save_as = True
    inlines = (SenderInline,)
    fieldsets = (
        (None, {"fields": ("name", "enabled", "instrument", "experiment_title", "dataset_title")}),
        ("In MyTARDIS", {"fields": ("mytardis_instrument", "owner", "storage_box")}),
        ("Project", {"fields": ("project_field", "project_pattern", "project_group")}),
        (
            "Metadata",
            {
                "fields": (
                    "schema_experiment",
                    "schema_dataset",
                    "schema_file",
                    "default_institution_name",
                    "default_institutional_department_name",
                    "default_institutional_address",
                    "default_operators",
                    "identifying_metadata",
                )
            },
        ),
        (
            "De-identification",
            {"fields": ("deidentify", "deidentification_options", "keep_originals")},
        ),
        ("Conversion", {"fields": ("quiet_seconds", "filters")}),
        (
            "BIDS datasets",
            {
                "fields": ("bids_participant", "bids_session", "bids_rules"),
                "description": "What series are called in a BIDS dataset. Series that no rule fits are named by ReproIn or "
                "by their sequence.",
            },
        ),
    )

    class Media:
        css = {"all": ("tardis_imagetrove/admin.css",)}

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.try_view, cacheable=False)
        name = "tardis_imagetrove_instrumentconfiguration_try"
        return [
            path("try/", view, name=f"{name}_new"),
            path("<int:pk>/try/", view, name=name),
            *super().get_urls(),
        ]

    def try_view(self, request: HttpRequest, pk: int | None = None) -> HttpResponse:
        """What the form as it was filled in would do; nothing is saved."""
        from .tasks import open_spool

        instrument = get_object_or_404(InstrumentConfiguration, pk=pk) if pk else None
        allowed = self.has_change_permission(request, instrument) if pk else self.has_add_permission(request)
        if not allowed:
            raise PermissionDenied
        if request.method != "POST":
            return redirect(
                "admin:tardis_imagetrove_instrumentconfiguration_" + ("change" if pk else "add"),
                *filter(None, [pk]),
            )
        form = self.get_form(request, instrument, change=bool(pk))(request.POST, instance=instrument)
        trial, problem = None, ""
        if form.is_valid():
            try:
                trial = try_instrument(form.instance, open_spool())
            except (ImageTroveError, ImproperlyConfigured) as error:
                problem = f"This cannot be tried: {error}."
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Try {form.instance}",
            "form": form,
            "trial": trial,
            "problem": problem,
        }
        return render_page(request, "admin/tardis_imagetrove/instrumentconfiguration/try.html", context)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, object]:
        """The schemas of the newest instrument, since most sites have one set; else addresses of this site."""
        newest = InstrumentConfiguration.objects.order_by("-modified").first()
        initial = {}
        for level in ("experiment", "dataset", "file"):
            field = f"schema_{level}"
            address = getattr(newest, field, request.build_absolute_uri(f"/schema/imagetrove/{level}"))
            with suppress(ValidationError):  # a host without a domain makes no valid address
                URLValidator()(address)
                initial[field] = address
        return {**initial, **super().get_changeform_initial_data(request)}


class FolderSourceForm(forms.ModelForm):
    take = LinesField(
        required=False, help_text="Patterns of files to import, one per line, such as *.dcm. Empty: all."
    )
    leave = LinesField(
        required=False, help_text="Patterns of files and folders to ignore, one per line, such as *.tmp"
    )

    class Meta:
        model = FolderSource
        fields = "__all__"  # noqa: DJ007 (what is not to be edited is not editable)
        widgets = {name: forms.TextInput(attrs={"size": 80}) for name in ("path", "move_to", "pattern")}
        # Admin shows a help text as HTML, and its groups have angle brackets.
        help_texts = {"pattern": escape(FolderSource._meta.get_field("pattern").help_text)}


@admin.register(FolderSource)
class FolderSourceAdmin(admin.ModelAdmin):
    """Folders that the receiving service watches."""

    form = FolderSourceForm
    list_display = ("name", "enabled", "kind", "path", "configuration", "afterwards", "problem", "looked")
    list_filter = ("enabled", "kind")
    list_select_related = ("configuration",)
    readonly_fields = ("problem", "looked", "left_out")
    fieldsets = (
        (None, {"fields": ("name", "enabled", "path", "kind", "configuration")}),
        ("Completion", {"fields": ("quiet_seconds", "marker")}),
        ("Which files", {"fields": ("take", "leave", "pattern")}),
        ("After archiving", {"fields": ("afterwards", "move_to")}),
        ("Status", {"fields": ("problem", "looked", "left_out")}),
    )

    @admin.display(description="Skipped files")
    def left_out(self, source: FolderSource) -> str:
        from .tasks import open_spool

        if not source.pk:
            return ""
        try:
            found = list(islice(left_out(source, open_spool()), MOST_LEFT_OUT + 1))
        except (ImageTroveError, ImproperlyConfigured) as error:
            return str(error)
        more = "and more" if len(found) > MOST_LEFT_OUT else ""
        lines = [f"{path}: {reason}" for path, reason in found[:MOST_LEFT_OUT]]
        return "\n".join(filter(None, (*lines, more))) or "none"


@admin.register(ProjectGroup)
class ProjectGroupAdmin(admin.ModelAdmin):
    """Adding a group here says that its members may be shown the scans of the project of that name."""

    list_display = ("group", "created")
    search_fields = ("group__name",)
    autocomplete_fields = ("group",)

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class RegionsField(LinesField):
    """Rectangles, one a line: left, top, width and height."""

    def prepare_value(self, value: object) -> object:
        if isinstance(value, list):
            value = [" ".join(map(str, one)) if isinstance(one, (list, tuple)) else str(one) for one in value]
        return super().prepare_value(value)

    def to_python(self, value: object) -> list[list[int]]:
        regions = []
        for line in super().to_python(value):
            try:
                regions.append([int(number) for number in line.replace(",", " ").split()])
            except ValueError:
                raise forms.ValidationError(f"{line!r} is not four whole numbers.") from None
        return regions


class PixelRuleForm(forms.ModelForm):
    regions = RegionsField(
        help_text="Rectangles to black out, one per line; left, top, width and height in pixels: 0 0 640 48"
    )

    class Meta:
        model = PixelRule
        fields = "__all__"  # noqa: DJ007 (what is not to be edited is not editable)


@admin.register(PixelRule)
class PixelRuleAdmin(admin.ModelAdmin):
    """Which regions are blacked out; a rule is tried on a held image and approved before it is used."""

    form = PixelRuleForm
    list_display = ("name", "modality", "manufacturer", "model", "rows", "columns", "approved", "approved_by")
    readonly_fields = ("approved", "approved_by")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.try_view, cacheable=False)
        return [path("<int:pk>/try/", view, name="tardis_imagetrove_pixelrule_try"), *super().get_urls()]

    def try_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show what a rule does to a held image; POST approves it."""
        from .tasks import open_spool

        rule = get_object_or_404(PixelRule, pk=pk)
        if not self.has_change_permission(request, rule):
            raise PermissionDenied
        trial, problem = None, ""
        try:
            trial = try_rule(rule.pixel_regions, open_spool())
        except ImageTroveError as error:
            problem = f"This cannot be tried: {error}"
        if request.method == "POST" and trial is not None:
            rule.approved, rule.approved_by = now(), request.user.get_username()
            rule.save()
            self.log_change(request, rule, "Approved.")
            self.message_user(request, "Approved. Held series are retried automatically.", messages.SUCCESS)
            return redirect("admin:tardis_imagetrove_pixelrule_changelist")
        pictures = {} if trial is None else {"before": trial.before, "after": trial.after}
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Try {rule}",
            "rule": rule,
            "problem": problem,
            "series_uid": trial.series_uid if trial else "",
            **{name: b64encode(picture).decode() for name, picture in pictures.items()},
        }
        return render_page(request, "admin/tardis_imagetrove/pixelrule/try.html", context)


class SubscriptionForm(forms.ModelForm):
    kinds = forms.MultipleChoiceField(
        label="Events", choices=Subscription.Kind.choices, widget=forms.CheckboxSelectMultiple
    )

    class Meta:
        model = Subscription
        fields = "__all__"  # noqa: DJ007 (the fieldsets say which)
        widgets = {"secret": forms.TextInput(attrs={"autocomplete": "off", "size": 60})}


@admin.register(Subscription)
class SubscriptionAdmin(admin.ModelAdmin):
    """Who is told what happens."""

    form = SubscriptionForm
    list_display = ("name", "enabled", "mail", "webhook", "configuration", "project")
    list_select_related = ("configuration",)
    fieldsets = (
        (None, {"fields": ("name", "enabled", "mail", "webhook", "secret")}),
        ("What", {"fields": ("kinds", "configuration", "project", "silence_hours", "with_details")}),
        ("When", {"fields": ("digest_minutes", "quiet_from", "quiet_to")}),
    )

    class Media:
        css = {"all": ("tardis_imagetrove/admin.css",)}


class ReadOnly:
    """What is recorded by ingest is shown and not edited."""

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class Archives(ReadOnly, admin.TabularInline):
    model = Archive
    fields = readonly_fields = ("version", "instance_count", "datafile", "profile", "created")
    extra = 0
    show_change_link = False


class Events(ReadOnly, admin.TabularInline):
    model = Event
    fk_name = "series"
    fields = readonly_fields = ("at", "kind", "subject", "reason", "by")
    extra = 0


class MayRequeue:
    """Actions that queue work need the model's change permission; to see a row is not enough."""

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.{get_permission_codename('change', self.opts)}")


@admin.register(Series)
class SeriesAdmin(ReadOnly, MayRequeue, admin.ModelAdmin):
    list_display = ("__str__", "state", "reason", "configuration", "directory", "modified")
    list_filter = ("state", "configuration", "modality")
    list_select_related = ("configuration",)
    search_fields = ("series_uid", "study_uid", "description", "directory")
    exclude = ("reasons", "reason_code", "left_out")
    readonly_fields = ("reason", "not_archived", "created", "modified")
    inlines = (Archives, Events)
    actions = ("ingest_now",)

    def view_on_site(self, series: Series) -> str:
        """Its page on the board, where more can be done."""
        return reverse("tardis_imagetrove:series", args=[series.pk])

    @admin.display(description="Files left in the spool")
    def not_archived(self, series: Series) -> str:
        return render(series.left_out)

    @admin.action(description="Archive now, or retry", permissions=["requeue"])
    def ingest_now(self, request: HttpRequest, queryset: QuerySet[Series]) -> None:
        from .tasks import ingest_now

        count = 0
        try:
            for uid in queryset.values_list("series_uid", flat=True):
                ingest_now(uid, by=request.user.get_username())
                count += 1
        except RetriableError as error:
            self.message_user(request, f"{count} queued; then: {error}", messages.ERROR)
        else:
            self.message_user(request, f"{count} queued.", messages.SUCCESS)


@admin.register(Notice)
class NoticeAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("created", "subscription", "kind", "stage", "attempts", "problem")
    list_filter = ("stage", "kind", "subscription")
    list_select_related = ("subscription",)
    exclude = ("claim",)


@admin.register(AuditFinding)
class AuditFindingAdmin(ReadOnly, admin.ModelAdmin):
    list_display = ("first_seen", "code", "subject", "text", "last_seen", "gone")
    list_filter = ("code", "gone")
    search_fields = ("subject", "text")
    readonly_fields = ("part",)


class FilterOutputInline(ReadOnly, admin.TabularInline):
    model = FilterOutput
    fields = readonly_fields = ("kind", "datafile")
    extra = 0


@admin.register(FilterRun)
class FilterRunAdmin(ReadOnly, MayRequeue, admin.ModelAdmin):
    list_display = (
        "filter",
        "archive",
        "state",
        "reason",
        "attempts",
        "seconds",
        "memory_mib",
        "exit_status",
        "converter",
        "modified",
    )
    readonly_fields = ("reason", "modified")
    fieldsets = (
        (None, {"fields": ("filter", "archive", "state", "reason", "attempts", "lost")}),
        ("Programs", {"fields": ("filter_version", "converter", "options", "programs", "exit_status")}),
        ("Input and cost", {"fields": ("input_sha512", "seconds", "memory_mib", "modified")}),
    )
    inlines = (FilterOutputInline,)
    list_filter = ("state", "filter")
    search_fields = ("archive__series__series_uid", "archive__series__description")
    list_select_related = ("archive__series",)
    actions = ("run_again",)

    @admin.action(description="Run again", permissions=["requeue"])
    def run_again(self, request: HttpRequest, queryset: QuerySet[FilterRun]) -> None:
        from .tasks import run_again

        ids = list(queryset.values_list("pk", flat=True))
        try:
            marked = run_again(ids, by=request.user.get_username())
        except RetriableError as error:
            self.message_user(request, f"{error}; the runs are queued when it is back.", messages.WARNING)
            return
        left = len(ids) - len(marked)
        note = f" {left} left as they are: queued, running, or of a superseded archive." if left else ""
        self.message_user(request, f"{len(marked)} queued.{note}", messages.SUCCESS)
