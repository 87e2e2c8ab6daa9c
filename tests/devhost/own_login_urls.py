"""The host's addresses with its own login page, whatever LOGIN_VIEWS says."""

from django.urls import path
from tardis import urls
from tardis.tardis_portal import views

urlpatterns = [path("login/", views.login), *urls.urlpatterns]
