"""The list of a project's experiments, which a page of the real host loads."""

from django.urls import re_path

from .views import project_recent_experiments

urlpatterns = [
    re_path(
        r"^ajax/(?P<project_id>\d+)/recent_experiments$",
        project_recent_experiments,
        name="tardis.apps.projects.project_recent_experiments",
    ),
]
