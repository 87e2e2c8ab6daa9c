"""The addresses of signing in; they belong at the root of a site, in front of MyTARDIS's own."""

from django.urls import re_path

from . import views
from .providers import PROTOCOLS

urlpatterns = [
    *(pattern for protocol in PROTOCOLS for pattern in protocol.urls()),
    re_path(r"^local_local/?$", views.local_sign_in, name="imagetrove_local_sign_in"),
]
