"""Managers that ask who is looking."""

from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Q

from .auth.localdb_auth import django_group, django_user


class ExperimentManager(models.Manager):
    """`Experiment.safe`: every query is for a user, who may be anonymous."""

    def all(self, user):
        """What the user may see: public experiments, their own, and those shared with them."""
        return self._only(self._public() | self._owned_and_shared(user))

    def public(self):
        return self._only(self._public())

    def owned_and_shared(self, user):
        return self._only(self._owned_and_shared(user))

    def shared(self, user):
        """Those somebody else's rule lets the user read; a group's rule counts also for the owner."""
        return self._only(self._shared(user))

    def owned(self, user):
        """Those of the user and of the groups the user is in."""
        if not user.is_authenticated:
            return self.get_queryset().none()
        rules = self._rule(django_user, user.pk, isOwner=True)
        for group in user.groups.all():
            rules |= self._rule(django_group, group.pk, isOwner=True)
        return self._only(rules)

    def get(self, user, experiment_id):
        """The experiment, or PermissionDenied."""
        experiment = super().get(pk=experiment_id)
        if not user.has_perm("tardis_acls.view_experiment", experiment):
            raise PermissionDenied
        return experiment

    def _only(self, query):
        return self.get_queryset().filter(query).distinct()

    def _rule(self, provider, entity, **flags):
        from .models.object_acl import ObjectACL

        conditions = {"pluginId": provider, "entityId": str(entity), **flags}
        return Q(
            **{f"objectacls__{name}": value for name, value in conditions.items()}
        ) & ObjectACL.get_effective_query("objectacls__")

    def _public(self):
        hidden = [self.model.PUBLIC_ACCESS_NONE, self.model.PUBLIC_ACCESS_EMBARGO]
        return ~Q(public_access__in=hidden)

    def _shared(self, user):
        if not user.is_authenticated:
            return Q(pk=None)
        rules = self._rule(django_user, user.pk, canRead=True, isOwner=False)
        for provider, group in user.userprofile.ext_groups:
            rules |= self._rule(provider, group, canRead=True)
        return rules

    def _owned_and_shared(self, user):
        return self._shared(user) | self._rule(django_user, user.pk, isOwner=True)


class SafeManager(models.Manager):
    """`Experiment.safe` of 5.0: every query is for a user, who may be anonymous."""

    def all(self, user):
        """What a row of the experiments' rights names the user, a group or the public user for."""
        return self.public() | self.owned_and_shared(user)

    def public(self):
        from .models.typed_acl import ExperimentACL, public_user

        rows = ExperimentACL.objects.filter(user=public_user())
        return self.get_queryset().filter(pk__in=rows.values("experiment"))

    def owned_and_shared(self, user):
        from .models.typed_acl import ExperimentACL

        rows = ExperimentACL.objects.filter(ExperimentACL.granted_to(user))
        return self.get_queryset().filter(pk__in=rows.values("experiment"))

    def get(self, user, experiment_id):
        """The experiment, or PermissionDenied."""
        experiment = super().get(pk=experiment_id)
        if not user.has_perm("tardis_acls.view_experiment", experiment):
            raise PermissionDenied
        return experiment
