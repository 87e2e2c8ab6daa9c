"""A project, and its rights."""

from django.contrib.auth.models import User
from django.db import models
from tardis.tardis_portal.models.experiment import Experiment, PublicAccess
from tardis.tardis_portal.models.typed_acl import ACL


class Project(PublicAccess, models.Model):
    """Whoever sees one of its experiments is shown the titles of all, where experiments alone have rights."""

    name = models.CharField(max_length=255)
    description = models.TextField()
    locked = models.BooleanField(default=False)
    public_access = models.PositiveSmallIntegerField(
        choices=PublicAccess.PUBLIC_ACCESS_CHOICES, default=PublicAccess.PUBLIC_ACCESS_NONE
    )
    principal_investigator = models.ForeignKey(
        User, related_name="principal_investigator", on_delete=models.CASCADE
    )
    created_by = models.ForeignKey(User, on_delete=models.CASCADE)
    experiments = models.ManyToManyField(Experiment, related_name="projects", blank=True)

    class Meta:
        app_label = "projects"

    def __str__(self):
        return self.name


class ProjectACL(ACL):
    project = models.ForeignKey(Project, on_delete=models.CASCADE)

    class Meta:
        app_label = "projects"
