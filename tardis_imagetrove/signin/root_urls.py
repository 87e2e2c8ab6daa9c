"""For ``ROOT_URLCONF``: the addresses of signing in, and behind them all of MyTARDIS's own."""

from django.conf.urls import handler400, handler403, handler404, handler500
from tardis import urls as mytardis_urls

from . import urls

# Not include(): MyTARDIS's module has a loop variable called app_name, which Django would take for a namespace.
urlpatterns = [*urls.urlpatterns, *mytardis_urls.urlpatterns]

# Django looks for these in the root only.
handler400 = getattr(mytardis_urls, "handler400", handler400)
handler403 = getattr(mytardis_urls, "handler403", handler403)
handler404 = getattr(mytardis_urls, "handler404", handler404)
handler500 = getattr(mytardis_urls, "handler500", handler500)
