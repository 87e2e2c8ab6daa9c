"""Who sees and gets what: everybody on every page and download of the host."""

from datetime import date

import pytest
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.test import RequestFactory
from django.urls import reverse
from django.utils import timezone
from tardis.tardis_portal import models
from tardis.tardis_portal.auth import decorators as authz
from tardis.tardis_portal.flavour import TYPED

EVERYBODY = ["owner", "member", "stranger", "anonymous", "root"]


@pytest.fixture
def browse(client, people):
    """The status of a page for a person (or the anonymous one)."""

    def browse(person, path):
        client.logout()
        if person != "anonymous":
            client.force_login(people[person])
        response = client.get(path)
        if response.streaming:
            b"".join(response.streaming_content)
        return response

    return browse


def statuses(browse, path):
    return {person: browse(person, path).status_code for person in EVERYBODY}


def asked_by(user):
    request = RequestFactory().get("/")
    request.user = user
    return request


READERS = {"owner": 200, "member": 200, "root": 200, "stranger": 403, "anonymous": 403}
# An administrator sees everything, but as on the real host 4.7 downloads only what a rule gives.
DOWNLOADERS = READERS if TYPED else {**READERS, "root": 403}


def of_the_group(**changes):
    """Change the rule that names the project's group."""
    if TYPED:
        models.ExperimentACL.objects.filter(group__isnull=False).update(**changes)
    else:
        models.ObjectACL.objects.filter(pluginId="django_group").update(**changes)


def publish(dataset, level):
    """Make the dataset's experiment public, as a form of the host does."""
    experiment = dataset.get_first_experiment()
    experiment.public_access = level
    experiment.save()


def test_pages_are_for_those_a_rule_names(browse, dataset):
    assert statuses(browse, f"/experiment/view/{dataset.get_first_experiment().id}/") == READERS
    assert statuses(browse, dataset.get_absolute_url()) == READERS


def test_downloads_are_for_those_a_rule_names(browse, dataset, add_file):
    datafile = add_file()
    for path in (
        f"/api/v1/dataset_file/{datafile.id}/download/",
        f"/download/datafile/{datafile.id}/",
        f"/datafile/view/{datafile.id}/",
        f"/download/dataset/{dataset.id}/tar/",
    ):
        assert statuses(browse, path) == DOWNLOADERS, path


def test_a_picture_is_empty_for_those_who_may_not_download_it(browse, dataset, add_file, png):
    datafile = add_file("head.png", png)
    path = f"/datafile/iiif/{datafile.id}/full/100,/0/native.jpg"
    seen = {person: len(browse(person, path).content) for person in EVERYBODY}
    assert {person for person, size in seen.items() if size} == {
        person for person, status in DOWNLOADERS.items() if status == 200
    }


def test_what_does_not_exist_is_404_for_a_user_and_says_nothing_to_a_visitor(browse, people):
    assert browse("stranger", "/experiment/view/999/").status_code == 404
    assert browse("anonymous", "/experiment/view/999/").status_code == 403
    assert browse("stranger", reverse("tardis_portal.view_dataset", args=[999])).status_code == (
        403 if TYPED else 404
    )
    assert browse("stranger", "/download/datafile/999/").status_code == 404
    assert browse("stranger", "/api/v1/dataset_file/999/download/").status_code == 404


def test_an_experiment_without_a_rule_is_seen_by_nobody_not_even_its_creator(browse, people):
    experiment = models.Experiment.objects.create(title="Alone", created_by=people["owner"])
    assert statuses(browse, f"/experiment/view/{experiment.id}/") == {
        **dict.fromkeys(EVERYBODY, 403),
        "root": 200,
    }


def test_public_metadata_is_seen_by_all_and_its_files_are_not(browse, dataset, add_file):
    datafile = add_file()
    publish(dataset, models.Experiment.PUBLIC_ACCESS_METADATA)
    assert set(statuses(browse, dataset.get_absolute_url()).values()) == {200}
    assert statuses(browse, f"/download/datafile/{datafile.id}/") == DOWNLOADERS
    publish(dataset, models.Experiment.PUBLIC_ACCESS_FULL)
    assert set(statuses(browse, f"/download/datafile/{datafile.id}/").values()) == {200}


def test_a_rule_that_has_expired_gives_nothing(browse, dataset):
    ended = date.today() - timezone.timedelta(days=2)
    # On the real host 5.0 a row counts unless it has not begun as well.
    of_the_group(expiryDate=ended, **({"effectiveDate": date.today()} if TYPED else {}))
    assert browse("member", dataset.get_absolute_url()).status_code == 403
    assert browse("owner", dataset.get_absolute_url()).status_code == 200


def test_the_index_lists_only_what_one_may_see(browse, dataset):
    title = dataset.get_first_experiment().title.encode()
    seen = {person for person in EVERYBODY if title in browse(person, "/").content}
    assert seen == {"owner", "member"}


def test_the_index_says_when_there_is_nothing(browse, people):
    assert b"Nothing has been shared with you yet" in browse("stranger", "/").content


def test_the_api_lists_only_what_one_may_see(browse, dataset, add_file):
    add_file()
    for resource in ("experiment", "dataset", "dataset_file"):
        counts = {
            person: browse(person, f"/api/v1/{resource}/?format=json").json()["meta"]["total_count"]
            for person in EVERYBODY
        }
        assert counts == {"owner": 1, "member": 1, "root": 1, "stranger": 0, "anonymous": 0}, resource


def test_the_api_shows_one_object_only_to_those_who_may_see_it(browse, dataset, add_file):
    datafile = add_file()
    for resource, pk in (
        ("experiment", dataset.get_first_experiment().id),
        ("dataset", dataset.id),
        ("dataset_file", datafile.id),
    ):
        seen = statuses(browse, f"/api/v1/{resource}/{pk}/?format=json")
        assert seen == {"owner": 200, "member": 200, "root": 200, "stranger": 401, "anonymous": 401}, resource


def test_nobody_changes_anything_through_the_api(client, people, dataset):
    client.force_login(people["root"])
    path = f"/api/v1/dataset/{dataset.id}/"
    assert client.delete(path).status_code in (401, 403)
    assert client.patch(path, {"description": "x"}, content_type="application/json").status_code in (401, 403)
    dataset.refresh_from_db()
    assert dataset.description == "Head / T1"


def test_a_password_signs_in_to_the_api_and_a_wrong_one_does_not(client, people, dataset):
    import base64

    def total(password):
        header = "Basic " + base64.b64encode(f"owner:{password}".encode()).decode()
        return client.get("/api/v1/dataset/?format=json", HTTP_AUTHORIZATION=header)

    assert total("owner").json()["meta"]["total_count"] == 1
    assert total("wrong").status_code == 401


def test_a_group_member_has_access_although_has_perm_on_the_dataset_says_no(people, dataset):
    member = User.objects.get(pk=people["member"].pk)
    assert authz.may_view(asked_by(member), dataset.id, "dataset")
    assert authz.may_download(asked_by(member), dataset.id, "dataset")
    assert not member.has_perm("tardis_acls.view_dataset", dataset)


def test_writing_needs_a_rule_and_the_right_to_change_experiments(people, dataset):
    experiment_id = dataset.get_first_experiment().id
    assert not authz.may_change(asked_by(people["owner"]), experiment_id, "experiment")
    people["owner"].user_permissions.add(Permission.objects.get(codename="change_experiment"))
    people["member"].user_permissions.add(Permission.objects.get(codename="change_experiment"))
    owner, member = (User.objects.get(username=name) for name in ("owner", "member"))
    assert authz.may_change(asked_by(owner), experiment_id, "experiment")
    assert authz.may_change(asked_by(owner), dataset.id, "dataset")
    assert not authz.may_change(asked_by(member), experiment_id, "experiment")
    models.Dataset.objects.update(immutable=True)
    assert not authz.may_change(asked_by(owner), dataset.id, "dataset")
    models.Experiment.objects.update(locked=True)
    assert not authz.may_change(asked_by(owner), experiment_id, "experiment")


def test_ownership_may_come_through_a_group(people, dataset):
    experiment = dataset.get_first_experiment()
    assert not authz.owns(asked_by(people["member"]), experiment.id, "experiment")
    of_the_group(isOwner=True)
    assert authz.owns(asked_by(people["member"]), experiment.id, "experiment")
    assert experiment.get_owners() == [people["owner"]]
    assert experiment.get_groups() == [Group.objects.get(name="Project 12345")]


def test_a_visitor_owns_nothing(dataset):
    visitor = asked_by(AnonymousUser())
    assert not authz.owns(visitor, dataset.id, "dataset")
    assert not authz.may_change(visitor, dataset.id, "dataset")
    assert not authz.get_accessible_experiments(visitor).exists()


def test_a_file_that_does_not_exist_is_accessible_to_nobody(people):
    assert not authz.may_view(asked_by(people["owner"]), 999, "datafile")
    assert not authz.may_view(asked_by(people["owner"]), 999, "experiment")


@pytest.mark.parametrize(
    ("decorator", "allowed"),
    [
        (authz.dataset_access_required, {"owner", "member", "root"}),
        (authz.dataset_download_required, {name for name, status in DOWNLOADERS.items() if status == 200}),
    ],
)
def test_decorators_let_through_whom_they_should(people, dataset, decorator, allowed):
    @decorator
    def view(request, dataset_id):
        return "passed"

    passed = {
        name
        for name, user in {**people, "anonymous": AnonymousUser()}.items()
        if view(asked_by(user), dataset_id=dataset.id) == "passed"
    }
    assert passed == allowed


def test_the_decorators_of_pages_also_decorate_methods(people, dataset):
    class View:
        @authz.dataset_access_required
        @authz.experiment_access_required
        def get(self, request, dataset_id, experiment_id):
            return "passed"

    ids = {"dataset_id": dataset.id, "experiment_id": dataset.get_first_experiment().id}
    assert View().get(asked_by(people["member"]), **ids) == "passed"
    assert View().get(asked_by(people["stranger"]), **ids).status_code == 403


def test_ownership_required_sends_a_visitor_to_the_login_page(people, dataset):
    @authz.experiment_ownership_required
    def view(request, experiment_id):
        return "passed"

    experiment_id = dataset.get_first_experiment().id
    assert view(asked_by(AnonymousUser()), experiment_id=experiment_id)["Location"] == "/login?next=/"
    assert view(asked_by(people["stranger"]), experiment_id=experiment_id).status_code == 403
    assert view(asked_by(people["owner"]), experiment_id=experiment_id) == "passed"
    assert view(asked_by(people["root"]), experiment_id=experiment_id) == "passed"


def test_a_new_user_has_a_profile_and_joins_the_initial_groups_that_exist(db, settings):
    from tardis.tardis_portal.auth.utils import configure_user

    settings.NEW_USER_INITIAL_GROUPS = ["Everybody", "No such group"]
    Group.objects.create(name="Everybody")
    user = User.objects.create_user("new")
    profile = configure_user(user)
    assert profile == user.userprofile
    assert not profile.isDjangoAccount
    assert [group.name for group in user.groups.all()] == ["Everybody"]
