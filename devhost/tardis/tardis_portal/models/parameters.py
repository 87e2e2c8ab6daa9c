"""Metadata: schemas, the names of parameters, and sets of their values on experiments, datasets and files."""

import json
from urllib.parse import urlsplit

import dateutil.parser
from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import SuspiciousOperation
from django.db import models
from django.urls import Resolver404, resolve, reverse
from django.utils import timezone
from django.utils.html import format_html

from ..flavour import TYPED
from .datafile import DataFile
from .dataset import Dataset
from .experiment import Experiment
from .instrument import Instrument
from .storage import StorageBox


class SchemaManager(models.Manager):
    def get_by_natural_key(self, namespace):
        return self.get(namespace=namespace)


class ParameterNameManager(models.Manager):
    def get_by_natural_key(self, namespace, name):
        return self.get(schema__namespace=namespace, name=name)


class Schema(models.Model):
    """What a parameter set can hold, told apart by the namespace."""

    EXPERIMENT = 1
    DATASET = 2
    DATAFILE = 3
    NONE = 4
    INSTRUMENT = 5
    PROJECT = 6
    _OF_OBJECTS = (
        (EXPERIMENT, "Experiment schema"),
        (DATASET, "Dataset schema"),
        (DATAFILE, "Datafile schema"),
        (INSTRUMENT, "Instrument schema"),
        (NONE, "None"),
    )
    _OF_TYPED = tuple(sorted((*_OF_OBJECTS, (PROJECT, "Project schema"))))

    namespace = models.URLField(unique=True, max_length=255)
    name = models.CharField(blank=True, null=True, max_length=50)
    type = models.IntegerField(
        choices=_OF_TYPED if TYPED else _OF_OBJECTS,
        default=EXPERIMENT,
    )
    subtype = models.CharField(blank=True, null=True, max_length=30)
    immutable = models.BooleanField(default=False)
    hidden = models.BooleanField(default=False)

    objects = SchemaManager()

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        subtype = f" for {self.subtype.upper()}" if self.subtype else ""
        return f"{self.get_type_display()}{subtype}: {self.namespace}"

    def natural_key(self):
        return (self.namespace,)


class ParameterName(models.Model):
    """One kind of value: its name, what to call it on a page, its type and unit."""

    EXACT_VALUE_COMPARISON = 1
    RANGE_COMPARISON = 3
    GREATER_THAN_COMPARISON = 4
    GREATER_THAN_EQUAL_COMPARISON = 5
    LESS_THAN_COMPARISON = 6
    LESS_THAN_EQUAL_COMPARISON = 7
    CONTAINS_COMPARISON = 8

    NUMERIC = 1
    STRING = 2
    URL = 3
    LINK = 4
    FILENAME = 5
    DATETIME = 6
    LONGSTRING = 7
    JSON = 8

    schema = models.ForeignKey(Schema, on_delete=models.CASCADE)
    name = models.CharField(max_length=60)
    full_name = models.CharField(max_length=60)
    units = models.CharField(max_length=60, blank=True)
    data_type = models.IntegerField(
        choices=(
            (NUMERIC, "NUMERIC"),
            (STRING, "STRING"),
            (URL, "URL"),
            (LINK, "LINK"),
            (FILENAME, "FILENAME"),
            (DATETIME, "DATETIME"),
            (LONGSTRING, "LONGSTRING"),
            (JSON, "JSON"),
        ),
        default=STRING,
    )
    immutable = models.BooleanField(default=False)
    comparison_type = models.IntegerField(
        choices=(
            (EXACT_VALUE_COMPARISON, "Exact value"),
            (CONTAINS_COMPARISON, "Contains"),
            (RANGE_COMPARISON, "Range"),
            (GREATER_THAN_COMPARISON, "Greater than"),
            (GREATER_THAN_EQUAL_COMPARISON, "Greater than or equal"),
            (LESS_THAN_COMPARISON, "Less than"),
            (LESS_THAN_EQUAL_COMPARISON, "Less than or equal"),
        ),
        default=EXACT_VALUE_COMPARISON,
    )
    is_searchable = models.BooleanField(default=False)
    choices = models.CharField(max_length=500, blank=True)
    order = models.PositiveIntegerField(default=9999, null=True, blank=True)

    if TYPED:
        sensitive = models.BooleanField(default=False)

    objects = ParameterNameManager()

    class Meta:
        app_label = "tardis_portal"
        ordering = ("order", "name")
        unique_together = (("schema", "name"),)

    def __str__(self):
        return f"{self.schema.name or self.schema.namespace}: {self.name}"

    def natural_key(self):
        return (self.schema.namespace, self.name)

    def isNumeric(self):
        return self.data_type == self.NUMERIC

    def isString(self):
        return self.data_type == self.STRING

    def isLongString(self):
        return self.data_type == self.LONGSTRING

    def isURL(self):
        return self.data_type == self.URL

    def isLink(self):
        return self.data_type == self.LINK

    def isFilename(self):
        return self.data_type == self.FILENAME

    def isDateTime(self):
        return self.data_type == self.DATETIME

    def is_json(self):
        return self.data_type == self.JSON


class ParameterSet(models.Model):
    """Values of one schema on one object."""

    schema = models.ForeignKey(Schema, on_delete=models.CASCADE)
    storage_box = models.ManyToManyField(StorageBox, related_name="%(class)ss")

    parameter_class = None

    class Meta:
        abstract = True
        app_label = "tardis_portal"
        ordering = ["id"]

    def __str__(self):
        return f"{self.schema.namespace} / {self.owner()}"

    def owner(self):
        """The object the values are of."""
        raise NotImplementedError

    @property
    def namespace(self):
        return self.schema.namespace

    @property
    def parameters(self):
        """The values in the order a page shows them."""
        return self.parameter_class.objects.filter(parameterset=self).order_by("name__full_name")


class Parameter(models.Model):
    """One value; which column holds it is said by the type of its name."""

    name = models.ForeignKey(ParameterName, on_delete=models.CASCADE)
    string_value = models.TextField(null=True, blank=True)
    numerical_value = models.FloatField(null=True, blank=True, db_index=True)
    datetime_value = models.DateTimeField(null=True, blank=True, db_index=True)
    link_id = models.PositiveIntegerField(null=True, blank=True)
    link_ct = models.ForeignKey(ContentType, null=True, blank=True, on_delete=models.CASCADE)
    link_gfk = GenericForeignKey("link_ct", "link_id")

    parameter_type = "Abstract"
    image_view = None

    class Meta:
        abstract = True
        app_label = "tardis_portal"
        ordering = ["name"]

    def __str__(self):
        return f"{self.parameter_type} Param: {self.name.name}={self.get()}"

    def get(self):
        """The value as a page shows it: text with units, a link, or a picture."""
        name = self.name
        if name.isNumeric():
            return f"{self.numerical_value} {name.units}".rstrip()
        if name.isDateTime():
            return timezone.localtime(self.datetime_value, timezone.get_default_timezone()).strftime("%c")
        if name.is_json():
            return json.loads(self.string_value)
        if name.isURL():
            return format_html("<a href='{0}'>{0}</a>", self.string_value)
        if name.isLink():
            if self.string_value is None:
                return ""
            return format_html("<a href='{}{}'>{}</a>", name.units, self.string_value, self.string_value)
        if name.isFilename() and name.units.startswith("image") and self.string_value and self.image_view:
            return format_html(
                "<a href='{0}' target='_blank'><img alt='{1}' style='width: 300px;' src='{0}'></a>",
                reverse(self.image_view, args=[self.id]),
                name.full_name,
            )
        return self.string_value

    def set_value(self, value):
        """Takes the value from text, as the type of its name asks.

        ValueError for a number or time that is none; SuspiciousOperation for a link to nowhere.
        """
        if self.name.isNumeric():
            self.numerical_value = float(value)
        elif self.name.isDateTime():
            moment = dateutil.parser.parse(value)
            if settings.USE_TZ and timezone.is_naive(moment):
                moment = timezone.make_aware(moment, timezone.get_default_timezone())
            self.datetime_value = moment
        elif self.name.isLink():
            if value not in (None, ""):
                self._link_to(str(value))
        else:
            self.string_value = str(value)

    def _link_to(self, value):
        self.string_value = value
        try:
            match = resolve(urlsplit(value).path)
        except Resolver404 as error:
            raise SuspiciousOperation(f"Link parameter could not be set from string: {value}") from error
        for model in (Experiment, Dataset):
            kind = model._meta.model_name
            pk = match.kwargs.get(f"{kind}_id") or (
                match.kwargs.get("resource_name") == kind and match.kwargs.get("pk")
            )
            if pk:
                self.link_ct, self.link_id = ContentType.objects.get_for_model(model), int(pk)


class ExperimentParameterSet(ParameterSet):
    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE)

    def owner(self):
        return self.experiment


class ExperimentParameter(Parameter):
    parameterset = models.ForeignKey(ExperimentParameterSet, on_delete=models.CASCADE)
    parameter_type = "Experiment"
    image_view = "tardis.tardis_portal.views.load_experiment_image"


class DatasetParameterSet(ParameterSet):
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE)

    def owner(self):
        return self.dataset


class DatasetParameter(Parameter):
    parameterset = models.ForeignKey(DatasetParameterSet, on_delete=models.CASCADE)
    parameter_type = "Dataset"
    image_view = "tardis.tardis_portal.views.load_dataset_image"


class DatafileParameterSet(ParameterSet):
    datafile = models.ForeignKey(DataFile, on_delete=models.CASCADE)

    def owner(self):
        return self.datafile


class DatafileParameter(Parameter):
    # Pictures among a file's parameters are broken on the real host, so there is no view for them.
    parameterset = models.ForeignKey(DatafileParameterSet, on_delete=models.CASCADE)
    parameter_type = "Datafile"


class InstrumentParameterSet(ParameterSet):
    instrument = models.ForeignKey(Instrument, on_delete=models.CASCADE)

    def owner(self):
        return self.instrument


class InstrumentParameter(Parameter):
    parameterset = models.ForeignKey(InstrumentParameterSet, on_delete=models.CASCADE)
    parameter_type = "Instrument"


ExperimentParameterSet.parameter_class = ExperimentParameter
DatasetParameterSet.parameter_class = DatasetParameter
DatafileParameterSet.parameter_class = DatafileParameter
InstrumentParameterSet.parameter_class = InstrumentParameter
