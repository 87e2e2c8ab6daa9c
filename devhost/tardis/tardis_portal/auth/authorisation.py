"""Answers `user.has_perm("tardis_acls.ACTION_MODEL", object)` from the access rules of that object."""

from django.contrib.contenttypes.models import ContentType
from django.db.models import Q

from ..flavour import TYPED
from .localdb_auth import django_user

# What a rule must allow for each action; an owner may do all of them.
FLAG_OF_ACTION = {"view": "canRead", "change": "canWrite", "delete": "canDelete"}


class ACLAwareBackend:
    """Object permissions only; it signs nobody in.

    As on the real host, a dataset does not inherit the rules of its experiments here: only the
    functions of `auth.decorators` follow that relation.
    """

    app_label = "tardis_acls"

    def authenticate(self, request):
        return None

    def has_perm(self, user_obj, perm, obj=None):
        label, _, codename = perm.partition(".")
        action, _, model = codename.partition("_")
        if obj is None or label != self.app_label:
            return False
        if codename == "change_experiment" and not user_obj.has_perm("tardis_portal.change_experiment"):
            return False
        content_type = ContentType.objects.get_for_model(obj)
        if content_type.model != model:
            return False
        own_answer = getattr(obj, f"_has_{action}_perm", lambda user: None)(user_obj)
        if isinstance(own_answer, bool):
            return own_answer
        if TYPED:
            from .typed_rules import has_right

            return has_right(user_obj, action, model, obj)
        if not user_obj.is_authenticated:
            return False
        from ..models import ObjectACL

        allowed = Q(isOwner=True)
        if action in FLAG_OF_ACTION:
            allowed |= Q(**{FLAG_OF_ACTION[action]: True})
        elif action not in ("owns", "share"):
            allowed = Q()
        who = Q(pluginId=django_user, entityId=str(user_obj.id))
        for provider, group in user_obj.userprofile.ext_groups:
            who |= Q(pluginId=provider, entityId=str(group))
        return (
            ObjectACL.objects.filter(content_type=content_type, object_id=obj.pk)
            .filter(allowed, who, ObjectACL.get_effective_query())
            .exists()
        )
