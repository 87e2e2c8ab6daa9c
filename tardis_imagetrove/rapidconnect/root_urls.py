"""For ``ROOT_URLCONF``: the addresses of signing in, and behind them all of MyTARDIS's own."""

from django.conf.urls import handler400, handler403, handler404, handler500
from django.urls import include, path
from tardis import urls as mytardis_urls

urlpatterns = [
    path("", include("tardis_imagetrove.rapidconnect.urls")),
    path("", include(mytardis_urls)),
]

# Django looks for these in the root only.
handler400 = getattr(mytardis_urls, "handler400", handler400)
handler403 = getattr(mytardis_urls, "handler403", handler403)
handler404 = getattr(mytardis_urls, "handler404", handler404)
handler500 = getattr(mytardis_urls, "handler500", handler500)
