"""For ``ROOT_URLCONF``: the addresses of signing in, and behind them all of MyTARDIS's own."""

from django.conf.urls import handler400, handler403, handler404, handler500
from django.http import HttpRequest, HttpResponse
from django.urls import get_callable
from tardis import urls as mytardis_urls

from . import urls
from .responses import without_cookies

# Not include(): MyTARDIS's module has a loop variable called app_name, which Django would take for a namespace.
urlpatterns = [*urls.urlpatterns, *mytardis_urls.urlpatterns]

# Django looks for these in the root only.
handler400 = getattr(mytardis_urls, "handler400", handler400)
handler403 = getattr(mytardis_urls, "handler403", handler403)
_not_found = getattr(mytardis_urls, "handler404", handler404)
handler500 = getattr(mytardis_urls, "handler500", handler500)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """MyTARDIS's page; without cookies for a form, which another site may have sent."""
    page = get_callable(_not_found)(request, exception=exception)
    if request.method in ("GET", "HEAD"):
        return page
    return without_cookies(request, page.content, page.status_code)
