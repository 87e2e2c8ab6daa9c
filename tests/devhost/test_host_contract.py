"""The embedded host's models and addresses are those of the MyTARDIS that it stands for, as far as it has them."""

import json
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.db.models import NOT_PROVIDED
from django.urls import get_resolver, reverse

TYPED = settings.DEVHOST_FLAVOUR == "5.0"
CONTRACTS = {"4.7": "mytardis-4.7.json", "5.0": "uoa-5.0.json"}
CONTRACT = json.loads(
    (Path(__file__).parent / "mytardis-contract" / CONTRACTS[settings.DEVHOST_FLAVOUR]).read_text()
)
MODELS = {model.__name__: model for model in apps.get_app_config("tardis_portal").get_models()}

USED_ADDRESSES = [
    ("tardis.tardis_portal.views.index", {}, "/"),
    ("tardis.tardis_portal.views.login", {}, "/login/"),
    ("logout", {}, "/logout/"),
    ("tardis_portal.view_experiment", {"experiment_id": 7}, "/experiment/view/7/"),
    ("tardis_portal.view_dataset", {"dataset_id": 7}, "/dataset/view/7/" if TYPED else "/dataset/7"),
    (
        "tardis.tardis_portal.views.dataset_thumbnail",
        {"dataset_id": 7},
        "/dataset/thumbnail/7/" if TYPED else "/dataset/7/thumbnail",
    ),
    ("tardis.tardis_portal.download.view_datafile", {"datafile_id": 7}, "/datafile/view/7/"),
    ("tardis.tardis_portal.download.download_datafile", {"datafile_id": 7}, "/download/datafile/7/"),
    (
        "tardis.tardis_portal.download.streaming_download_dataset",
        {"dataset_id": 7, "comptype": "tar"},
        "/download/dataset/7/tar/",
    ),
    (
        "tardis.tardis_portal.iiif.download_image",
        {
            "datafile_id": 7,
            "region": "full",
            "size": "100,",
            "rotation": 0,
            "quality": "native",
            "format": "jpg",
        },
        "/datafile/iiif/7/full/100,/0/native.jpg",
    ),
    (
        "api_download_file",
        {"api_name": "v1", "resource_name": "dataset_file", "pk": 7},
        "/api/v1/dataset_file/7/download/",
    ),
    (
        "tardis.tardis_portal.views.load_dataset_image",
        {"parameter_id": 7},
        "/display/DatasetImage/load/7/",
    ),
    (
        "tardis.tardis_portal.views.load_experiment_image",
        {"parameter_id": 7},
        "/display/ExperimentImage/load/7/",
    ),
]


def describe(field):
    """A field in the contract's words."""
    words = {
        "type": type(field).__name__,
        "null": field.null,
        "blank": field.blank,
        "unique": field.unique,
    }
    if field.max_length is not None:
        words["max_length"] = field.max_length
    if field.default is not NOT_PROVIDED:
        words["default"] = field.default.__name__ if callable(field.default) else field.default
    if field.choices:
        words["choices"] = [list(choice) for choice in field.choices]
    if field.remote_field:
        words["to"] = field.remote_field.model._meta.label
        words["related_name"] = field.remote_field.related_name
    return words


def fields_of(model):
    return {field.name: field for field in [*model._meta.fields, *model._meta.many_to_many]}


@pytest.mark.parametrize("name", MODELS)
def test_the_fields_of_a_model_are_those_of_the_contract(name):
    expected = CONTRACT["models"][name]["fields"]
    fields = fields_of(MODELS[name])
    assert set(fields) <= set(expected)
    ours = {key: describe(field) for key, field in fields.items()}
    assert ours == {key: expected[key] for key in fields}


@pytest.mark.parametrize("name", MODELS)
def test_what_the_contract_requires_is_there(name):
    required = {
        key
        for key, words in CONTRACT["models"][name]["fields"].items()
        if not words["null"] and "default" not in words
    }
    assert required <= set(fields_of(MODELS[name]))


@pytest.mark.parametrize("name", MODELS)
def test_the_order_and_the_uniqueness_of_rows_are_those_of_the_contract(name):
    meta = MODELS[name]._meta
    expected = CONTRACT["models"][name]
    assert list(meta.ordering) == expected["ordering"]
    assert [list(columns) for columns in meta.unique_together] == expected["unique_together"]


def named_patterns(patterns, prefix=""):
    """Pairs of (name, whole pattern without its anchors) of an URL configuration."""
    for pattern in patterns:
        whole = prefix + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            yield from named_patterns(pattern.url_patterns, whole)
        elif pattern.name:
            yield pattern.name, plain(whole)


def plain(pattern):
    """A pattern without anchors and needless escapes."""
    pattern = pattern.replace("[^\\/]", "[^/]").replace("\\.]", ".]")
    return pattern.replace("(^", "(").replace("/^", "/").removeprefix("^").removesuffix("$")


def test_named_addresses_are_those_of_the_contract():
    expected = CONTRACT["named_urls"]
    # The names tastypie gives by itself, and those of other apps, are none of the host's.
    ours = [
        (name, pattern)
        for name, pattern in named_patterns(get_resolver("tardis.urls").url_patterns)
        if name == "api_download_file" or not pattern.startswith(("apps/", "admin/", "api/"))
    ]
    assert len(ours) > 10
    for name, pattern in ours:
        assert pattern in [plain(other) for other in expected[name]], name


@pytest.mark.parametrize(("name", "arguments", "path"), USED_ADDRESSES)
def test_addresses_an_app_links_to(name, arguments, path):
    assert name in CONTRACT["named_urls"]
    assert reverse(name, kwargs=arguments) == path
