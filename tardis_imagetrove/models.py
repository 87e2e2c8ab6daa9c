"""What the app keeps: instruments' configuration, received series and their ledger, and runs of filters."""

from __future__ import annotations

import os
import re
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone

from .bids.mapping import BadRule, MappingTable, mapping_table
from .conf import settings
from .deidentification import Option, PixelRegions, Profile, Region
from .deidentification.rules import survives
from .errors import PermanentError
from .folders.source import Afterwards, Kind, OutsideRoots, Source, check_root, is_below
from .formats.base import FOREIGN
from .formats.dicom.fields import parse_field
from .reasons import Reason, from_json, render
from .scp.admission import network_text, parse_ae_title, parse_network
from .signin.models import FederatedIdentity, ProjectMember, SpentAssertion  # noqa: F401

LOST_ATTEMPTS = 5
"""So many attempts of a filter run in a row that ended with their worker's death, or their process's, are
the run's own doing: it has failed, and is tried again when somebody asks."""


WARNING = "warning"
"""Code of a reason that a filter gave for a result that is incomplete or doubtful."""

NOTE = "note"
"""Code of what a filter said that is worth knowing and leaves the result as it should be."""


class InstrumentConfiguration(models.Model):
    """How series of one instrument are recognised, titled, owned and converted."""

    name = models.CharField(max_length=100, unique=True)
    enabled = models.BooleanField(default=True)

    instrument = models.JSONField(
        help_text="Name/value pairs that a series of this instrument must all match: "
        '[["Manufacturer", "SIEMENS"], ["ManufacturerModelName", "Skyra"]].'
    )
    experiment_title = models.JSONField(
        help_text='DICOM fields whose values, joined by "/", make the experiment\'s title: ["PatientID"].'
    )
    dataset_title = models.JSONField(
        help_text='DICOM fields whose values, joined by "/", make the dataset\'s title: ["SeriesDescription"].'
    )

    default_institution_name = models.CharField(max_length=400, blank=True)
    default_institutional_department_name = models.CharField(max_length=400, blank=True)
    default_institutional_address = models.CharField(max_length=400, blank=True)
    default_operators = models.JSONField(
        default=list, blank=True, help_text='Names or mail addresses: ["operator.one@example.edu"].'
    )

    schema_experiment = models.URLField(max_length=255, help_text="Namespace of the experiments' schema.")
    schema_dataset = models.URLField(max_length=255, help_text="Namespace of the datasets' schema.")
    schema_file = models.URLField(max_length=255, help_text="Namespace of the files' schema.")

    mytardis_instrument = models.ForeignKey(
        "tardis_portal.Instrument",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The MyTARDIS instrument of the datasets. Managers of its facility then see their titles.",
    )
    owner = models.ForeignKey(
        django_settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Owns every experiment made from this instrument's series.",
    )
    storage_box = models.ForeignKey(
        "tardis_portal.StorageBox",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Where files are stored. Empty: MyTARDIS's default box.",
    )

    project_field = models.CharField(
        max_length=64,
        blank=True,
        help_text="The DICOM field that names the project, such as ReferringPhysicianName.",
    )
    project_pattern = models.CharField(
        max_length=200,
        blank=True,
        help_text=r"Regular expression for the project's number in that field, such as \d{5}. "
        "Digits next to the match are never cut off: 123456 is not project 12345.",
    )
    project_group = models.CharField(
        max_length=100,
        default="Project {}",
        help_text="Name of the group that may see the series; {} is the project's number.",
    )

    quiet_seconds = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Seconds without a new instance after which a series is complete. Empty: the site's setting.",
    )
    filters = models.JSONField(
        default=list,
        blank=True,
        help_text='Names of the conversion filters to run, such as ["nifti"]. Empty: all.',
    )
    identifying_metadata = models.BooleanField(
        default=False,
        help_text="Also store identifying attributes (the patient's name and ID) in parameter sets.",
    )

    deidentify = models.BooleanField(
        "de-identify",
        default=False,
        help_text="Show copies, de-identified by the Basic Profile of DICOM PS3.15, instead of the originals. "
        "Applies to series that arrive from now on.",
    )
    deidentification_options = models.JSONField(
        default=list,
        blank=True,
        help_text='Options of the profile, which keep some attributes: ["clean-descriptors", "shift-dates"].',
    )
    keep_originals = models.BooleanField(
        default=True,
        help_text="Keep the originals in an experiment that only the owner may see. "
        "Otherwise they are deleted once the copies are archived.",
    )
    bids_participant = models.CharField(
        "participant",
        max_length=64,
        blank=True,
        help_text="The DICOM field that identifies the participant. Empty: PatientID.",
    )
    bids_session = models.CharField(
        "session",
        max_length=64,
        blank=True,
        help_text="The DICOM field that identifies the session. Empty: the protocol's name (_ses-01) "
        "or numbers studies.",
    )
    bids_rules = models.TextField(
        "rules",
        blank=True,
        help_text="Rules that name series, one per line; the first match counts: "
        "ProtocolName ~ fmri_(?P<task>\\w+) => func/bold task-{task}",
    )
    modified = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> None:
        # A wrong field name would hold every series of the instrument: refuse it from scripts as well.
        self.full_clean()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        problems: dict[str, list[str]] = {}

        def problem(field: str, text: str) -> None:
            problems.setdefault(field, []).append(text)

        pairs = self.instrument
        if not isinstance(pairs, list) or not pairs:
            problem("instrument", "Enter at least one name/value pair.")
        else:
            for pair in pairs:
                if (
                    not isinstance(pair, (list, tuple))
                    or len(pair) != 2
                    or not all(isinstance(x, str) for x in pair)
                ):
                    problem("instrument", f"{pair!r} is not a pair of a DICOM field and a value.")
                else:
                    self._check_field("instrument", pair[0], problem)
        for name in ("experiment_title", "dataset_title"):
            fields = getattr(self, name)
            if not isinstance(fields, list) or not fields or not all(isinstance(x, str) for x in fields):
                problem(name, "Enter a list of at least one DICOM field.")
            else:
                for field in fields:
                    self._check_field(name, field, problem)
        namespaces: dict[str, str] = {}
        for name in ("schema_experiment", "schema_dataset", "schema_file"):
            namespace = getattr(self, name)
            if namespace and namespaces.setdefault(namespace, name) != name:
                # In MyTARDIS a namespace is one schema, and a schema is of one type.
                problem(name, f"Must differ from that of {namespaces[namespace]}.")
        for name in ("default_operators", "filters"):
            values = getattr(self, name)
            if not isinstance(values, list) or not all(isinstance(x, str) for x in values):
                problem(name, "Enter a list of names.")
        if bool(self.project_field) != bool(self.project_pattern):
            problem("project_pattern", "A project rule needs both a field and a pattern.")
        if self.project_field:
            self._check_field("project_field", self.project_field, problem)
        try:
            re.compile(self.project_pattern)
        except re.error as error:
            problem("project_pattern", f"Invalid regular expression: {error}.")
        try:
            if self.project_group.format("1") == self.project_group:
                problem("project_group", "Must contain {} for the project's number.")
        except (IndexError, KeyError, ValueError):
            problem(
                "project_group",
                "Must contain {} exactly once, for the project's number, and no other braces.",
            )
        self._check_deidentification(problem)
        self._check_bids(problem)
        if problems:
            raise ValidationError(problems)

    @property
    def bids(self) -> MappingTable:
        """The mapping table for BIDS datasets.

        Raises:
            BadRule: a rule that an earlier version of this software accepted.
        """
        return mapping_table(self.bids_participant, self.bids_session, self.bids_rules)

    def _check_deidentification(self, problem) -> None:  # noqa: ANN001
        options = self.deidentification_options
        if not isinstance(options, list) or not all(isinstance(x, str) for x in options):
            problem("deidentification_options", "Enter a list of options.")
            return
        try:
            profile = Profile.of(options)
        except ValueError as error:
            problem("deidentification_options", f"{str(error)[0].upper()}{str(error)[1:]}.")
            return
        if not self.deidentify:
            if options:
                problem("deidentification_options", "Options require de-identification.")
            return
        if self.identifying_metadata:
            problem(
                "identifying_metadata",
                "Cannot be combined with de-identification, which removes identifying attributes.",
            )
        for name in ("experiment_title", "dataset_title"):
            for field in getattr(self, name) if isinstance(getattr(self, name), list) else ():
                try:
                    lost = not survives(parse_field(field), profile)
                except (PermanentError, AttributeError):  # told already
                    continue
                if lost:
                    hint = ", ".join(
                        option.value
                        for option in Option
                        if survives(parse_field(field), Profile(frozenset({option})))
                    )
                    problem(
                        name,
                        f"De-identification removes {field}, so it cannot be part of a title: choose another"
                        f" field{f', or the option {hint}' if hint else ''}.",
                    )

    def _check_bids(self, problem) -> None:  # noqa: ANN001
        for name in ("bids_participant", "bids_session"):
            if field := getattr(self, name):
                self._check_field(name, field, problem)
        try:
            rules = self.bids.rules
        except BadRule as error:
            problem("bids_rules", f"{str(error)[0].upper()}{str(error)[1:]}.")
            return
        if not self.deidentify:
            return
        try:
            profile = Profile.of(self.deidentification_options)
        except (ValueError, TypeError):  # told already
            return
        named = [("bids_participant", self.bids_participant), ("bids_session", self.bids_session)]
        named += [("bids_rules", condition.name) for rule in rules for condition in rule.conditions]
        for name, field in dict.fromkeys(named):
            with suppress(PermanentError):  # told already, or another format's
                if field and not survives(parse_field(field), profile):
                    problem(name, f"De-identification removes {field}: choose another field.")

    @staticmethod
    def _check_field(name: str, field: str, problem) -> None:  # noqa: ANN001
        try:
            if not re.fullmatch(rf"({'|'.join(FOREIGN)}):\w+", field):
                parse_field(field)
        except PermanentError as error:
            problem(name, f"{error}.")


class Sender(models.Model):
    """A DICOM peer that may store: an AE title together with an address."""

    configuration = models.ForeignKey(
        InstrumentConfiguration, on_delete=models.CASCADE, related_name="senders"
    )
    ae_title = models.CharField(
        "calling AE title", max_length=16, help_text="Exactly as configured at the console; case-sensitive."
    )
    address = models.CharField(
        max_length=49,
        help_text="IP address, or network (10.1.2.0/24, fd00:1::/64). Host names are not accepted. "
        "0.0.0.0/0 is every IPv4 address.",
    )
    report_port = models.PositiveIntegerField(
        "port for commitment reports",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(65535)],
        help_text="Port on which it listens for storage commitment reports. Empty: it does not request commitment.",
    )

    class Meta:
        ordering = ("configuration", "ae_title", "address")
        constraints = [
            models.UniqueConstraint(
                fields=("configuration", "ae_title", "address"), name="imagetrove_sender_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.address}"

    def save(self, *args: object, **kwargs: object) -> None:
        # A mistake here would keep an instrument out, or let others in: refuse it from scripts as well.
        self.full_clean()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        problems: dict[str, str] = {}
        try:
            self.ae_title = parse_ae_title(self.ae_title)
        except ValueError as error:
            problems["ae_title"] = f"{error}."
        try:
            self.address = network_text(parse_network(self.address))
        except ValueError as error:
            problems["address"] = f"{error}."
        if problems:
            raise ValidationError(problems)


class FolderSource(models.Model):
    """A folder in which an instrument, or an export, leaves files; the receiving service watches it."""

    class Kind(models.TextChoices):
        DICOM = "dicom", "DICOM files"
        PARAVISION = "paravision", "Bruker ParaVision studies"
        ANY = "folder", "Folders of any files, archived as they are"

    class Afterwards(models.TextChoices):
        KEEP = "keep", "Keep them"
        MOVE = "move", "Move them to another folder"
        DELETE = "delete", "Delete them"

    name = models.CharField(max_length=100, unique=True)
    enabled = models.BooleanField(default=True)
    path = models.CharField(
        max_length=500, help_text="The folder; it must be inside one of IMAGETROVE['FOLDER_ROOTS']."
    )
    kind = models.CharField("format", max_length=16, choices=Kind.choices, default=Kind.DICOM)
    configuration = models.ForeignKey(
        InstrumentConfiguration,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="folder_sources",
        verbose_name="instrument",
        help_text="The instrument of everything in the folder. Empty: the instruments' rules decide.",
    )
    quiet_seconds = models.PositiveIntegerField(
        default=300,
        validators=[MinValueValidator(10)],
        help_text="Seconds without any change in an entry of the folder after which the entry is complete.",
    )
    marker = models.CharField(
        max_length=100,
        blank=True,
        help_text="Name of a file, in the entry or beside it, that marks the entry as complete: MARKER_is_finished_{name}. "
        "Empty: only the quiet period counts.",
    )
    take = models.JSONField(
        default=list, blank=True, help_text='Patterns of files to import: ["*.dcm", "*.IMA"]. Empty: all.'
    )
    leave = models.JSONField(
        default=list, blank=True, help_text='Patterns of files and folders to ignore: ["*.tmp", "trash"].'
    )
    afterwards = models.CharField(
        "files that are archived and verified",
        max_length=16,
        choices=Afterwards.choices,
        default=Afterwards.KEEP,
    )
    move_to = models.CharField(
        max_length=500,
        blank=True,
        help_text="Destination folder: on the same file system, inside FOLDER_ROOTS.",
    )
    pattern = models.CharField(
        max_length=500,
        blank=True,
        help_text="Regular expression over an entry's path, whose named groups become fields: "
        r"(?P<PatientID>[^/]+)/(?P<StudyID>\d+)",
    )
    problem = models.CharField(max_length=500, blank=True, editable=False)
    looked = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> None:
        self.full_clean()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        problems: dict[str, str] = {}
        try:
            problems.update(folder_problems(self.source()))
        except re.error as error:
            problems["pattern"] = f"Invalid regular expression: {error}."
        if self.configuration_id and self.configuration.deidentify and self.kind != self.Kind.DICOM:
            problems["configuration"] = "This instrument de-identifies, but only DICOM can be de-identified."
        if self.kind == self.Kind.ANY and not self.configuration_id:
            problems["configuration"] = "Files of any format have no fields to match: choose an instrument."
        for name in ("take", "leave"):
            value = getattr(self, name)
            if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
                problems[name] = "Enter a list of patterns."
        if problems:
            raise ValidationError(problems)

    def source(self) -> Source:
        """The source as the watcher takes it.

        Raises:
            re.error: the pattern is none.
        """
        re.compile(self.pattern)
        return Source(
            key=f"source-{self.pk or 0}",
            root=Path(self.path),
            kind=Kind(self.kind),
            quiet_seconds=float(self.quiet_seconds or 0),
            marker=self.marker,
            take=tuple(self.take or ()),
            leave=tuple(self.leave or ()),
            afterwards=Afterwards(self.afterwards),
            move_to=Path(self.move_to) if self.move_to else None,
            pattern=self.pattern,
        )


def folder_problems(source: Source) -> dict[str, str]:
    """What the site's settings have against a source, by the name of the field."""
    found: dict[str, str] = {}
    try:
        check_root(source.root, settings.FOLDER_ROOTS)
        if settings.SPOOL and is_below(source.root, settings.spool_path):
            found["path"] = "The folder is inside the spool, or contains it."
    except (OutsideRoots, ImproperlyConfigured) as error:
        found["path"] = f"{error}."
    if source.afterwards is not Afterwards.MOVE:
        return found
    if source.move_to is None:
        found["move_to"] = "Enter the destination folder."
        return found
    try:
        check_root(source.move_to, settings.FOLDER_ROOTS)
    except (OutsideRoots, ImproperlyConfigured) as error:
        found["move_to"] = f"{error}."
    if os.path.realpath(source.move_to) == os.path.realpath(source.root):
        found["move_to"] = "This is the source folder itself."
    return found


class ProjectGroup(models.Model):
    """A group that may be shown its project's scans: ingest made it, or an administrator stands for it.

    Any user of MyTARDIS may make a group of any name, so a name alone is no reason to trust it.
    """

    group = models.OneToOneField("auth.Group", on_delete=models.CASCADE, related_name="+")
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("group__name",)

    def __str__(self) -> str:
        return self.group.name


class PixelRule(models.Model):
    """Regions that are blacked out in a device's images, in which it burns names (PS3.15 section E.3.1).

    It is used once somebody has looked at what it does to an image, and approved it; every change takes that back.
    """

    name = models.CharField(max_length=100, unique=True)
    modality = models.CharField(
        max_length=16, blank=True, help_text="As in the images, such as US. Empty: all."
    )
    manufacturer = models.CharField(max_length=64, blank=True, help_text="As in the images. Empty: all.")
    model = models.CharField(
        "model name",
        max_length=64,
        blank=True,
        help_text="ManufacturerModelName as in the images. Empty: all.",
    )
    rows = models.PositiveIntegerField(
        help_text="Height of the images in pixels. Images of another size are not changed."
    )
    columns = models.PositiveIntegerField(help_text="Width of the images in pixels.")
    regions = models.JSONField(
        help_text="Rectangles to black out; left, top, width and height in pixels: [[0, 0, 640, 48]]."
    )
    approved = models.DateTimeField(null=True, editable=False)
    approved_by = models.CharField(max_length=150, blank=True, editable=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> None:
        self.full_clean()
        former = PixelRule.objects.filter(pk=self.pk).first()
        if former is not None and former.pixel_regions != self.pixel_regions:
            self.approved, self.approved_by = None, ""
        super().save(*args, **kwargs)

    def clean(self) -> None:
        regions = self.regions
        if not isinstance(regions, list) or not regions:
            raise ValidationError({"regions": "Enter at least one rectangle."})
        for region in regions:
            if (
                not isinstance(region, (list, tuple))
                or len(region) != 4
                or not all(type(number) is int and number >= 0 for number in region)
                or not region[2]
                or not region[3]
            ):
                raise ValidationError(
                    {"regions": f"{region!r} is not left, top, width and height in pixels."}
                )
            if self.columns and self.rows and (region[0] >= self.columns or region[1] >= self.rows):
                raise ValidationError({"regions": f"{region!r} is outside the image."})

    @property
    def pixel_regions(self) -> PixelRegions:
        """The rule as de-identification takes it."""
        return PixelRegions(
            self.name,
            self.modality,
            self.manufacturer,
            self.model,
            self.rows,
            self.columns,
            tuple(Region(*region) for region in self.regions),
        )


class PseudonymKey(models.Model):
    """The secret by which a project's UIDs, patients and dates are replaced; without it nobody can trace them back.

    It is made when the first series of a project is de-identified, and never changed: the same
    patient and the same study must get the same substitutes for as long as the project has scans.
    """

    scope = models.CharField(max_length=160, unique=True, help_text="The project's group, or the owner.")
    secret = models.CharField(max_length=64, editable=False)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("scope",)

    def __str__(self) -> str:
        return self.scope


class ExperimentKey(models.Model):
    """What identifies an experiment to ingest, whatever its title is edited to later."""

    key = models.CharField(max_length=64, unique=True, help_text="Digest of owner, project and title fields.")
    experiment = models.ForeignKey("tardis_portal.Experiment", on_delete=models.CASCADE, related_name="+")

    def __str__(self) -> str:
        return f"{self.key[:12]} → experiment {self.experiment_id}"


class DatasetKey(models.Model):
    """What identifies a dataset to ingest, whatever its title is edited to later."""

    key = models.CharField(max_length=64, unique=True, help_text="Digest of experiment and title fields.")
    experiment_key = models.ForeignKey(ExperimentKey, on_delete=models.CASCADE)
    dataset = models.ForeignKey("tardis_portal.Dataset", on_delete=models.CASCADE, related_name="+")

    def __str__(self) -> str:
        return f"{self.key[:12]} → dataset {self.dataset_id}"


class HasReasons:
    """What a series and a filter run share: reasons as data, and as text."""

    reasons: list[dict[str, str]]

    @property
    def why(self) -> tuple[Reason, ...]:
        """The reasons for the state."""
        return from_json(self.reasons)

    @property
    def reason(self) -> str:
        """The reasons as one line of text."""
        return render(self.reasons)


class Series(HasReasons, models.Model):
    """A series that was received, its state, and where it went.

    Only ``ingest.states`` assigns ``state``, ``reasons`` and ``reason_code``.
    """

    class State(models.TextChoices):
        RECEIVING = "receiving", "Receiving"
        QUEUED = "queued", "Queued"
        INGESTING = "ingesting", "Archiving"
        WAITING = "waiting", "Waiting to retry"
        HELD = "held", "Held: needs attention"
        CONVERTING = "converting", "Converting"
        DONE = "done", "Archived"
        PARTIAL = "partial", "Archived, conversion incomplete"
        DISCARDED = "discarded", "Discarded"

    series_uid = models.CharField("SeriesInstanceUID", max_length=64, unique=True)
    study_uid = models.CharField("StudyInstanceUID", max_length=64, blank=True)
    description = models.CharField(max_length=255, blank=True)
    modality = models.CharField(max_length=16, blank=True)
    configuration = models.ForeignKey(
        InstrumentConfiguration, null=True, blank=True, on_delete=models.SET_NULL
    )
    state = models.CharField(max_length=16, choices=State.choices, default=State.RECEIVING, db_index=True)
    reasons = models.JSONField(default=list, blank=True, help_text="Why the series is in its state.")
    reason_code = models.CharField(max_length=32, blank=True, help_text="Code of the first reason.")
    left_out = models.JSONField(
        default=list,
        blank=True,
        help_text="Why files stay in the spool: they cannot be read or de-identified.",
    )
    project = models.CharField(
        max_length=100, blank=True, help_text="The project's group; its members may see the series."
    )
    assigned = models.JSONField(
        default=dict,
        blank=True,
        editable=False,
        help_text="Instrument and project number, if a person assigned the series.",
    )
    dataset_key = models.ForeignKey(DatasetKey, null=True, blank=True, on_delete=models.SET_NULL)
    placed_by = models.JSONField(
        default=dict,
        blank=True,
        help_text="DICOM fields and values by which the series was placed; late instances must have the same.",
    )
    directory = models.CharField(
        max_length=255, blank=True, help_text="The series' directory in its dataset."
    )
    # How it is de-identified is decided when it is placed, and holds for its late instances too.
    deidentification = models.JSONField(
        default=dict,
        blank=True,
        help_text="De-identification options, and whether originals are kept. Empty: shown as received.",
    )
    pseudonym_key = models.ForeignKey(
        PseudonymKey, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    shown_uid = models.CharField(
        max_length=64, blank=True, help_text="SeriesInstanceUID of the de-identified copies."
    )
    originals_key = models.ForeignKey(
        DatasetKey,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The dataset of the originals, which only the owner may see.",
    )
    created = models.DateTimeField(auto_now_add=True)
    modified = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-modified",)
        verbose_name_plural = "series"
        indexes = [
            models.Index(fields=("state", "-modified", "-id"), name="imagetrove_series_state"),
            models.Index(fields=("-modified", "-id"), name="imagetrove_series_newest"),
            models.Index(fields=("-created", "-id"), name="imagetrove_series_created"),
            models.Index(fields=("modality",), name="imagetrove_series_modality"),
            models.Index(fields=("reason_code",), name="imagetrove_series_reason"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=("dataset_key", "directory"), name="imagetrove_one_series_a_directory"
            )
        ]

    def __str__(self) -> str:
        return self.description or self.public_uid

    @property
    def public_uid(self) -> str:
        """The SeriesInstanceUID in the archive, which everybody may know who may see the series."""
        return self.shown_uid or self.series_uid

    @property
    def is_deidentified(self) -> bool:
        return bool(self.deidentification)


class Archive(models.Model):
    """One version of a series' DICOM archive, kept as a DataFile."""

    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="archives")
    version = models.PositiveIntegerField()
    datafile = models.OneToOneField("tardis_portal.DataFile", on_delete=models.CASCADE, related_name="+")
    sha512 = models.CharField(max_length=128)
    instance_count = models.PositiveIntegerField()
    profile = models.CharField(
        max_length=255,
        blank=True,
        help_text="How its instances were de-identified. Empty: not de-identified.",
    )
    losses = models.JSONField(default=list, blank=True, help_text="Removed data that researchers may need.")
    report = models.JSONField(
        default=list,
        blank=True,
        help_text="Action, reason and count for each de-identified attribute, without values.",
    )
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("series", "-version")
        constraints = [
            models.UniqueConstraint(fields=("series", "version"), name="imagetrove_archive_versions")
        ]

    def __str__(self) -> str:
        return f"{self.series} v{self.version}"


class Original(models.Model):
    """What was received of a de-identified series, byte for byte, in a dataset that the owner alone may see.

    It stays if the copies' archive is deleted; each version holds all that the former did. ``archive`` is
    the copies', if it holds the original of each of them.
    """

    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="originals")
    version = models.PositiveIntegerField()
    archive = models.OneToOneField(Archive, null=True, on_delete=models.SET_NULL, related_name="original")
    datafile = models.OneToOneField("tardis_portal.DataFile", on_delete=models.CASCADE, related_name="+")
    sha512 = models.CharField(max_length=128)
    report = models.OneToOneField(
        "tardis_portal.DataFile",
        null=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The de-identification report, stored beside the originals.",
    )

    class Meta:
        ordering = ("series", "-version")
        constraints = [
            models.UniqueConstraint(fields=("series", "version"), name="imagetrove_original_versions")
        ]

    def __str__(self) -> str:
        return f"original v{self.version} of {self.series}"


class Instance(models.Model):
    """The ledger: one acknowledged DICOM instance, and the archive that holds it, or its de-identified copy.

    UID, size and checksum are of what was received, so that a sender who sends it again is answered
    rightly although it may not be kept itself.
    """

    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="instances")
    archive = models.ForeignKey(Archive, on_delete=models.CASCADE, related_name="instances")
    sop_instance_uid = models.CharField("SOPInstanceUID", max_length=64, db_index=True)
    sop_class_uid = models.CharField("SOPClassUID", max_length=64)
    size = models.BigIntegerField(help_text="Bytes.")
    sha256 = models.CharField(max_length=64)
    member = models.CharField(max_length=400, help_text="File name in the archive.")
    conflict = models.BooleanField(
        default=False,
        help_text="Another file has the same SOPInstanceUID but different bytes; both are kept.",
    )

    class Meta:
        ordering = ("series", "member")
        constraints = [
            models.UniqueConstraint(
                fields=("series", "sop_instance_uid", "sha256"), name="imagetrove_instance_once"
            )
        ]

    def __str__(self) -> str:
        return self.sop_instance_uid


class FilterRun(HasReasons, models.Model):
    """One filter on one archive: what it made, or why it did not.

    Only ``ingest.states`` assigns ``state`` and ``reasons``.
    """

    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        RUNNING = "running", "Running"
        WAITING = "waiting", "Waiting to retry"
        DONE = "done", "Done"
        PARTIAL = "partial", "Done, with warnings"
        SKIPPED = "skipped", "Skipped"
        FAILED = "failed", "Failed"

    UNFINISHED = (State.QUEUED, State.RUNNING, State.WAITING)

    archive = models.ForeignKey(Archive, on_delete=models.CASCADE, related_name="runs")
    filter = models.CharField(max_length=64)
    filter_version = models.CharField(max_length=64, blank=True)
    converter = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=16, choices=State.choices, default=State.QUEUED, db_index=True)
    reasons = models.JSONField(
        default=list, blank=True, help_text="Why the run failed, waits or was skipped, and its warnings."
    )
    attempts = models.PositiveIntegerField(default=0)
    # Counted up while a worker is alive; compared for change only, so no clock can mislead.
    beat = models.BigIntegerField(default=0)
    lost = models.PositiveIntegerField(
        default=0, help_text="Consecutive attempts whose worker or process died."
    )
    # The record of the last attempt.
    options = models.JSONField(default=dict, blank=True, help_text="The filter's options in this run.")
    input_sha512 = models.CharField(
        max_length=128, blank=True, help_text="SHA-512 of the archive as read from the storage box."
    )
    programs = models.JSONField(
        default=list,
        blank=True,
        help_text="Each program: arguments, exit status, seconds, and peak memory in MiB.",
    )
    exit_status = models.IntegerField(
        null=True,
        blank=True,
        help_text="Of the last program, or of the filter's process if it ran none; "
        "negative is the number of the signal that ended it.",
    )
    seconds = models.FloatField(
        null=True,
        blank=True,
        help_text="Wall-clock time, including fetching the archive and storing the outputs.",
    )
    memory_mib = models.FloatField(
        null=True,
        blank=True,
        help_text="Peak memory in MiB of the run's largest process, including memory shared with the worker.",
    )
    modified = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("archive", "filter")
        constraints = [
            models.UniqueConstraint(fields=("archive", "filter"), name="imagetrove_filter_once_an_archive")
        ]

    def __str__(self) -> str:
        return f"{self.filter} of {self.archive}"

    @property
    def warnings(self) -> list[str]:
        """What is missing or doubtful in the outputs."""
        return [reason.text for reason in self.why if reason.code == WARNING]


class Event(models.Model):
    """One change of state of a series or of a filter run; written with the change, in one transaction."""

    series = models.ForeignKey(Series, on_delete=models.CASCADE, related_name="events")
    run = models.ForeignKey(FilterRun, null=True, on_delete=models.SET_NULL, related_name="events")
    subject = models.CharField(max_length=100, blank=True, help_text="Name of the filter, for a run.")
    at = models.DateTimeField(auto_now_add=True, db_index=True)
    kind = models.CharField(max_length=32, help_text="The new state, or the action.")
    by = models.CharField(
        max_length=150, blank=True, help_text="The user or command; empty for the app itself."
    )
    reasons = models.JSONField(default=list, blank=True)

    class Meta:
        ordering = ("series", "pk")

    def __str__(self) -> str:
        return f"{self.kind} {self.series}"

    @property
    def label(self) -> str:
        """What happened, in the words of the states."""
        labels = {
            **dict(Series.State.choices),
            **{f"run-{state}": f"Filter: {label.lower()}" for state, label in FilterRun.State.choices},
        }
        return labels.get(self.kind, self.kind.capitalize())

    @property
    def reason(self) -> str:
        return render(self.reasons)


class Subscription(models.Model):
    """Somebody who is told what happens, by mail or webhook."""

    class Kind(models.TextChoices):
        HELD = "held", "A series is held and needs attention"
        FAILED = "failed", "A conversion failed"
        READY = "ready", "A scan is archived and converted"
        PROBLEM = "problem", "The site has a problem: disk, worker, receiver, broker, clock"
        SILENCE = "silence", "An instrument has sent nothing for too long"
        AUDIT = "audit", "An audit found something missing or changed"

    name = models.CharField(max_length=100, unique=True)
    enabled = models.BooleanField(default=True)
    mail = models.EmailField(blank=True, help_text="Mail address; or enter a webhook instead.")
    webhook = models.URLField(
        blank=True, max_length=500, help_text="URL that receives a signed POST with JSON."
    )
    secret = models.CharField(
        max_length=100,
        blank=True,
        help_text="Secret that signs webhooks (HMAC-SHA256). Empty: generated.",
    )
    kinds = models.JSONField(default=list, help_text='Events to report: ["held", "failed"].')
    configuration = models.ForeignKey(
        InstrumentConfiguration,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        verbose_name="instrument",
        help_text="Only events of this instrument. Empty: all.",
    )
    project = models.CharField(
        max_length=100,
        blank=True,
        help_text="Only series of this project's group, such as Project 12345. Empty: all.",
    )
    silence_hours = models.PositiveIntegerField(
        default=24,
        validators=[MinValueValidator(1)],
        help_text="Hours without a series after which to send a message.",
    )
    digest_minutes = models.PositiveIntegerField(
        default=0, help_text="Minutes to collect events into one message; 0 sends at once."
    )
    quiet_from = models.TimeField(
        null=True, blank=True, help_text="Start of quiet hours, in which nothing is sent …"
    )
    quiet_to = models.TimeField(null=True, blank=True, help_text="… and their end, in the site's time zone.")
    with_details = models.BooleanField(
        default=False,
        help_text="Include descriptions, projects and reasons. They may name a patient, and mail is not confidential.",
    )
    created = models.DateTimeField(auto_now_add=True)
    since = models.DateTimeField(
        default=timezone.now, editable=False, help_text="Events up to this time have been processed."
    )

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> None:
        if self.webhook and not self.secret:
            self.secret = secrets.token_urlsafe(32)
        self.full_clean()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        problems: dict[str, str] = {}
        if bool(self.mail) == bool(self.webhook):
            problems["mail"] = "Enter either a mail address or a webhook."
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            problems["webhook"] = "Must begin with https:// or http://."
        known = set(self.Kind.values)
        if not isinstance(self.kinds, list) or not self.kinds or not set(map(str, self.kinds)) <= known:
            problems["kinds"] = f"Choose from {', '.join(sorted(known))}."
        if (self.quiet_from is None) != (self.quiet_to is None):
            problems["quiet_to"] = "Enter both times of the quiet hours."
        if problems:
            raise ValidationError(problems)


class Notice(models.Model):
    """Something to tell a subscriber, once."""

    class Stage(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SENDING = "sending", "Being sent"
        SENT = "sent", "Sent"
        GIVEN_UP = "given-up", "Given up"

    subscription = models.ForeignKey(Subscription, on_delete=models.CASCADE, related_name="notices")
    key = models.CharField(
        max_length=100, help_text="The event or problem; each subscriber gets one notice of it."
    )
    kind = models.CharField(max_length=16, choices=Subscription.Kind.choices)
    series = models.ForeignKey(Series, null=True, on_delete=models.CASCADE, related_name="notices")
    text = models.TextField()
    created = models.DateTimeField(auto_now_add=True)
    stage = models.CharField(max_length=16, choices=Stage.choices, default=Stage.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    due = models.DateTimeField(default=timezone.now, help_text="Earliest time to send it.")
    problem = models.CharField(max_length=500, blank=True, help_text="Why sending failed.")
    claim = models.CharField(max_length=32, blank=True, editable=False)

    class Meta:
        ordering = ("-pk",)
        constraints = [models.UniqueConstraint(fields=("subscription", "key"), name="imagetrove_notice_once")]
        indexes = [models.Index(fields=("stage", "due"), name="imagetrove_notice_due")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} to {self.subscription}"


class OpenProblem(models.Model):
    """A problem of the site that lasts, so that it is told when it begins and not each minute."""

    code = models.CharField(max_length=32, unique=True)
    since = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.code


class Audit(models.Model):
    """A look at what was archived; one that was interrupted can be resumed."""

    started = models.DateTimeField(auto_now_add=True)
    finished = models.DateTimeField(null=True, blank=True)
    since = models.DateTimeField(null=True, blank=True, help_text="Only archives made from then on.")
    share = models.FloatField(default=1.0, help_text="Of the archives, from 0 to 1.")
    seed = models.BigIntegerField(default=0, help_text="The same seed chooses the same archives.")
    deep = models.BooleanField(default=False, help_text="Whether every byte was read.")
    position = models.BigIntegerField(default=0, editable=False, help_text="The last archive that is done.")
    looked = models.PositiveIntegerField(default=0, help_text="Number of archives that were looked at.")

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return f"audit {self.pk}"


class AuditFinding(models.Model):
    """Something that an audit found missing or changed; it stays after it is gone."""

    key = models.CharField(max_length=64, unique=True, editable=False)
    part = models.CharField(
        max_length=64, db_index=True, editable=False, help_text="What was looked at: one archive, one box."
    )
    code = models.CharField("kind", max_length=32)
    subject = models.TextField(help_text="The series, or a file in a storage box.")
    text = models.TextField()
    advice = models.TextField(help_text="What a person can do.")
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    gone = models.DateTimeField(null=True, blank=True, db_index=True)
    noticed = models.BooleanField(default=False, editable=False)

    class Meta:
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.code} {self.subject}"


class ScanDownload(models.Model):
    """Files that somebody chose to download as one TAR: listed once, so that a download can be resumed."""

    token = models.UUIDField(unique=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(django_settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    created = models.DateTimeField(auto_now_add=True)
    files = models.JSONField(
        default=list,
        help_text="DataFile, its dataset, name, size, SHA-512 and kind, in the order of the TAR.",
    )
    left_out = models.JSONField(
        default=list, help_text="Selected files that are not included, with the reason."
    )
    made = models.JSONField(
        default=dict,
        help_text="For a BIDS dataset, files that were made for it, by name; and by dataset the DataFiles that they were "
        "made of, which one must be allowed to download.",
    )

    def __str__(self) -> str:
        return f"{len(self.files)} files for {self.user}"


class FilterOutput(models.Model):
    """A DataFile that a filter run made."""

    run = models.ForeignKey(FilterRun, on_delete=models.CASCADE, related_name="outputs")
    datafile = models.OneToOneField("tardis_portal.DataFile", on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=32)

    class Meta:
        ordering = ("run", "kind", "datafile")

    def __str__(self) -> str:
        return f"{self.kind} of {self.run}"
