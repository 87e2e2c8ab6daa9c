"""Signing in with a local user name and password."""

from django.conf import settings
from django.contrib import auth
from django.http import HttpResponseForbidden, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_post_parameters

from ..auth import auth_service
from ..shortcuts import render_response_index


def _next_page(request):
    """Where to go after signing in: a page of this host, else the index."""
    wanted = request.POST.get("next") or request.GET.get("next") or "/"
    return wanted if url_has_allowed_host_and_scheme(wanted, {request.get_host()}) else "/"


@sensitive_post_parameters("password")
def login(request):
    """The form, and what it sends."""
    if request.user.is_authenticated:
        return HttpResponseRedirect(_next_page(request))
    if "username" in request.POST and "password" in request.POST:
        user = auth_service.authenticate(authMethod=request.POST.get("authMethod"), request=request)
        if user:
            auth.login(request, user, backend="django.contrib.auth.backends.ModelBackend")
            return HttpResponseRedirect(_next_page(request))
        context = {"status": "Sorry, username and password don't match.", "error": True}
        page = render_response_index(request, "tardis_portal/login.html", context)
        return HttpResponseForbidden(page.content)
    context = {
        "next": _next_page(request),
        "RAPID_CONNECT_ENABLED": settings.RAPID_CONNECT_ENABLED,
        "RAPID_CONNECT_LOGIN_URL": settings.RAPID_CONNECT_CONFIG["authnrequest_url"],
    }
    return render_response_index(request, "tardis_portal/login.html", context)
