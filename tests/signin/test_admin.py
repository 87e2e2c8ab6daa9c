"""Linking people and naming them on projects, in Django's admin."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from tardis_imagetrove.signin.models import FederatedIdentity, ProjectMember

from . import signer
from .conftest import user_of

pytestmark = pytest.mark.django_db
User = get_user_model()


@pytest.fixture
def administrator(admin_client):
    return admin_client


def identity_page(identity=None):
    if identity is None:
        return reverse("admin:tardis_imagetrove_federatedidentity_add")
    return reverse("admin:tardis_imagetrove_federatedidentity_change", args=[identity.pk])


def test_a_person_who_waits_is_linked_by_choosing_the_account(post, client, administrator):
    local = User.objects.create_user("local-ada", email="ada@example.edu")
    post(signer.assertion())
    identity = FederatedIdentity.objects.get()
    waiting = reverse("admin:tardis_imagetrove_federatedidentity_changelist") + "?waiting=yes"
    assert "Ada Lovelace" in administrator.get(waiting).content.decode()
    response = administrator.post(identity_page(identity), {"user": local.pk})
    assert response.status_code == 302
    assert not administrator.get(waiting).context["cl"].result_count
    post(signer.assertion())
    assert user_of(client) == local.pk


def test_who_an_identity_is_cannot_be_edited(post, administrator):
    post(signer.assertion())
    identity = FederatedIdentity.objects.get()
    fields = {"user": identity.user_id, "subject": "somebody else", "issuer": "elsewhere"}
    assert administrator.post(identity_page(identity), fields).status_code == 302
    identity.refresh_from_db()
    assert (identity.subject, identity.issuer) == (signer.targeted_id(), signer.ISSUER)


def test_an_identity_is_added_in_advance_and_once(post, client, administrator):
    local = User.objects.create_user("local-ada", email="ada@example.edu")
    fields = {"issuer": signer.ISSUER, "subject": signer.targeted_id(), "user": local.pk}
    assert administrator.post(identity_page(), fields).status_code == 302
    again = administrator.post(identity_page(), fields)
    assert "already" in again.content.decode()
    post(signer.assertion())
    assert user_of(client) == local.pk


def test_a_person_is_named_on_a_project(post, administrator):
    group = Group.objects.create(name="Project 12345")
    add = reverse("admin:tardis_imagetrove_projectmember_add")
    fields = {"group": group.pk, "mail": "Ada@Example.edu"}
    assert administrator.post(add, fields).status_code == 302
    post(signer.assertion())
    assert list(group.user_set.values_list("email", flat=True)) == ["ada@example.edu"]
    listed = administrator.get(reverse("admin:tardis_imagetrove_projectmember_changelist"))
    assert "ada@example.edu" in listed.content.decode()


@pytest.mark.parametrize(
    "who", [{}, {"mail": "ada@example.edu", "targeted_id": "x"}, {"mail": "no address"}, {"mail": "ad\u0430@example.edu"}]
)  # fmt: skip
def test_a_person_who_cannot_be_recognised_is_not_named(administrator, who):
    group = Group.objects.create(name="Project 12345")
    with pytest.raises(ValidationError):
        ProjectMember.objects.create(group=group, **who)
    response = administrator.post(
        reverse("admin:tardis_imagetrove_projectmember_add"), {"group": group.pk, **who}
    )
    assert response.status_code == 200
    assert not ProjectMember.objects.exists()


def test_the_identities_of_one_account_are_shown_together(
    post, site, arrive, openid, provider, administrator
):
    site.RAPID_CONNECT_ENABLED = True
    post(signer.assertion())
    arrive(Client())
    first, waiting = FederatedIdentity.objects.order_by("pk")
    assert waiting.user is None
    assert administrator.post(identity_page(waiting), {"user": first.user_id}).status_code == 302
    html = administrator.get(identity_page(waiting)).content.decode()
    assert f"Ada Lovelace ({signer.ISSUER})" in html
    listed = administrator.get(
        reverse("admin:tardis_imagetrove_federatedidentity_changelist")
    ).content.decode()
    assert provider.issuer in listed and signer.ISSUER in listed
