"""What the host knows of its users, and what a rule may allow them."""

from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import models
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.utils.functional import cached_property, lazy

from ..flavour import TYPED


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
        if TYPED:  # as on the real host, nobody can be made without the setting
            permissions = Permission.objects.filter(codename__in=settings.DEFAULT_PERMISSIONS)
            instance.user_permissions.add(*permissions)
        UserProfile.objects.create(user=instance)


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


class Rights(models.Model):
    """What one rule allows, and when: common to the access models of both flavours."""

    OWNER_OWNED = 1
    SYSTEM_OWNED = 2

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
        abstract = True
