"""MyTARDIS 5.0: group administrators, tokens, and a model of access rights for each kind of object."""

from datetime import date, timedelta

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import models
from django.db.models import Q
from django.db.models.signals import post_save
from django.dispatch import receiver

from .access_control import Rights
from .datafile import DataFile
from .dataset import Dataset
from .experiment import Experiment


class GroupAdmin(models.Model):
    """A user, or the members of a group, who may change the members of a group."""

    group = models.ForeignKey(Group, on_delete=models.CASCADE)
    admin_user = models.ForeignKey(User, on_delete=models.CASCADE, null=True, blank=True)
    admin_group = models.ForeignKey(
        Group, on_delete=models.CASCADE, null=True, blank=True, related_name="admin_group"
    )

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return f"{self.group.name} Admins"


def _token_expiry():
    return date.today() + timedelta(days=30)


class Token(models.Model):
    """Access by an address that holds it, without an account."""

    token = models.CharField(max_length=30, unique=True)
    expiry_date = models.DateField(default=_token_expiry)
    user = models.ForeignKey(User, on_delete=models.CASCADE)

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return self.token


class ACL(Rights):
    """One row: what a user, a group or a token may do with one object."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, null=True, blank=True, related_name="%(class)ss")
    group = models.ForeignKey(
        Group, on_delete=models.CASCADE, null=True, blank=True, related_name="%(class)ss"
    )
    token = models.ForeignKey(
        Token, on_delete=models.CASCADE, null=True, blank=True, related_name="%(class)ss"
    )
    canDownload = models.BooleanField(default=False)
    canSensitive = models.BooleanField(default=False)

    class Meta:
        abstract = True
        app_label = "tardis_portal"
        ordering = ["id"]

    def __str__(self):
        return str(self.id)

    def save(self, *args, **kwargs):
        """Refuses a row of nobody, or of several."""
        if sum(who is not None for who in (self.user, self.group, self.token)) != 1:
            raise AssertionError("An ACL must have one of the following fields: User, Group, or Token")
        super().save(*args, **kwargs)

    @staticmethod
    def granted_to(user):
        """Q for the rows that count for a user today.

        As on the real host a row counts unless it has not begun *and* is over, and a visitor may hold tokens.
        """
        from ..auth.token_auth import TokenGroupProvider

        who = Q(token__in=TokenGroupProvider().getGroups(user))
        if user.is_authenticated:
            who |= Q(user=user) | Q(group__in=user.groups.all())
        return who & ~Q(effectiveDate__gte=date.today(), expiryDate__lte=date.today())


class ExperimentACL(ACL):
    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE)


class DatasetACL(ACL):
    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE)


class DatafileACL(ACL):
    datafile = models.ForeignKey(DataFile, on_delete=models.CASCADE)


def public_user():
    """Whose rows make an object public; as on the real host nothing can be saved without this user."""
    return User.objects.get(pk=settings.PUBLIC_USER_ID)


@receiver(post_save, sender=Experiment, dispatch_uid="devhost_public_experiment")
@receiver(post_save, sender=Dataset, dispatch_uid="devhost_public_dataset")
@receiver(post_save, sender=DataFile, dispatch_uid="devhost_public_datafile")
def keep_the_public_row(sender, instance, **kwargs):
    """What has become public gets a row of the public user, and what is so no more loses it."""
    acl = {Experiment: ExperimentACL, Dataset: DatasetACL, DataFile: DatafileACL}[sender]
    row = {"user": public_user(), sender._meta.model_name: instance}
    if sender is not Experiment and settings.ONLY_EXPERIMENT_ACLS:
        return
    if instance.public_access > Experiment.PUBLIC_ACCESS_EMBARGO:
        acl.objects.get_or_create(**row, defaults={"canRead": True, "aclOwnershipType": ACL.SYSTEM_OWNED})
    else:
        acl.objects.filter(**row).delete()
