"""An experiment: datasets, and the rules of who may see them."""

from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.contenttypes.fields import GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.urls import reverse

from ..flavour import TYPED
from ..managers import ExperimentManager, SafeManager
from .license import License


class PublicAccess:
    """How far an object is open to everybody."""

    PUBLIC_ACCESS_NONE = 1
    PUBLIC_ACCESS_EMBARGO = 25
    PUBLIC_ACCESS_METADATA = 50
    PUBLIC_ACCESS_FULL = 100
    PUBLIC_ACCESS_CHOICES = (
        (PUBLIC_ACCESS_NONE, "No public access (hidden)"),
        (PUBLIC_ACCESS_EMBARGO, "Ready to be released pending embargo expiry"),
        (PUBLIC_ACCESS_METADATA, "Public Metadata only (no data file access)"),
        (PUBLIC_ACCESS_FULL, "Public"),
    )

    @classmethod
    def public_access_implies_distribution(cls, public_access_level):
        """Whether this level of publicity lets anybody download the files."""
        return public_access_level > cls.PUBLIC_ACCESS_METADATA

    def public_download_allowed(self):
        return self.public_access_implies_distribution(self.public_access)


class Experiment(PublicAccess, models.Model):
    """Making one makes no access rule: until there is one, only administrators see it."""

    url = models.URLField(max_length=255, null=True, blank=True)
    approved = models.BooleanField(default=False)
    title = models.CharField(max_length=400)
    institution_name = models.CharField(max_length=400, default=settings.DEFAULT_INSTITUTION)
    description = models.TextField(blank=True)
    start_time = models.DateTimeField(null=True, blank=True)
    end_time = models.DateTimeField(null=True, blank=True)
    created_time = models.DateTimeField(auto_now_add=True)
    update_time = models.DateTimeField(auto_now=True)
    created_by = models.ForeignKey(User, on_delete=models.CASCADE)
    handle = models.TextField(null=True, blank=True)
    locked = models.BooleanField(default=False)
    public_access = models.PositiveSmallIntegerField(
        choices=PublicAccess.PUBLIC_ACCESS_CHOICES, default=PublicAccess.PUBLIC_ACCESS_NONE
    )
    license = models.ForeignKey(License, blank=True, null=True, on_delete=models.CASCADE)

    objects = models.Manager()
    if TYPED:
        safe = SafeManager()
    else:
        objectacls = GenericRelation("tardis_portal.ObjectACL")
        safe = ExperimentManager()

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return self.title

    def get_absolute_url(self):
        return reverse("tardis_portal.view_experiment", kwargs={"experiment_id": self.id})

    def get_datafiles(self):
        from .datafile import DataFile

        return DataFile.objects.filter(dataset__experiments=self)

    def get_size(self):
        """The bytes of all its files together."""
        from .datafile import DataFile

        return DataFile.sum_sizes(self.get_datafiles())

    def getParameterSets(self):
        from .parameters import Schema

        return self.experimentparameterset_set.filter(schema__type=Schema.EXPERIMENT)

    def get_ct(self):
        return ContentType.objects.get_for_model(self)

    def get_owners(self):
        if TYPED:
            return [row.user for row in self.experimentacl_set.filter(user__isnull=False, isOwner=True)]
        rules = self.objectacls.filter(pluginId="django_user", isOwner=True)
        return [rule.get_related_object() for rule in rules]

    def get_groups(self):
        if TYPED:
            return [row.group for row in self.experimentacl_set.filter(group__isnull=False)]
        rules = self.objectacls.filter(pluginId="django_group", canRead=True)
        return [rule.get_related_object() for rule in rules]

    def _has_view_perm(self, user_obj):
        """True when public, otherwise None: the access rules decide."""
        return True if self.public_access >= self.PUBLIC_ACCESS_METADATA else None

    def _has_download_perm(self, user_obj):
        """Asked by 5.0 alone: True when its files are public."""
        return True if self.public_download_allowed() else None

    def _has_change_perm(self, user_obj):
        """False when locked, otherwise None: the access rules decide."""
        return False if self.locked else None
