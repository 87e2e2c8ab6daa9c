"""How the app enters MyTARDIS: by its package name in ``INSTALLED_APPS``."""

from django.core.signals import setting_changed
from tardis.app_config import AbstractTardisAppConfig


class ImageTroveConfig(AbstractTardisAppConfig):
    # Without `default`, MyTARDIS would not see the package name and would mount neither URLs nor API.
    default = True
    name = "tardis_imagetrove"
    verbose_name = "ImageTrove"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401
        from .signin import checks as sign_in_checks  # noqa: F401
        from .signin.rapid_connect.config import lead_to_the_sign_in_page
        from .signin.responses import keep_visitors_signed_in

        keep_visitors_signed_in()
        lead_to_the_sign_in_page()
        setting_changed.connect(lead_to_the_sign_in_page)
