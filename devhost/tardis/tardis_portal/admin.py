"""The host's models in Django's administration."""

from django.contrib import admin

from . import models
from .flavour import TYPED


class ParametersInline(admin.TabularInline):
    extra = 0


def _with_parameters(parameter):
    """An admin of parameter sets that shows their values."""
    inline = type(f"{parameter.__name__}Inline", (ParametersInline,), {"model": parameter})
    return type(f"{parameter.__name__}SetAdmin", (admin.ModelAdmin,), {"inlines": [inline]})


@admin.register(models.Experiment)
class ExperimentAdmin(admin.ModelAdmin):
    list_display = ["title", "created_by", "public_access", "update_time"]
    search_fields = ["title"]


@admin.register(models.Dataset)
class DatasetAdmin(admin.ModelAdmin):
    list_display = ["description", "instrument", "created_time"]
    search_fields = ["description"]
    autocomplete_fields = ["experiments"]


class DataFileObjectInline(admin.TabularInline):
    model = models.DataFileObject
    extra = 0


@admin.register(models.DataFile)
class DataFileAdmin(admin.ModelAdmin):
    list_display = ["filename", "directory", "dataset", "size", "mimetype"]
    search_fields = ["filename", "directory"]
    raw_id_fields = ["dataset"]
    inlines = [DataFileObjectInline]


_FLAGS = ["canRead", "canWrite", "canDelete", "isOwner"]
if TYPED:
    for _model, _of in (
        (models.ExperimentACL, "experiment"),
        (models.DatasetACL, "dataset"),
        (models.DatafileACL, "datafile"),
    ):
        _columns = {"list_display": [_of, "user", "group", "canDownload", *_FLAGS], "raw_id_fields": [_of]}
        admin.site.register(_model, type(f"{_model.__name__}Admin", (admin.ModelAdmin,), _columns))
else:

    @admin.register(models.ObjectACL)
    class ObjectACLAdmin(admin.ModelAdmin):
        list_display = ["content_object", "pluginId", "entityId", *_FLAGS]


class StorageBoxOptionInline(admin.TabularInline):
    model = models.StorageBoxOption
    extra = 0


class StorageBoxAttributeInline(admin.TabularInline):
    model = models.StorageBoxAttribute
    extra = 0


@admin.register(models.StorageBox)
class StorageBoxAdmin(admin.ModelAdmin):
    inlines = [StorageBoxOptionInline, StorageBoxAttributeInline]


class ParameterNameInline(admin.TabularInline):
    model = models.ParameterName
    extra = 0


@admin.register(models.Instrument)
class InstrumentAdmin(admin.ModelAdmin):
    search_fields = ["name"]


@admin.register(models.Schema)
class SchemaAdmin(admin.ModelAdmin):
    list_display = ["namespace", "name", "type"]
    inlines = [ParameterNameInline]


admin.site.register(models.ExperimentParameterSet, _with_parameters(models.ExperimentParameter))
admin.site.register(models.DatasetParameterSet, _with_parameters(models.DatasetParameter))
admin.site.register(models.DatafileParameterSet, _with_parameters(models.DatafileParameter))
admin.site.register(models.InstrumentParameterSet, _with_parameters(models.InstrumentParameter))
admin.site.register(
    [
        models.Facility,
        models.GroupAdmin,
        models.License,
        models.UserAuthentication,
        models.UserProfile,
    ]
)
