"""The Celery application of the host, on which an app's tasks are registered."""

from celery import Celery
from django.apps import apps

tardis_app = Celery("tardis")
tardis_app.config_from_object("django.conf:settings", namespace="CELERY")
tardis_app.autodiscover_tasks(lambda: [config.name for config in apps.get_app_configs()])
