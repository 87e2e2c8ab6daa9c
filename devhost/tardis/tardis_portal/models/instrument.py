"""An instrument of a facility."""

from django.db import models
from django.utils import timezone

from .facility import Facility


class Instrument(models.Model):
    """What made a dataset."""

    name = models.CharField(max_length=100)
    facility = models.ForeignKey(Facility, on_delete=models.CASCADE)
    created_time = models.DateTimeField(null=True, blank=True, default=timezone.now)
    modified_time = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "tardis_portal"
        ordering = ("name",)
        unique_together = ["name", "facility"]

    def __str__(self):
        return self.name

    def save(self, *args, **kwargs):
        self.modified_time = timezone.now()
        super().save(*args, **kwargs)

    def getParameterSets(self):
        from .parameters import Schema

        return self.instrumentparameterset_set.filter(schema__type=Schema.INSTRUMENT)
