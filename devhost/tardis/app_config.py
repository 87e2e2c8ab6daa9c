"""How an app makes itself known, so that its pages and its API are mounted."""

import re

from django.apps import AppConfig, apps
from django.conf import settings


class AbstractTardisAppConfig(AppConfig):
    """Base of the configuration of every app with pages under /apps/ or resources under /api/."""

    app_dependencies = []


def is_tardis_app(app_config):
    """True for an app of the host's own folder, or one whose configuration extends the base above."""
    return isinstance(app_config, AbstractTardisAppConfig) or app_config.name.startswith(
        settings.TARDIS_APP_ROOT
    )


def format_app_name_for_url(name):
    """`my_app` as it stands in a path: `my-app`."""
    return re.sub("[^a-z0-9]+", "-", name.lower())


def get_tardis_apps():
    """Pairs of (label, package) of the apps that INSTALLED_APPS lists by their package name."""
    return [
        (label, config.name)
        for label, config in apps.app_configs.items()
        # An app listed by the dotted path of its configuration loads, but is not mounted.
        if config.name in settings.INSTALLED_APPS and is_tardis_app(config)
    ]
