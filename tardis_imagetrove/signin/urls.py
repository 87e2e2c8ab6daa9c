"""The addresses of signing in; they belong at the root of a site, in front of MyTARDIS's own."""

from django.urls import path, re_path

from . import views
from .providers import PROTOCOLS

urlpatterns = [
    *(pattern for protocol in PROTOCOLS for pattern in protocol.urls()),
    # Without a name: MyTARDIS's own, of the same address, keeps it.
    path(views.SIGN_OUT, views.sign_out),
    re_path(r"^local_local/?$", views.local_sign_in, name="imagetrove_local_sign_in"),
]
