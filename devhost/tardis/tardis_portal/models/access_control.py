"""User profiles, group administrators, and the rules that say who may do what with an experiment."""

from datetime import date

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models import Q
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.utils.functional import cached_property, lazy


class UserProfile(models.Model):
    """What the host knows of a user beside Django's own record; made together with the user."""

    user = models.OneToOneField(User, on_delete=models.CASCADE)
    isDjangoAccount = models.BooleanField(default=True)
    rapidConnectEduPersonTargetedID = models.CharField(max_length=400, null=True, blank=True)

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return self.user.username

    @cached_property
    def ext_groups(self):
        """Pairs of (provider, id of the group), as access rules name groups."""
        return [("django_group", pk) for pk in self.user.groups.values_list("pk", flat=True)]


@receiver(post_save, sender=User, dispatch_uid="devhost_user_profile")
def give_a_new_user_a_profile(sender, instance, created, **kwargs):
    if created:
        UserProfile.objects.create(user=instance)


class GroupAdmin(models.Model):
    """A user who may change the members of a group."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    group = models.ForeignKey(Group, on_delete=models.CASCADE)

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return f"{self.user.username}: {self.group.name}"


def _ways_to_sign_in():
    return tuple((key, title) for key, title, _ in settings.AUTH_PROVIDERS)


class UserAuthentication(models.Model):
    """A way by which a user signs in."""

    userProfile = models.ForeignKey(UserProfile, on_delete=models.CASCADE)
    username = models.CharField(max_length=50)
    authenticationMethod = models.CharField(max_length=30, choices=lazy(_ways_to_sign_in, tuple)())
    approved = models.BooleanField(default=True)

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return f"{self.username} - {self.getAuthMethodDescription()}"

    def getAuthMethodDescription(self):
        return dict(_ways_to_sign_in())[self.authenticationMethod]


class ObjectACL(models.Model):
    """One rule: what one user or group may do with one object."""

    OWNER_OWNED = 1
    SYSTEM_OWNED = 2

    pluginId = models.CharField(max_length=30)
    entityId = models.CharField(max_length=320)
    content_type = models.ForeignKey(ContentType, on_delete=models.CASCADE)
    object_id = models.PositiveIntegerField()
    content_object = GenericForeignKey("content_type", "object_id")
    canRead = models.BooleanField(default=False)
    canWrite = models.BooleanField(default=False)
    canDelete = models.BooleanField(default=False)
    isOwner = models.BooleanField(default=False)
    effectiveDate = models.DateField(null=True, blank=True)
    expiryDate = models.DateField(null=True, blank=True)
    aclOwnershipType = models.IntegerField(
        choices=((OWNER_OWNED, "Owner-owned"), (SYSTEM_OWNED, "System-owned")), default=OWNER_OWNED
    )

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
