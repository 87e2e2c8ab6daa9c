"""The preview of BIDS names: each sees the names of what they may download, and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

import pytest
from django.core.management import call_command
from django.urls import reverse
from tardis.tardis_portal import models as portal

from tardis_imagetrove.models import Series
from tardis_imagetrove.operations import bids

from ..mytardis.test_access import PER_OBJECT, person
from ..operations.test_downloads import body, unpacked

pytestmark = pytest.mark.django_db(transaction=True)


def page(client, **query) -> str:
    answer = client.get(reverse("tardis_imagetrove:bids"), query)
    assert answer.status_code == 200 and "no-store" in answer["Cache-Control"]
    return answer.content.decode()


NAME = "sub-SECRET7/anat/sub-SECRET7_T1w"


@pytest.mark.parametrize("only_experiments", [True, pytest.param(False, marks=PER_OBJECT)])
def test_names_are_for_those_who_may_download(
    archive,
    django_user_model,
    settings,
    client,
    only_experiments,
):
    settings.ONLY_EXPERIMENT_ACLS = only_experiments
    series = archive("t1_mprage", PatientID="SECRET7")
    archive("localizer", PatientID="SECRET7", filters=())
    member = person(django_user_model, "member", "Project 12345")
    text = page(member, project="Project 12345")
    assert NAME in text and "0003_t1_mprage" in text and "It was not converted to NIfTI" in text
    assert "1 participant, 2 series, 1 image" in text and "--project" not in text
    experiment = str(series.dataset_key.experiment_key.experiment_id)
    for query in ({"experiment": experiment}, {"q": "mprage"}, {"series": str(series.pk)}):
        assert NAME in page(member, **query)
    assert NAME not in page(member, project="Project 1234")
    stranger = person(django_user_model, "stranger", "Project 54321")
    for query in ({"project": "Project 12345"}, {"experiment": experiment}, {"series": str(series.pk)}, {}):
        text = page(stranger, **query)
        assert "SECRET7" not in text and "mprage" not in text and "No series matches" in text
    assert client.get(reverse("tardis_imagetrove:bids")).status_code == 302
    assert "BIDS names" in member.get(reverse("tardis_imagetrove:scans")).content.decode()
    staff = person(django_user_model, "staff", "Project 12345")
    django_user_model.objects.filter(username="staff").update(is_staff=True)
    assert "imagetrove_bids --project &#x27;Project 12345&#x27;" in page(staff, project="Project 12345")


@PER_OBJECT
def test_who_may_see_but_not_download_is_told_no_participant(archive, django_user_model, settings):
    settings.ONLY_EXPERIMENT_ACLS = True
    archive("t1_mprage", PatientID="SECRET7")
    portal.ExperimentACL.objects.filter(group__name="Project 12345").update(canDownload=False)
    text = page(person(django_user_model, "member", "Project 12345"), project="Project 12345")
    assert "You may see it, but not download it" in text and "sub-" not in text


def test_too_many_are_not_read(archive, django_user_model, monkeypatch):
    archive("t1_mprage", filters=())
    monkeypatch.setattr(bids, "MOST", 0)
    text = page(person(django_user_model, "member", "Project 12345"), project="Project 12345")
    assert "1 series are more than" in text


@pytest.mark.parametrize("value", ["\0", "x" * 3000, "-1", "²", "9" * 30])
def test_odd_questions_are_no_errors(owner, django_user_model, value):
    client = person(django_user_model, "member")
    page(client, **dict.fromkeys(("q", "project", "series", "experiment", "order"), value))
    assert not Series.objects.exists()


def test_the_dataset_is_downloaded_as_one_tar(archive, django_user_model, tmp_path):
    archive("t1_mprage", PatientID="AB-1")
    archive("localizer", PatientID="AB-1", filters=())
    member = person(django_user_model, "member", "Project 12345")
    address = f"{reverse('tardis_imagetrove:bids')}?project=Project+12345"
    assert "Download as one TAR" in page(member, project="Project 12345")
    answer = member.post(address)
    assert answer.status_code == 302
    text = member.get(answer["Location"]).content.decode()
    assert "localizer: it was not converted" in text and "participants.tsv" in text and "_T1w.nii.gz" in text
    tar = f"{answer['Location']}scans.tar"
    whole = body(member.get(tar))
    found = unpacked(whole)
    stored = portal.DataFile.objects.get(filename="0003_t1_mprage.nii.gz")
    assert found["sub-AB1/anat/sub-AB1_T1w.nii.gz"] == stored.file_object.read()
    out = tmp_path / "dataset"
    call_command("imagetrove_bids", "--project", "12345", "--out", str(out), stdout=io.StringIO())
    built = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    sums = found.pop("SHA512SUMS").decode().splitlines()
    listed = json.loads(found.pop("manifest.json"))
    assert found == built
    assert {line[130:]: line[:128] for line in sums} == {
        name: hashlib.sha512(content).hexdigest() for name, content in found.items()
    }
    assert {one["name"] for one in listed["files"]} == found.keys()
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        starts = {one.name.partition("/")[2]: one.offset_data for one in opened}
    # As imagetrove-get counts.
    base = starts["SHA512SUMS"] + 512 * -(-len("\n".join(sums)) // 512)
    assert {one["name"]: base + one["at"] for one in listed["files"]}.items() <= starts.items()
    stranger = person(django_user_model, "stranger")
    assert stranger.get(tar).status_code == 404
    assert stranger.post(address).status_code == 400
    member.logout()
    assert member.post(address).status_code == 302 and "login" in member.post(address)["Location"]


@PER_OBJECT
def test_sidecars_are_not_handed_out_once_their_headers_may_not_be_had(archive, django_user_model, settings):
    settings.ONLY_EXPERIMENT_ACLS = False
    archive("t1_mprage", PatientID="AB-1")
    member = person(django_user_model, "member", "Project 12345")
    answer = member.post(f"{reverse('tardis_imagetrove:bids')}?project=Project+12345")
    tar = f"{answer['Location']}scans.tar"
    assert member.head(tar).status_code == 200
    acls = portal.DatafileACL.objects.filter(datafile__filename="0003_t1_mprage_dicom.zip")
    acls.filter(group__name="Project 12345").delete()
    answer = member.get(tar)
    assert answer.status_code == 409 and "may no longer be downloaded" in answer.content.decode()
