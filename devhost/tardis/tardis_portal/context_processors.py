"""What every page of the host knows."""

from django.conf import settings
from django.urls import reverse
from django.utils.module_loading import import_string


def global_contexts(request):
    """The name of the site, whom to ask, and how to sign in."""
    return {
        "site_title": settings.SITE_TITLE,
        "support_email": settings.SUPPORT_EMAIL,
        "rapidconnect_enabled": settings.RAPID_CONNECT_ENABLED,
        "RAPID_CONNECT_ENABLED": settings.RAPID_CONNECT_ENABLED,
    }


def user_menu_processor(request):
    """The entries of the menu under the user's name, after every app's USER_MENU_MODIFIERS."""
    items = []
    if request.user.is_authenticated and request.user.is_staff:
        items.append({"url": reverse("admin:index"), "icon": "fa fa-cog", "label": "Administration"})
    for name in settings.USER_MENU_MODIFIERS:
        items = import_string(name)(request, items)
    return {"user_menu_items": items} if request.user.is_authenticated else {}
