"""Entries of the menu under the user's name, for MyTARDIS's setting ``USER_MENU_MODIFIERS``."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import reverse


def add_board(request: HttpRequest, menu: list[dict[str, object]]) -> list[dict[str, object]]:
    """The menu with the board of received series in front, for staff."""
    if not (request.user.is_active and request.user.is_staff):
        return menu
    entry: dict[str, object] = {
        "url": reverse("tardis_imagetrove:index"),
        "icon": "fa fa-inbox",
        "label": "Received Series",
    }
    return [entry, *menu]


def add_my_scans(request: HttpRequest, menu: list[dict[str, object]]) -> list[dict[str, object]]:
    """The menu with the page of a researcher's own scans in front."""
    entry: dict[str, object] = {
        "url": reverse("tardis_imagetrove:mine"),
        "icon": "fa fa-clock-o",
        "label": "My Scans",
    }
    return [entry, *menu]


def add_scans(request: HttpRequest, menu: list[dict[str, object]]) -> list[dict[str, object]]:
    """The menu with the search of scans in front."""
    entry: dict[str, object] = {
        "url": reverse("tardis_imagetrove:scans"),
        "icon": "fa fa-search",
        "label": "Find Scans",
    }
    return [entry, *menu]
