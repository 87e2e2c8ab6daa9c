"""A facility, which has instruments and people who manage them."""

from django.contrib.auth.models import Group
from django.db import models
from django.utils import timezone


class Facility(models.Model):
    """A place with instruments."""

    name = models.CharField(max_length=100)
    manager_group = models.ForeignKey(Group, on_delete=models.CASCADE)
    created_time = models.DateTimeField(null=True, blank=True, default=timezone.now)
    modified_time = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "tardis_portal"
        ordering = ("name",)
        verbose_name_plural = "facilities"

    def __str__(self):
        return self.name

    def save(self, *args, **kwargs):
        self.modified_time = timezone.now()
        super().save(*args, **kwargs)


def facilities_managed_by(user):
    """The facilities whose managers' group the user is in."""
    return Facility.objects.filter(manager_group__user=user)
