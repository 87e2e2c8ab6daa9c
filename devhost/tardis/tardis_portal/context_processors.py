"""What every page of the host knows."""

from django.conf import settings
from django.urls import reverse
from django.utils.module_loading import import_string


def global_contexts(request):
    """The name of the site."""
    return {"site_title": settings.SITE_TITLE}


def user_details_processor(request):
    """Who is looking."""
    user = request.user
    return {
        "username": user.username or None,
        "is_authenticated": user.is_authenticated,
        "is_superuser": user.is_superuser,
    }


def user_menu_processor(request):
    """The entries of the menu under the user's name, after every app's USER_MENU_MODIFIERS."""
    if not request.user.is_authenticated:
        return {"user_menu": []}
    menu = []
    if request.user.is_superuser:
        menu.append({"url": reverse("admin:index"), "icon": "fa fa-key", "label": "Admin Interface"})
    menu.append({"url": reverse("logout"), "icon": "fa fa-sign-out", "label": "Log Out"})
    for name in settings.USER_MENU_MODIFIERS:
        menu = import_string(name)(request, menu)
    return {"user_menu": menu}
