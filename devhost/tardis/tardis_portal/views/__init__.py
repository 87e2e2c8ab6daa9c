"""All views under one name."""

from .authentication import login
from .images import dataset_thumbnail, load_dataset_image, load_experiment_image
from .pages import DatasetView, ExperimentView, IndexView, site_routed_view

__all__ = [
    "DatasetView",
    "ExperimentView",
    "IndexView",
    "dataset_thumbnail",
    "load_dataset_image",
    "load_experiment_image",
    "login",
    "site_routed_view",
]
