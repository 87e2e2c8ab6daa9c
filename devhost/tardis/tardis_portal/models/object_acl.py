"""MyTARDIS 4.7: group administrators, and the rules that say who may do what with an experiment."""

from datetime import date

from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models import Q

from .access_control import Rights


class GroupAdmin(models.Model):
    """A user who may change the members of a group."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    group = models.ForeignKey(Group, on_delete=models.CASCADE)

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return f"{self.user.username}: {self.group.name}"


class ObjectACL(Rights):
    """One rule: what one user or group may do with one object."""

    pluginId = models.CharField(max_length=30)
    entityId = models.CharField(max_length=320)
    content_type = models.ForeignKey(ContentType, on_delete=models.CASCADE)
    object_id = models.PositiveIntegerField()
    content_object = GenericForeignKey("content_type", "object_id")

    class Meta:
        app_label = "tardis_portal"
        ordering = ["content_type", "object_id"]
        verbose_name = "Object ACL"

    def __str__(self):
        return f"{self.content_type.name} | {self.object_id}"

    def get_related_object(self):
        """The user or group the rule is about, or None for any other kind."""
        model = {"django_user": User, "django_group": Group}.get(self.pluginId)
        return model and model.objects.get(pk=self.entityId)

    @classmethod
    def get_effective_query(cls, prefix=""):
        """Q for the rules in force today; `prefix` is the way to them from another model."""
        today = date.today()
        begun = Q(**{f"{prefix}effectiveDate__isnull": True}) | Q(**{f"{prefix}effectiveDate__lte": today})
        not_over = Q(**{f"{prefix}expiryDate__isnull": True}) | Q(**{f"{prefix}expiryDate__gte": today})
        return begun & not_over
