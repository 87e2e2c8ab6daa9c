"""Pages of the app, mounted by MyTARDIS at ``/apps/tardis-imagetrove/``."""

from django.urls import path

from . import views

app_name = "tardis_imagetrove"

urlpatterns = [
    path("", views.SeriesListView.as_view(), name="index"),
    path("mine/", views.MineView.as_view(), name="mine"),
    path("scans/", views.ScansView.as_view(), name="scans"),
    path("thumbnail/<int:pk>/", views.ThumbnailView.as_view(), name="thumbnail"),
    path("downloads/", views.ChooseDownloadView.as_view(), name="choose-download"),
    path("downloads/<uuid:token>/", views.DownloadView.as_view(), name="download"),
    path("downloads/<uuid:token>/scans.tar", views.TarView.as_view(), name="download-tar"),
    path("bids/", views.BidsView.as_view(), name="bids"),
    path("series/<int:pk>/", views.SeriesView.as_view(), name="series"),
    path("findings/", views.FindingsView.as_view(), name="findings"),
    path("explain/", views.ExplainView.as_view(), name="explain"),
    path("confirm/", views.ConfirmView.as_view(), name="confirm"),
    path("act/", views.ActView.as_view(), name="act"),
    # The same page as through DATASET_VIEWS, for datasets that have no parameter set yet.
    path("dataset/<int:dataset_id>/", views.DatasetPage.as_view(), name="dataset"),
]
