"""What the host's pages show, how they are replaced, and how one signs in."""

import json
import re
from html.parser import HTMLParser

import pytest
from django.core.exceptions import ImproperlyConfigured, SuspiciousOperation
from django.template import engines
from django.test import RequestFactory
from django.urls import reverse
from django.utils import timezone
from tardis.tardis_portal import models
from tardis.tardis_portal.views.pages import DatasetView, ExperimentView, site_routed_view

from tardis_imagetrove.mytardis import mytardis

NAMESPACE = "http://example.edu/schema/2"


class OurDatasetView(DatasetView):
    """A page as an app writes it."""

    template_name = "tardis_portal/view_dataset.html"

    def find_custom_view_override(self, request, dataset):
        return None

    def get_context_data(self, request, dataset, **kwargs):
        context = super().get_context_data(request, dataset)
        return {**context, "status": "This page is the app's own."}


class OurExperimentView(ExperimentView):
    def find_custom_view_override(self, request, experiment):
        return None

    def get_context_data(self, request, experiment, **kwargs):
        context = super().get_context_data(request, experiment)
        return {**context, "status": "This page is the app's own."}


def our_function(request, **kwargs):
    return f"chosen for {kwargs}"


@pytest.fixture
def parameters(dataset):
    """A parameter of every type on the dataset."""
    schema = models.Schema.objects.create(
        namespace=NAMESPACE, name="MR acquisition", type=models.Schema.DATASET
    )
    parameterset = models.DatasetParameterSet.objects.create(schema=schema, dataset=dataset)

    def add(name, value, units="", **kind):
        parameter_name = models.ParameterName.objects.create(
            schema=schema, name=name, full_name=name, units=units, **kind
        )
        parameter = models.DatasetParameter(parameterset=parameterset, name=parameter_name)
        parameter.set_value(value)
        parameter.save()
        return parameter

    return add


def test_the_dataset_page_shows_title_instrument_files_and_metadata(
    client, people, dataset, add_file, parameters, png
):
    client.force_login(people["owner"])
    add_file("0003_t1.zip", b"x" * 2048)
    add_file("head.png", png, directory="0003_t1/preview")
    parameters("Repetition Time", 2300, "ms", data_type=models.ParameterName.NUMERIC)
    page = client.get(dataset.get_absolute_url()).content.decode()
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page))
    for shown in (
        "Head / T1",
        "Instrument: Phantom MR",
        "Facility: Centre for Imaging",
        "From the experiment: Phantoms",
        "2 Files",
        "0003_t1/ ",
        "0003_t1/preview/",
        "0003_t1.zip",
        "2.0 KB",
        "MR acquisition",
        "Repetition Time 2300.0 ms",
        "Preview Images",
    ):
        assert shown in text, shown
    assert f"/download/dataset/{dataset.id}/tar/" in page
    for datafile in dataset.datafile_set.all():
        assert datafile.download_url in page


def test_a_reader_of_public_metadata_is_offered_no_download(client, dataset, add_file, png):
    datafile = add_file("head.png", png)
    models.Experiment.objects.update(public_access=models.Experiment.PUBLIC_ACCESS_METADATA)
    page = client.get(dataset.get_absolute_url()).content.decode()
    assert "head.png" in page
    assert "/download/" not in page
    assert f"/iiif/{datafile.id}/" not in page


def test_the_experiment_page_lists_datasets_with_thumbnails(client, people, dataset, add_file, png):
    client.force_login(people["member"])
    add_file("head.png", png)
    page = client.get(f"/experiment/view/{dataset.get_first_experiment().id}/").content.decode()
    assert f'href="{dataset.get_absolute_url()}"' in page
    assert dataset.get_thumbnail_url() in page
    assert "1 file," in page


def test_the_dataset_page_says_from_which_experiment_one_came(client, people, dataset):
    client.force_login(people["owner"])
    first = dataset.get_first_experiment()
    second = models.Experiment.objects.create(title="Second", created_by=people["owner"])
    mytardis().grant_experiment(second.id, people["owner"].id, None)
    dataset.experiments.add(second)
    referer = f"http://testserver/experiment/view/{second.id}/"
    response = client.get(dataset.get_absolute_url(), HTTP_REFERER=referer)
    assert response.context["from_experiment"] == second
    assert set(response.context["other_experiments"]) == {first, second}
    foreign = client.get(dataset.get_absolute_url(), HTTP_REFERER=referer.replace("testserver", "elsewhere"))
    assert foreign.context["from_experiment"] is None


def test_more_files_than_a_page_holds_are_on_the_next(client, people, dataset):
    client.force_login(people["owner"])
    models.DataFile.objects.bulk_create(
        models.DataFile(dataset=dataset, directory="d", filename=f"{n:03}.dcm", size=1) for n in range(101)
    )
    assert "100.dcm" not in client.get(dataset.get_absolute_url()).content.decode()
    assert "100.dcm" in client.get(f"{dataset.get_absolute_url()}?page=2").content.decode()


def test_titles_are_shown_as_text(client, people, dataset):
    client.force_login(people["owner"])
    models.Dataset.objects.update(description="<script>alert(1)</script>")
    models.Experiment.objects.update(title="<b>bold</b>")
    for path in ("/", dataset.get_absolute_url(), f"/experiment/view/{dataset.get_first_experiment().id}/"):
        page = client.get(path).content.decode()
        assert "<script>alert" not in page
        assert "<b>bold" not in page


@pytest.mark.parametrize(
    ("kind", "units", "value", "shown"),
    [
        (models.ParameterName.NUMERIC, "mm", "1.5", "1.5 mm"),
        (models.ParameterName.NUMERIC, "", 3, "3.0"),
        (models.ParameterName.STRING, "", "a < b", "a < b"),
        (models.ParameterName.LONGSTRING, "", "a\nb", "a\nb"),
        (models.ParameterName.URL, "", "http://x/?a&b", "<a href='http://x/?a&amp;b'>http://x/?a&amp;b</a>"),
        (models.ParameterName.JSON, "", '{"a": [1]}', {"a": [1]}),
        (models.ParameterName.FILENAME, "", "a.txt", "a.txt"),
    ],
)
def test_a_parameter_shows_its_value_with_units(parameters, kind, units, value, shown):
    parameters("p", value, units, data_type=kind)
    assert models.DatasetParameter.objects.get().get() == shown


def test_a_time_without_zone_is_taken_as_local(parameters):
    parameter = parameters("when", "2024-03-01 10:00:00", data_type=models.ParameterName.DATETIME)
    moment = models.DatasetParameter.objects.get().datetime_value
    assert timezone.localtime(moment, timezone.get_default_timezone()).hour == 10
    assert "10:00:00" in parameter.get()


def test_a_link_knows_what_it_leads_to(parameters, dataset):
    for number, (address, target) in enumerate(
        [
            (dataset.get_absolute_url(), dataset),
            (dataset.get_first_experiment().get_absolute_url(), dataset.get_first_experiment()),
            (f"/api/v1/dataset/{dataset.id}/", dataset),
        ]
    ):
        assert parameters(f"link{number}", address, data_type=models.ParameterName.LINK).link_gfk == target
    with pytest.raises(SuspiciousOperation):
        parameters("nowhere", "/no/such/page", data_type=models.ParameterName.LINK)


def test_a_number_that_is_none_is_refused(parameters):
    with pytest.raises(ValueError, match="wide"):
        parameters("n", "wide", data_type=models.ParameterName.NUMERIC)


def test_json_parameters_render_blank(client, people, dataset, parameters):
    client.force_login(people["owner"])
    parameters("Sidecar", json.dumps({"secret": 1}), data_type=models.ParameterName.JSON)
    page = client.get(dataset.get_absolute_url()).content.decode()
    assert "Sidecar" in page
    assert "secret" not in page


def test_a_picture_among_the_metadata_is_shown_to_those_who_see_the_dataset(
    client, people, dataset, parameters, png, settings, tmp_path
):
    (tmp_path / "metadata" / "head.png").write_bytes(png)
    parameter = parameters("Picture", "head.png", "image/png", data_type=models.ParameterName.FILENAME)
    address = reverse("tardis.tardis_portal.views.load_dataset_image", args=[parameter.id])
    assert address in parameter.get()
    client.force_login(people["member"])
    response = client.get(address)
    assert (b"".join(response.streaming_content), response["Content-Type"]) == (png, "image/png")
    client.force_login(people["stranger"])
    assert client.get(address).status_code == 403
    client.force_login(people["owner"])
    (tmp_path / "metadata" / "head.png").unlink()
    assert client.get(address).status_code == 404


def test_a_picture_of_metadata_never_comes_from_outside_its_folder(client, people, parameters):
    parameter = parameters(
        "Picture", "../../etc/passwd", "image/png", data_type=models.ParameterName.FILENAME
    )
    client.force_login(people["owner"])
    address = reverse("tardis.tardis_portal.views.load_dataset_image", args=[parameter.id])
    assert client.get(address).status_code == 400


def test_a_schema_chooses_the_page_of_a_dataset(client, people, dataset, parameters, settings):
    client.force_login(people["owner"])
    settings.DATASET_VIEWS = [("http://elsewhere/", f"{__name__}.OurDatasetView")]
    assert b"app&#x27;s own" not in client.get(dataset.get_absolute_url()).content
    settings.DATASET_VIEWS = [(r"http://example\.edu/schema/", f"{__name__}.OurDatasetView")]
    page = client.get(dataset.get_absolute_url()).content
    assert b"app&#x27;s own" in page
    assert b"Phantom MR" in page
    client.force_login(people["stranger"])
    assert client.get(dataset.get_absolute_url()).status_code == 403


def test_a_schema_chooses_the_page_of_an_experiment(client, people, dataset, settings):
    client.force_login(people["owner"])
    experiment = dataset.get_first_experiment()
    schema = models.Schema.objects.create(namespace=NAMESPACE, type=models.Schema.EXPERIMENT)
    models.ExperimentParameterSet.objects.create(schema=schema, experiment=experiment)
    settings.EXPERIMENT_VIEWS = [(NAMESPACE, f"{__name__}.OurExperimentView")]
    assert b"app&#x27;s own" in client.get(experiment.get_absolute_url()).content


def test_a_page_that_cannot_be_imported_falls_back_unless_debugging(
    client, people, dataset, parameters, settings
):
    client.force_login(people["owner"])
    parameters("a", "b")
    settings.DATASET_VIEWS = [(NAMESPACE, "no.such.View")]
    assert client.get(dataset.get_absolute_url()).status_code == 200
    settings.DEBUG = True
    with pytest.raises(ImportError):
        client.get(dataset.get_absolute_url())


def test_hidden_schemas_are_not_shown(client, people, dataset, parameters):
    client.force_login(people["owner"])
    parameters("a", "hidden value")
    models.Schema.objects.update(hidden=True)
    assert b"hidden value" not in client.get(dataset.get_absolute_url()).content


@pytest.mark.django_db
@pytest.mark.parametrize("site", [1, "example.com"])
def test_a_view_may_be_chosen_by_site(site):
    request = RequestFactory().get("/login/")
    chosen = {site: f"{__name__}.our_function"}
    assert site_routed_view(request, lambda request: "default", chosen) == "chosen for {}"
    assert site_routed_view(request, lambda request: "default", {"elsewhere": "no.such"}) == "default"
    assert site_routed_view(request, lambda request: "default", {}) == "default"


# Apps replace the login page; these are about the host's own.
own_login = pytest.mark.urls("tests.devhost.own_login_urls")


@own_login
def test_signing_in_leads_to_the_page_one_wanted_but_never_away(client, people, dataset):
    form = {"username": "owner", "password": "owner"}
    wanted = dataset.get_absolute_url()
    assert client.post("/login/", {**form, "next": wanted})["Location"] == wanted
    client.logout()
    assert client.post("/login/", {**form, "next": "https://elsewhere.example/"})["Location"] == "/"
    assert client.get("/login/")["Location"] == "/"


@own_login
def test_a_wrong_password_is_refused_and_said(client, people):
    response = client.post("/login/", {"username": "owner", "password": "wrong"})
    assert response.status_code == 403
    assert "password don&#x27;t match" in response.content.decode()
    assert "_auth_user_id" not in client.session
    assert client.post("/login/", {"username": "", "password": ""}).status_code == 403


def test_logging_out_ends_the_session(client, people):
    client.force_login(people["owner"])
    assert client.get("/logout/")["Location"] == "/"
    assert "_auth_user_id" not in client.session


@own_login
def test_rapid_connect_takes_the_form_off_the_login_page_and_needs_an_address(client, db, settings):
    settings.RAPID_CONNECT_ENABLED = True
    settings.RAPID_CONNECT_CONFIG = {"authnrequest_url": "https://rapid.example/jwt/authnrequest/research/x"}
    for path in ("/login/", "/"):
        page = client.get(path).content.decode()
        assert "https://rapid.example/jwt/authnrequest/research/x" in page
        assert "password" not in page
    # Within the setting, where the app does not see it and puts its own sign-in page there.
    settings.RAPID_CONNECT_CONFIG["authnrequest_url"] = ""
    with pytest.raises(ImproperlyConfigured, match="authnrequest_url"):
        client.get("/")


def test_an_app_may_add_to_the_menu_of_a_user(client, people, settings):
    settings.USER_MENU_MODIFIERS = [f"{__name__}.add_an_entry"]
    client.force_login(people["owner"])
    assert "My received series" in client.get("/").content.decode()
    client.logout()
    assert "My received series" not in client.get("/").content.decode()


def add_an_entry(request, items):
    return [{"url": "/apps/x/", "icon": "", "label": "My received series"}, *items]


def test_every_model_has_a_page_in_the_administration(client, people, dataset, add_file, parameters):
    from django.contrib import admin

    add_file()
    parameters("a", "b")
    client.force_login(people["root"])
    for model, model_admin in admin.site._registry.items():
        if model._meta.app_label == "tardis_portal":
            assert (
                client.get(reverse(f"admin:tardis_portal_{model._meta.model_name}_changelist")).status_code
                == 200
            )
            first = model.objects.first()
            if first and model_admin.has_change_permission:
                change = reverse(f"admin:tardis_portal_{model._meta.model_name}_change", args=[first.pk])
                assert client.get(change).status_code == 200


class _Checker(HTMLParser):
    """Collects what makes a page hard to use: pictures without alt, fields without label, foreign files."""

    def __init__(self):
        super().__init__()
        self.faults, self.labels, self.fields, self.headings = [], set(), set(), []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "img" and "alt" not in given:
            self.faults.append(f"no alt: {given}")
        if tag == "label":
            self.labels.add(given.get("for"))
        if tag == "input" and given.get("type") != "hidden":
            self.fields.add(given.get("id"))
        if tag == "h1":
            self.headings.append(tag)
        for name in ("src", "href"):
            if tag in ("script", "link", "img") and given.get(name, "").startswith(("http", "//")):
                self.faults.append(f"foreign: {given}")


@own_login
def test_pages_are_accessible_and_bring_nothing_from_elsewhere(
    client, people, dataset, add_file, parameters, png
):
    add_file("head.png", png)
    parameters("a", "b")
    experiment = dataset.get_first_experiment().get_absolute_url()
    for person in ("owner", None):
        client.logout()
        if person:
            client.force_login(people[person])
        for path in ("/", "/login/", experiment, dataset.get_absolute_url(), "/dataset/999"):
            if person and path == "/login/":
                continue
            page = _Checker()
            page.feed(client.get(path).content.decode())
            assert page.faults == [], path
            assert page.fields <= page.labels, path
            assert page.headings == ["h1"], path


@pytest.mark.parametrize(
    ("template", "blocks"),
    [
        ("portal_template", ["title", "script", "style", "content", "bottom", "footer"]),
        ("view_dataset", ["script", "content", "dataset_content_preview", "downloads", "finalscript"]),
        ("view_experiment", ["script", "content"]),
    ],
)
def test_an_app_can_fill_the_blocks_that_the_real_templates_have(people, dataset, template, blocks):
    marks = {block: f"<p>in {block}</p>" for block in blocks if block != "content"}
    body = "".join(f"{{% block {block} %}}{mark}{{% endblock %}}" for block, mark in marks.items())
    source = f'{{% extends "tardis_portal/{template}.html" %}}{body}'
    request = RequestFactory().get("/")
    request.user = people["owner"]
    context = DatasetView().get_context_data(request, dataset)
    context["experiment"] = dataset.get_first_experiment()
    page = engines["django"].from_string(source).render(context, request)
    for mark in marks.values():
        assert mark in page
