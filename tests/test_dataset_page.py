"""The dataset page: what a researcher is shown of the series, and that nobody else is shown anything."""

from __future__ import annotations

import html
import re
from datetime import datetime, timezone

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.timezone import localtime
from tardis.tardis_portal import models as portal

from tardis_imagetrove import views
from tardis_imagetrove.conversion import registry
from tardis_imagetrove.conversion.run import run_filter
from tardis_imagetrove.dataset_page import THUMBNAIL, ShownFact, shown
from tardis_imagetrove.ingest import states
from tardis_imagetrove.ingest.series import ingest_series
from tardis_imagetrove.models import Archive, DatasetKey, FilterOutput, FilterRun, Series
from tardis_imagetrove.mytardis import mytardis
from tardis_imagetrove.mytardis.reading import Fact, thumbnail_url

from .conftest import configure, deliver, phantom, series_uid, why

pytestmark = pytest.mark.django_db(transaction=True)

SCHEMA = "http://example.edu/schema/2"
VIEW = "tardis_imagetrove.views.DatasetPage"
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def shown_for_the_schema(settings):
    settings.DATASET_VIEWS = [(f"{SCHEMA}$", VIEW)]


@pytest.fixture
def instrument(owner, box):
    return configure(owner, storage_box=box, project_field="ReferringPhysicianName", project_pattern=r"\d{5}")


@pytest.fixture
def add(instrument, spool, scratch, tmp_path):
    """Archives and converts a generated series, as receiver and worker do; returns it."""

    def add_series(number: int = 3, convert: bool = True, **options) -> Series:
        overrides = {"ReferringPhysicianName": "12345^Rhea", "SeriesNumber": number}
        options.setdefault("series_uid", f"2.25.77{number}")
        options["overrides"] = overrides | options.get("overrides", {})
        paths = phantom(tmp_path / f"series-{number}", study_uid="2.25.77", **options)
        deliver(spool, *paths)
        convert_all(series_uid(paths[0]), convert)
        return Series.objects.get(series_uid=series_uid(paths[0]))

    def convert_all(uid: str, convert: bool = True) -> None:
        runs = ingest_series(spool, uid, list(registry.load()), scratch)
        for run in runs if convert else ():
            states.refresh(run_filter(run, scratch, 60))

    add_series.again = convert_all
    return add_series


@pytest.fixture
def series(add) -> Series:
    return add()


@pytest.fixture
def owner_client(owner) -> Client:
    return signed_in(owner)


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user, "django.contrib.auth.backends.ModelBackend")
    return client


def person(django_user_model, name: str, group: str = "") -> Client:
    user = django_user_model.objects.create_user(name, password=name)
    if group:
        user.groups.add(Group.objects.get(name=group))
    return signed_in(user)


def address(series: Series) -> str:
    return reverse("tardis_portal.view_dataset", kwargs={"dataset_id": series.dataset_key.dataset_id})


def own_address(series: Series) -> str:
    return reverse("tardis_imagetrove:dataset", args=[series.dataset_key.dataset_id])


def body(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def ours(page: str) -> str:
    """Our part of the page, before MyTARDIS's own metadata pane."""
    return page[page.index('id="imagetrove"') : page.index('id="metadata-pane')]


def files_of(series: Series) -> list:
    archives = series.archives.values("datafile")
    outputs = FilterOutput.objects.filter(run__archive__series=series).values("datafile")
    return list(
        portal.DataFile.objects.filter(
            pk__in=[*archives.values_list("datafile", flat=True), *outputs.values_list("datafile", flat=True)]
        )
    )


# What is shown


def test_mytardis_shows_the_page_for_the_schema_with_all_that_the_standard_page_has(series, owner_client):
    page = body(owner_client, address(series))
    assert "t1_phantom_oblique" in ours(page)
    assert 'id="metadata-pane' in page and "Download Dataset" in page
    assert "0003_t1_phantom_oblique" in ours(page)


def test_other_datasets_keep_the_standard_page(series, owner_client, settings):
    settings.DATASET_VIEWS = [("http://example.edu/other$", VIEW)]
    assert 'id="imagetrove"' not in body(owner_client, address(series))


def test_downloads_are_there_by_kind_and_come_from_mytardis(series, owner_client):
    part = ours(body(owner_client, address(series)))
    kinds = re.findall(r'imagetrove-kind">([^<]+)<', part)
    assert kinds == ["DICOM", "NIfTI", "Sidecar", "MINC", "Picture"]
    files = files_of(series)
    assert len(files) == 5
    for file in files:
        assert f'href="{file.download_url}"' in part
        answer = owner_client.get(file.download_url)
        assert answer.status_code == 200
        assert len(b"".join(answer.streaming_content)) == file.size


def test_each_file_can_be_cited_with_what_made_it(series, owner_client):
    part = ours(body(owner_client, address(series)))
    cited = html.unescape(re.search(r'id="imagetrove-citation">([^<]+)<', part)[1])
    archive = series.archives.get()
    assert f"SeriesInstanceUID {series.series_uid}" in cited
    assert (
        f"archive version 1 of {localtime(archive.created):%-d %b %Y}, 6 instances, SHA-512 {archive.sha512}"
        in cited
    )
    assert f"http://testserver{address(series)}" in cited
    for file in files_of(series):
        assert f"\n{file.filename}\n" in cited and f"  SHA-512 {file.sha512sum}" in cited
    run = FilterRun.objects.get(filter="nifti")
    assert f"  made by {run.converter}, filter nifti {run.filter_version}" in cited


def test_it_leads_to_all_series_of_the_participant(series, owner_client):
    experiment = series.dataset_key.experiment_key.experiment
    part = ours(body(owner_client, address(series)))
    assert f'scans/?experiment={experiment.pk}">All series of {experiment.title}</a>' in part


def test_facts_have_their_units(series, owner_client):
    part = ours(body(owner_client, address(series)))
    facts = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", part))
    assert facts["Repetition Time"] == "450 ms"
    labels = list(facts)
    read = [
        "Study Date",
        "Repetition Time",
        "Echo Time",
        "Flip Angle",
        "Slice Thickness",
        "Rows",
        "Series Instance UID",
    ]
    assert [label for label in labels if label in read] == read
    assert facts["Flip Angle"] == "70°"
    assert facts["Magnetic Field Strength"] == "3 T"
    assert facts["Series Instance UID"] == series.series_uid


def test_numbers_are_read_without_the_traces_of_floating_point():
    assert shown(Fact("TR", "Repetition Time", 2300.0, "ms")) == ShownFact("Repetition Time", "2300 ms")
    assert shown(Fact("D", "Dose", 3.7e8, "Bq")).text == "370000000 Bq"
    assert shown(Fact("B", "b", 0.1 + 0.2, "s/mm^2")).text == "0.3 s/mm²"
    assert shown(Fact("A", "Averages", 1.0, "")).text == "1"


def test_dates_are_in_the_time_of_the_site(settings):
    settings.TIME_ZONE = "Australia/Melbourne"
    moment = datetime(2024, 5, 17, 0, 15, tzinfo=timezone.utc)
    assert shown(Fact("D", "Study Date", moment, "")).text == "17 May 2024, 10:15"


def test_the_viewer_is_given_the_volume_and_the_picture(series, owner_client):
    part = ours(body(owner_client, address(series)))
    volume = FilterOutput.objects.get(kind="NIfTI").datafile
    picture = FilterOutput.objects.get(kind="Picture").datafile
    assert f'value="{volume.download_url}" data-name="{volume.filename}"' in part
    assert re.search(rf'<img src="{re.escape(picture.download_url)}"[^>]*loading="lazy"', part)


def test_words_about_one_image_in_two_formats_stand_once_and_notes_are_called_so(series, owner_client):
    runs = FilterRun.objects.filter(archive__series=series)
    both = [*why("a gap after slice 4", code="warning"), *why("the times are rounded", code="note")]
    runs.filter(filter="nifti").update(state="partial", reasons=both)
    runs.filter(filter="minc").update(state="partial", reasons=[*both, *why("no time axis", code="warning")])
    states.refresh(series.pk)
    assert "the times are rounded" not in Series.objects.get(pk=series.pk).reason
    part = ours(body(owner_client, address(series)))
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part[part.index("Conversion</h4>") :]))
    assert said.count("a gap after slice 4") == 1
    assert said.count("Note: the times are rounded") == 1
    assert "no time axis See also NIfTI." in said


def test_each_filter_says_how_it_went_and_why(series, owner_client):
    runs = FilterRun.objects.filter(archive__series=series)
    runs.filter(filter="nifti").update(
        state="partial", reasons=why("12 of 13 slices; first half", "a gap after slice 4")
    )
    runs.filter(filter="minc").update(state="failed", reasons=why("unreadable: IM0007.dcm"))
    runs.filter(filter="picture").update(state="waiting", reasons=why("storage box 7: is full"))
    states.refresh(series.pk)
    part = ours(body(owner_client, address(series)))
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part[part.index("Conversion</h4>") :]))
    assert "NIfTI Done, with warnings 2 files by dcm2niix" in said
    assert "12 of 13 slices; first half a gap after slice 4" in said
    assert "MINC Failed" in said and "unreadable: IM0007.dcm" in said
    assert "Picture Waiting to retry" in said and "storage box 7" not in said
    assert "Metadata Done" in said
    assert "data-doubtful" in part
    User.objects.filter(pk=owner_client.session["_auth_user_id"]).update(is_staff=True)
    assert "storage box 7: is full" in ours(body(owner_client, address(series)))


def test_a_series_that_is_not_converted_yet_says_so(add, owner_client):
    series = add(convert=False)
    part = ours(body(owner_client, own_address(series)))
    assert "It is being converted" in part
    assert part.count("Queued") == 4
    assert "imagetrove-viewer" not in part
    assert f'href="{series.archives.get().datafile.download_url}"' in part


def test_files_that_were_left_out_and_doubles_are_told(series, owner_client):
    Series.objects.filter(pk=series.pk).update(left_out=why("x.dcm: no DICOM file"))
    series.instances.update(conflict=True)
    part = ours(body(owner_client, address(series)))
    assert "x.dcm: no DICOM file" in part
    assert "6 instances came more than once with different contents" in part


def test_ingests_own_words_are_for_staff(series, owner_client, owner):
    Series.objects.filter(pk=series.pk).update(state="held", reasons=why("belongs to 'Somebody Else'"))
    part = ours(body(owner_client, address(series)))
    assert "Held: needs attention" in part and "Somebody Else" not in part
    owner.is_staff = True
    owner.save()
    assert "Somebody Else" in ours(body(owner_client, address(series)))


def test_on_mytardis_own_page_the_newest_picture_comes_first(series, add, spool, tmp_path):
    from tardis.tardis_portal.models import DataFile

    late = phantom(
        tmp_path / "late",
        slices=7,
        study_uid="2.25.77",
        series_uid=series.series_uid,
        overrides={"ReferringPhysicianName": "12345^Rhea", "SeriesNumber": 3},
    )[-1]
    deliver(spool, late)
    add.again(series.series_uid)
    dataset = series.dataset_key.dataset
    pictures = DataFile.objects.filter(dataset=dataset, mimetype="image/png").order_by("version")
    assert [picture.version for picture in pictures] == [1, 2]
    assert dataset.image == pictures[1]
    assert pictures[0].filename == pictures[1].filename.replace(".png", ".v1.png")


def test_superseded_versions_are_folded_away(series, add, spool, tmp_path, owner_client):
    late = phantom(
        tmp_path / "late",
        slices=7,
        study_uid="2.25.77",
        series_uid=series.series_uid,
        overrides={"ReferringPhysicianName": "12345^Rhea", "SeriesNumber": 3},
    )[-1]
    deliver(spool, late)
    add.again(series.series_uid)
    part = ours(body(owner_client, address(series)))
    newest, older = part.split('<details class="imagetrove-older"', 1)
    for version, where, elsewhere in ((2, newest, older), (1, older, newest)):
        file = Archive.objects.get(series=series, version=version).datafile
        assert f'href="{file.download_url}"' in where
        assert f'href="{file.download_url}"' not in elsewhere
    assert "Older versions (1)" in older
    assert "(version 2)" in newest


def test_what_is_not_verified_is_not_offered(series, owner_client):
    file = FilterOutput.objects.get(kind="NIfTI").datafile
    portal.DataFileObject.objects.filter(datafile=file).update(verified=False)
    part = ours(body(owner_client, address(series)))
    assert file.download_url not in part
    assert "not verified yet" in part


def test_pictures_of_others_stay_in_the_standard_preview(series, owner_client):
    dataset = series.dataset_key.dataset
    mine = FilterOutput.objects.get(kind="Picture").datafile
    assert "Preview Images" not in body(owner_client, address(series))
    other = portal.DataFile.objects.create(
        dataset=dataset, filename="drawing.png", size=3, md5sum="0" * 32, mimetype="image/png"
    )
    portal.DataFileObject.objects.bulk_create(
        [
            portal.DataFileObject(
                datafile=other, storage_box=mine.file_objects.get().storage_box, uri="d.png", verified=True
            )
        ]
    )
    page = body(owner_client, address(series))
    preview = page[page.index("Preview Images") :]
    assert "drawing.png" in preview
    assert mine.filename not in preview[: preview.index("metadata-pane")]


@pytest.mark.parametrize("lost", ["never built", "not collected"])
def test_without_the_viewer_there_is_the_picture(series, owner_client, monkeypatch, lost):
    real = views.finders.find, views.staticfiles_storage.url
    if lost == "never built":
        monkeypatch.setattr(views.finders, "find", lambda name: None if "niivue" in name else real[0](name))
    else:

        def url(name: str) -> str:
            if "niivue" in name:
                raise ValueError("Missing staticfiles manifest entry")
            return real[1](name)

        monkeypatch.setattr(views.staticfiles_storage, "url", url)
        monkeypatch.setattr(views.finders, "find", lambda name: name)
    part = ours(body(owner_client, address(series)))
    assert "The viewer is not installed here, so this is the picture." in part
    assert FilterOutput.objects.get(kind="Picture").datafile.download_url in part


def test_text_from_scanners_and_filters_is_never_markup(add, owner_client, instrument):
    series = add(overrides={"SeriesDescription": HOSTILE, "ProtocolName": HOSTILE})
    FilterRun.objects.filter(filter="minc").update(state="failed", reasons=why(HOSTILE), converter=HOSTILE)
    Series.objects.filter(pk=series.pk).update(left_out=why(HOSTILE), modality="<b>")
    add(4, overrides={"SeriesDescription": HOSTILE}, convert=False)
    page = body(owner_client, address(series))
    assert "<script>alert" not in page and "<b>" not in re.sub(r"<b>(?=\w)", "", ours(page))
    # In heading and list, the facts, both reasons and the converter
    assert ours(page).count("&lt;script&gt;alert") >= 6


# Who is shown it


def test_a_member_of_the_projects_group_sees_all_of_it(series, django_user_model):
    member = person(django_user_model, "rhea", "Project 12345")
    part = ours(body(member, address(series)))
    for file in files_of(series):
        assert f'href="{file.download_url}"' in part
        assert member.get(file.download_url).status_code == 200


@pytest.mark.parametrize("who", ["stranger", "anonymous"])
def test_others_are_shown_nothing(series, django_user_model, who):
    client = person(django_user_model, "sten") if who == "stranger" else Client()
    pages = [address(series), own_address(series)]
    paths = pages + [f"{page}?series={series.pk}" for page in pages]
    paths += [file.download_url for file in files_of(series)]
    for path in paths:
        answer = client.get(path)
        assert answer.status_code in (401, 403) or "/login" in answer.get("Location", ""), path
        content = answer.content if not answer.streaming else b""
        assert b"phantom" not in content and series.series_uid.encode() not in content


def test_a_dataset_that_is_not_there_is_not_found(owner_client, series):
    assert owner_client.get(reverse("tardis_imagetrove:dataset", args=[99999])).status_code in (403, 404)


def test_who_may_look_and_not_download_gets_no_addresses_of_files(series, add):
    add(4)
    for experiment in series.dataset_key.dataset.experiments.all():
        experiment.public_access = experiment.PUBLIC_ACCESS_METADATA
        experiment.save()
    part = ours(body(Client(), address(series)))
    assert "You may see this dataset, but not download its files." in part
    assert "450 ms" in part
    assert part.count("data-series=") == 2
    for file in files_of(series):
        assert file.download_url not in part
    assert "<img" not in part and "imagetrove-viewer" not in part


def test_no_cache_keeps_a_page_for_whoever_comes_next(series, owner_client, django_user_model):
    """On a shared computer the page before is a key away after somebody has signed out."""
    staff = signed_in(django_user_model.objects.create_user("staff", is_staff=True))
    for client, path in (
        (owner_client, address(series)),
        (owner_client, own_address(series)),
        (staff, reverse("tardis_imagetrove:index")),
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert {"no-store", "private"} <= set(answer["Cache-Control"].split(", "))


def test_a_series_of_another_dataset_cannot_be_asked_for(series, add, owner_client):
    elsewhere = add(5, overrides={"SeriesDescription": "secret elsewhere"})
    assert elsewhere.dataset_key != series.dataset_key
    for wanted in (elsewhere.pk, "nonsense", "", "0", "-1", "9" * 400):
        part = ours(body(owner_client, f"{address(series)}?series={wanted}"))
        assert "secret elsewhere" not in part
        assert series.series_uid in part


@pytest.mark.skipif(
    not any(field.name == "sensitive" for field in portal.ParameterName._meta.get_fields()),
    reason="only MyTARDIS 5.0 marks parameters as sensitive",
)
def test_sensitive_parameters_are_for_those_who_may_see_them(series, owner_client, django_user_model):
    portal.ParameterName.objects.filter(name="EchoTime").update(sensitive=True)
    member = person(django_user_model, "rhea", "Project 12345")
    assert "Echo Time" in ours(body(owner_client, address(series)))
    assert "Echo Time" not in ours(body(member, address(series)))


@pytest.mark.skipif(
    "datafileacl" not in apps.all_models["tardis_portal"],
    reason="only MyTARDIS 5.0 has access rights per object",
)
def test_files_with_rights_of_their_own_are_shown_by_them(settings, add, owner, django_user_model):
    settings.ONLY_EXPERIMENT_ACLS = False
    series = add()
    member = person(django_user_model, "rhea", "Project 12345")
    hidden = FilterOutput.objects.get(kind="MINC").datafile
    kept = FilterOutput.objects.get(kind="Sidecar").datafile
    group = Group.objects.get(name="Project 12345")
    portal.DatafileACL.objects.filter(datafile=hidden, group=group).delete()
    portal.DatafileACL.objects.filter(datafile=kept, group=group).update(canDownload=False)
    part = ours(body(member, address(series)))
    assert hidden.filename not in part
    assert kept.filename in part and kept.download_url not in part
    assert "not yours to download" in part


@pytest.mark.skipif(
    "datafileacl" not in apps.all_models["tardis_portal"],
    reason="only MyTARDIS 5.0 has access rights per object",
)
def test_a_hidden_archive_and_hidden_pictures_are_shown_nowhere(settings, add, owner, django_user_model):
    settings.ONLY_EXPERIMENT_ACLS = False
    series = add()
    other = add(4)
    assert other.dataset_key == series.dataset_key
    member = person(django_user_model, "rhea", "Project 12345")
    group = Group.objects.get(name="Project 12345")
    archive = series.archives.get()
    picture = FilterOutput.objects.get(kind="Picture", run__archive__series=series).datafile
    its = FilterOutput.objects.get(kind="Picture", run__archive__series=other).datafile
    page = body(member, address(series))
    assert thumbnail_url(picture.pk, *THUMBNAIL) in page and archive.datafile.filename in page
    portal.DatafileACL.objects.filter(datafile__in=[archive.datafile, picture], group=group).delete()
    page = body(member, address(series))
    assert thumbnail_url(picture.pk, *THUMBNAIL) not in page and archive.datafile.filename not in page
    assert thumbnail_url(its.pk, *THUMBNAIL) in page
    assert f"{archive.instance_count} instance" not in ours(page)
    answer = member.get(f"/api/v1/tardis-imagetrove_series/{series.pk}/?format=json").json()
    assert answer["archives"] == []
    assert archive.sha512 not in str(answer)
    assert picture.pk not in [file["datafile"] for run in answer["filter_runs"] for file in run["outputs"]]
    assert any(run["outputs"] for run in answer["filter_runs"])
    # As MyTARDIS itself answers, file by file.
    request = member.get(address(series)).wsgi_request
    ids = list(portal.DataFile.objects.values_list("pk", flat=True))
    adapter = mytardis()
    from tardis.tardis_portal.auth.decorators import has_access, has_download_access

    viewable = adapter.viewable_datafiles(request, series.dataset_key.dataset_id, ids)
    assert viewable == {pk for pk in ids if has_access(request, pk, "datafile")}
    allowed = adapter.downloadable_datafiles(request, series.dataset_key.dataset_id, ids)
    assert allowed == {pk for pk in ids if has_download_access(request, pk, "datafile")}


# Many series


def many(series: Series, count: int) -> None:
    """Give the series' dataset further series, with an archive, a picture and parameters each."""
    key: DatasetKey = series.dataset_key
    picture = FilterOutput.objects.get(kind="Picture", run__archive__series=series).datafile
    box = picture.file_objects.get().storage_box
    numbers = range(100, 100 + count)
    made = Series.objects.bulk_create(
        Series(
            series_uid=f"2.25.88{n}",
            description=f"run {n}",
            modality="MR",
            configuration=series.configuration,
            state="partial" if n % 10 == 0 else "done",
            dataset_key=key,
            directory=f"{n:04}_run",
        )
        for n in numbers
    )
    made = list(Series.objects.filter(series_uid__in=[one.series_uid for one in made]).order_by("directory"))
    names = [f"{one.directory}{end}" for one in made for end in (".zip", ".png")]
    portal.DataFile.objects.bulk_create(
        portal.DataFile(
            dataset=key.dataset,
            directory=name[:8],
            filename=name,
            size=1,
            md5sum="0" * 32,
            mimetype="image/png" if name.endswith("png") else "application/zip",
        )
        for name in names
    )
    files = {file.filename: file for file in portal.DataFile.objects.filter(dataset=key.dataset)}
    portal.DataFileObject.objects.bulk_create(
        portal.DataFileObject(datafile=files[name], storage_box=box, uri=name, verified=True)
        for name in names
    )
    Archive.objects.bulk_create(
        Archive(series=one, version=1, datafile=files[f"{one.directory}.zip"], sha512="0", instance_count=1)
        for one in made
    )
    archives = {archive.series_id: archive for archive in Archive.objects.filter(series__in=made)}
    FilterRun.objects.bulk_create(
        FilterRun(archive=archives[one.pk], filter="picture", state="done") for one in made
    )
    runs = {run.archive_id: run for run in FilterRun.objects.filter(archive__series__in=made)}
    FilterOutput.objects.bulk_create(
        FilterOutput(run=runs[archives[one.pk].pk], datafile=files[f"{one.directory}.png"], kind="Picture")
        for one in made
    )
    schema = portal.Schema.objects.get(namespace=SCHEMA)
    uid_name = portal.ParameterName.objects.get(schema=schema, name="SeriesInstanceUID")
    portal.DatasetParameterSet.objects.bulk_create(
        portal.DatasetParameterSet(schema=schema, dataset=key.dataset) for _ in made
    )
    sets = portal.DatasetParameterSet.objects.filter(dataset=key.dataset, datasetparameter=None)
    portal.DatasetParameter.objects.bulk_create(
        portal.DatasetParameter(parameterset=a_set, name=uid_name, string_value=one.series_uid)
        for a_set, one in zip(sets.order_by("pk"), made, strict=True)
    )


def test_five_hundred_series_take_no_more_queries_than_thirty(series, owner_client):
    def queries() -> tuple[int, str]:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            page = body(owner_client, f"{own_address(series)}?series={series.pk}")
        return len(captured), page

    many(series, 29)
    queries()  # what is cached from the first page on is not counted
    few, _ = queries()
    Series.objects.exclude(pk=series.pk).delete()
    portal.DataFile.objects.filter(filename__contains="_run.").delete()
    many(series, 499)
    number, page = queries()
    assert number <= few
    part = ours(page)
    assert part.count("data-series=") == 500 and "500 series" in part
    images = re.findall(r"<img[^>]*>", part)
    assert len(images) == 501 and all('loading="lazy"' in image for image in images)
    # Only the shown series' metadata are in MyTARDIS's own pane.
    assert "2.25.88100" not in page and series.series_uid in page[page.index('id="metadata-pane') :]
    assert len(page) < 1_000_000


def test_one_of_many_is_chosen_by_its_address(series, owner_client):
    many(series, 30)
    other = Series.objects.get(directory="0120_run")
    part = ours(body(owner_client, f"{address(series)}?series={other.pk}"))
    assert re.search(rf'data-series="{other.pk}" aria-current="true"', part)
    assert part.count("aria-current") == 1
    assert 'id="imagetrove-title">run 120<' in part
    states = re.sub(r"<[^>]+>|\s+", " ", part[: part.index("imagetrove-lines")])
    assert re.search(r"Archived, conversion incomplete\s+3\b", states)
