"""The addresses of signing in; they belong at the root of a site, in front of MyTARDIS's own."""

from django.urls import path, re_path

from . import views

urlpatterns = [
    path("rc/", views.receive_assertion, name="imagetrove_rapid_connect"),
    # As registered without the slash: a redirect would lose what was posted.
    path("rc", views.receive_assertion),
    # Where MyTARDIS's own documentation has it registered.
    path("rc/auth/jwt", views.receive_assertion),
    re_path(r"^local_local/?$", views.local_sign_in, name="imagetrove_local_sign_in"),
]
