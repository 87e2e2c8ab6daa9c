"""How the host finds an app and mounts its pages and its API."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from django.apps import apps
from django.http import HttpResponse
from django.urls import path
from tardis import app_config
from tardis import urls as host_urls
from tastypie.resources import Resource


def test_the_app_is_found_by_its_package_name():
    assert ("tardis_imagetrove", "tardis_imagetrove") in app_config.get_tardis_apps()
    assert app_config.format_app_name_for_url("tardis_imagetrove") == "tardis-imagetrove"


def test_an_app_listed_by_its_configuration_is_not_mounted(settings):
    settings.INSTALLED_APPS = [
        name if name != "tardis_imagetrove" else "tardis_imagetrove.apps.ImageTroveConfig"
        for name in settings.INSTALLED_APPS
    ]
    assert apps.is_installed("tardis_imagetrove")
    assert "tardis_imagetrove" not in dict(app_config.get_tardis_apps())


@pytest.fixture
def another_app(monkeypatch):
    """A package `another_app` with the given modules."""

    def make(**modules):
        monkeypatch.setattr(host_urls, "get_tardis_apps", lambda: [("another_app", "another_app")])
        monkeypatch.setitem(sys.modules, "another_app", ModuleType("another_app"))
        for name, content in modules.items():
            module = ModuleType(f"another_app.{name}")
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, f"another_app.{name}", module)

    return make


def test_pages_are_mounted_under_the_name_of_the_app(another_app):
    another_app(urls={"urlpatterns": [path("x/", lambda request: HttpResponse())]})
    (mounted,) = host_urls._app_pages()
    assert str(mounted.pattern) == "another-app/"


def test_pages_that_cannot_be_imported_are_left_out_but_said(another_app, caplog):
    another_app()
    assert list(host_urls._app_pages()) == []
    assert "The pages of another_app are not mounted" in caplog.text


def test_resources_are_found_by_the_end_of_their_name_and_renamed(another_app):
    class SeriesAppResource(Resource):
        class Meta:
            resource_name = "series"

    class OtherResource(Resource):
        pass

    another_app(
        api={
            "SeriesAppResource": SeriesAppResource,
            "OtherResource": OtherResource,
            "json": SimpleNamespace(),
        }
    )
    assert list(host_urls._app_resources()) == [SeriesAppResource]
    assert SeriesAppResource._meta.resource_name == "another-app_series"


def test_an_app_without_api_is_no_error(another_app):
    another_app()
    assert list(host_urls._app_resources()) == []
