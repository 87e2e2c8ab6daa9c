"""The identifiers of Rapid Connect assertions that were used."""

from django.db import models


class JTI(models.Model):
    """One used assertion; as on the real host nothing makes it unique."""

    jti = models.CharField(max_length=255)
    created_time = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return self.jti
