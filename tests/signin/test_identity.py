"""Who gets which account, whatever the protocol: several providers, shared tokens, addresses that nobody vouches for."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from tardis_imagetrove.signin import refusals
from tardis_imagetrove.signin.identity import Person, account_of, link
from tardis_imagetrove.signin.models import FederatedIdentity, ProjectMember

from . import signer

pytestmark = pytest.mark.django_db
User = get_user_model()

RAPID, AAF, OTHER = "https://rapid.example", "https://central.example", "https://university.example"
TOKEN = "ZsiAvfxa0BXULgcz7QXknbGtfxk"


def person(issuer=RAPID, subject="ada", mail="ada@example.edu", **more):
    return Person(issuer, subject, mail, "Ada", "Lovelace", **more)


def waiting(person, kin=()):
    with pytest.raises(refusals.NeedsLinking) as caught:
        account_of(person, kin)
    assert FederatedIdentity.objects.get(issuer=person.issuer, subject=person.subject).user is None
    return str(caught.value)


def test_the_shared_token_of_rapid_connect_is_kept(post):
    post(signer.assertion(said={"auedupersonsharedtoken": TOKEN}))
    post(signer.assertion(said={"auedupersonsharedtoken": None}))
    assert FederatedIdentity.objects.get().shared_token == TOKEN


@pytest.mark.parametrize("token", ["", 7, ["a"], "x" * 256, "with\0control", "two  spaces"])
def test_a_shared_token_that_cannot_be_kept_is_left_out(post, token):
    assert post(signer.assertion(said={"auedupersonsharedtoken": token})).status_code == 302
    assert FederatedIdentity.objects.get().shared_token == ""


def test_the_same_subject_of_another_issuer_is_another_person():
    assert account_of(person(mail="")) != account_of(person(AAF, mail=""))


def test_a_person_is_recognised_at_another_provider_of_the_federation():
    user = account_of(person(shared_token=TOKEN))
    moved = person(AAF, "another", "ada@new.example", shared_token=TOKEN)
    assert account_of(moved, {RAPID}) == user
    # From then on by the identity itself.
    assert account_of(person(AAF, "another", ""), ()) == user
    assert set(FederatedIdentity.objects.values_list("issuer", "user")) == {(RAPID, user.pk), (AAF, user.pk)}


def test_a_shared_token_of_no_federation_links_nothing():
    user = account_of(person(shared_token=TOKEN))
    said = waiting(person(OTHER, "mallory", "", shared_token=TOKEN), {AAF})
    assert f"account {user.pk}" in said and RAPID in said
    assert TOKEN not in said


def test_a_shared_token_tells_capital_letters_apart():
    user = account_of(person(shared_token=TOKEN))
    assert account_of(person(AAF, "b", "b@example.edu", shared_token=TOKEN.lower()), {RAPID}) != user


def test_a_shared_token_of_two_accounts_links_to_neither():
    account_of(person(RAPID, "a", "a@example.edu", shared_token=TOKEN))
    account_of(person(RAPID, "b", "b@example.edu", shared_token=TOKEN))
    waiting(person(AAF, "c", "", shared_token=TOKEN), {RAPID})


@pytest.mark.parametrize("right", ["is_staff", "is_superuser"])
def test_an_administrator_is_not_recognised_by_a_token_alone(right):
    user = account_of(person(shared_token=TOKEN))
    User.objects.filter(pk=user.pk).update(**{right: True})
    waiting(person(AAF, "mallory", "", shared_token=TOKEN), {RAPID})
    link(AAF, "mallory", user)
    assert account_of(person(AAF, "mallory", "", shared_token=TOKEN), {RAPID}) == user


def test_a_recognised_person_whose_account_is_off_stays_out():
    User.objects.filter(pk=account_of(person(shared_token=TOKEN)).pk).update(is_active=False)
    with pytest.raises(refusals.Inactive):
        account_of(person(AAF, "another", "other@example.edu", shared_token=TOKEN), {RAPID})


def test_an_address_is_never_enough_to_come_in_by_another_provider():
    account_of(person())
    waiting(person(OTHER, "mallory", "ADA@example.edu"))
    assert User.objects.filter(email__iexact="ada@example.edu").count() == 1


def test_who_waited_and_was_linked_has_two_identities():
    user = account_of(person())
    waiting(person(OTHER, "ada-other"))
    link(OTHER, "ada-other", user)
    assert account_of(person(OTHER, "ada-other")) == user == account_of(person())


def test_an_address_that_nobody_vouches_for_reaches_neither_account_nor_project():
    group = Group.objects.create(name="Project 12345")
    ProjectMember.objects.create(group=group, mail="grace@example.edu")
    user = account_of(person(OTHER, "mallory", "grace@example.edu", mail_verified=False))
    assert user.email == "" and user.username.startswith("federated-")
    assert not group.user_set.exists()
    kept = FederatedIdentity.objects.get()
    assert (kept.mail, kept.mail_verified) == ("grace@example.edu", False)


def test_an_address_that_nobody_vouches_for_makes_the_person_wait_all_the_same():
    User.objects.create_user("local", email="ada@example.edu")
    waiting(person(mail_verified=False))


@pytest.mark.parametrize(
    ("who", "entry"),
    [
        (person(AAF, "sub-1"), {"mail": "ada@example.edu"}),
        (person(AAF, "sub-1"), {"targeted_id": f"{AAF}!sub-1"}),
        (person(targeted_id="a!b!c"), {"targeted_id": "a!b!c"}),
    ],
)
def test_people_are_named_in_advance_for_any_provider(who, entry):
    group = Group.objects.create(name="Project 12345")
    ProjectMember.objects.create(group=group, **entry)
    assert list(group.user_set.all()) == []
    assert list(account_of(who).groups.all()) == [group]
