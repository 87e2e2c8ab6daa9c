"""The REST API: reading of experiments, datasets and files, and what an app's own resources build on."""

from django.contrib.auth.models import AnonymousUser
from django.http import FileResponse, HttpResponseForbidden, HttpResponseNotFound
from django.urls import re_path
from tastypie import fields
from tastypie.authentication import ApiKeyAuthentication, BasicAuthentication, SessionAuthentication
from tastypie.authorization import ReadOnlyAuthorization
from tastypie.constants import ALL_WITH_RELATIONS
from tastypie.http import HttpUnauthorized
from tastypie.resources import ModelResource
from tastypie.serializers import Serializer
from tastypie.utils import trailing_slash

from .auth.decorators import (
    get_accessible_datafiles_for_user,
    get_accessible_experiments,
    may_download,
    may_view,
)
from .models import DataFile, Dataset, Experiment

default_serializer = Serializer(formats=["json"])


class MyTardisAuthentication:
    """A session, a password or an API key; without any of them the request is an anonymous one."""

    by_scheme = {"Basic": BasicAuthentication, "ApiKey": ApiKeyAuthentication}

    def is_authenticated(self, request, **kwargs):
        """False only when what was given is wrong."""
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            if SessionAuthentication().is_authenticated(request, **kwargs) is not True:
                request.user = AnonymousUser()
            return True
        scheme = self.by_scheme.get(header.partition(" ")[0])
        if scheme is None:
            return False
        answer = scheme().is_authenticated(request, **kwargs)
        return False if isinstance(answer, HttpUnauthorized) else answer

    def get_identifier(self, request):
        return getattr(request.user, "username", "") or "nouser"


default_authentication = MyTardisAuthentication()


class ACLAuthorization(ReadOnlyAuthorization):
    """Reading by the host's access rules; of any other kind of object nothing is shown."""

    def read_list(self, object_list, bundle):
        request = bundle.request
        if request.user.is_superuser:
            return object_list
        experiments = get_accessible_experiments(request)
        if isinstance(bundle.obj, Experiment):
            return object_list.filter(pk__in=experiments)
        if isinstance(bundle.obj, Dataset):
            return object_list.filter(experiments__in=experiments).distinct()
        if isinstance(bundle.obj, DataFile):
            return object_list.filter(pk__in=get_accessible_datafiles_for_user(request))
        return []

    def read_detail(self, object_list, bundle):
        kinds = {Experiment: "experiment", Dataset: "dataset", DataFile: "datafile"}
        kind = kinds.get(type(bundle.obj))
        if kind is None:
            raise NotImplementedError(type(bundle.obj))
        return may_view(bundle.request, bundle.obj.id, kind)


class MyTardisModelResource(ModelResource):
    """Base of every resource over a model."""

    class Meta:
        authentication = default_authentication
        authorization = ACLAuthorization()
        serializer = default_serializer
        object_class = None


class ExperimentResource(MyTardisModelResource):
    class Meta(MyTardisModelResource.Meta):
        object_class = Experiment
        queryset = Experiment.objects.all()
        resource_name = "experiment"
        filtering = {"id": ("exact",), "title": ("exact",)}
        ordering = ["id", "title", "created_time", "update_time"]


class DatasetResource(MyTardisModelResource):
    experiments = fields.ToManyField(ExperimentResource, "experiments")

    class Meta(MyTardisModelResource.Meta):
        object_class = Dataset
        queryset = Dataset.objects.all()
        resource_name = "dataset"
        filtering = {
            "id": ("exact",),
            "description": ("exact",),
            "directory": ("exact",),
            "experiments": ALL_WITH_RELATIONS,
        }
        ordering = ["id", "description"]


class DataFileResource(MyTardisModelResource):
    dataset = fields.ForeignKey(DatasetResource, "dataset")

    class Meta(MyTardisModelResource.Meta):
        object_class = DataFile
        queryset = DataFile.objects.all()
        resource_name = "dataset_file"
        filtering = {
            "directory": ("exact", "startswith"),
            "dataset": ALL_WITH_RELATIONS,
            "filename": ("exact",),
        }
        ordering = ["id", "filename", "modification_time"]

    def prepend_urls(self):
        return [
            re_path(
                rf"^(?P<resource_name>{self._meta.resource_name})/(?P<pk>\w[\w/-]*)/download{trailing_slash()}$",
                self.wrap_view("download_file"),
                name="api_download_file",
            ),
        ]

    def download_file(self, request, **kwargs):
        """The bytes of a verified file; 404 while it is not verified."""
        self.method_check(request, allowed=["get"])
        self.is_authenticated(request)
        self.throttle_check(request)
        datafile = DataFile.objects.filter(pk=kwargs["pk"]).first()
        if datafile is None:
            return HttpResponseNotFound()
        if not may_download(request, datafile.id, "datafile"):
            return HttpResponseForbidden()
        stored = datafile.get_file()
        if stored is None:
            return HttpResponseNotFound()
        self.log_throttled_access(request)
        return FileResponse(
            stored, as_attachment=True, filename=datafile.filename, content_type=datafile.mimetype
        )
