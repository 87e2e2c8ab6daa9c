"""A licence under which an experiment's data may be used."""

from django.db import models


class License(models.Model):
    """A licence."""

    name = models.CharField(max_length=255, unique=True)
    url = models.URLField(max_length=255)
    internal_description = models.TextField()
    image_url = models.URLField(max_length=255, blank=True)
    allows_distribution = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return self.name
