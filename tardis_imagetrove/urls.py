"""Pages of the app, mounted by MyTARDIS at ``/apps/tardis-imagetrove/``."""

from django.urls import path

from . import views

app_name = "tardis_imagetrove"

urlpatterns = [
    path("", views.SeriesListView.as_view(), name="index"),
]
