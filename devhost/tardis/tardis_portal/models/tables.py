"""Migrations of models as they are, for a host that nobody upgrades."""

from django.apps import apps
from django.db import migrations
from django.db.migrations.state import ModelState


def tables_of(label):
    """An operation for each model, in the order of their definition: none names a later one."""
    for model in apps.get_app_config(label).get_models():
        state = ModelState.from_model(model)
        yield migrations.CreateModel(
            state.name, list(state.fields.items()), state.options, state.bases, state.managers
        )
