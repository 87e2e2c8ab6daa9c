"""The commands: forgetting used assertions, linking people to accounts."""

import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from tardis_imagetrove.signin.models import FederatedIdentity, SpentAssertion

from ..site import HOST, REPOSITORY
from . import signer
from .conftest import code_of, user_of

pytestmark = pytest.mark.django_db
User = get_user_model()


@pytest.fixture
def local(db):
    return User.objects.create_user("local-ada", email="ada@example.edu")


def run(*args, **kwargs):
    out = StringIO()
    call_command(*args, stdout=out, **kwargs)
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["imagetrove_clear_assertions"], ["imagetrove_link_account"], ["imagetrove_link_account", "ada"]],
)
def test_with_the_database_away_a_command_says_so(words, tmp_path):
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DEVHOST_DB": "sqlite",
        "IMAGETROVE_TEST_DATABASE": str(tmp_path / "no" / "such" / "database"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), HOST]),
    }
    command = [sys.executable, "-m", "django", *words]
    done = subprocess.run(command, cwd=HOST, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "CommandError: the database cannot be used: unable to open database file" in done.stderr
    assert "Traceback" not in done.stderr


# imagetrove_clear_assertions


def test_an_assertion_is_forgotten_only_when_its_own_expiry_refuses_it(post, monkeypatch):
    token = signer.assertion()
    post(token)
    expires = datetime.fromtimestamp(signer.claims()["exp"], tz=timezone.utc)
    spent = SpentAssertion.objects.get()
    # The longest leeway that can be configured is 300 s.
    assert timedelta(seconds=298) <= spent.forget_after - expires <= timedelta(seconds=300)
    assert run("imagetrove_clear_assertions") == "0 expired assertions forgotten, 1 kept.\n"
    assert code_of(post(token)) == "RC-REPLAY"
    monkeypatch.setattr("django.utils.timezone.now", lambda: spent.forget_after + timedelta(seconds=1))
    monkeypatch.setattr("time.time", lambda: spent.forget_after.timestamp() + 1)
    assert run("imagetrove_clear_assertions") == "1 expired assertions forgotten, 0 kept.\n"
    assert code_of(post(token)) == "RC-EXPIRED"


# imagetrove_link_account


def test_a_person_who_waits_is_linked_by_address(post, client, local):
    post(signer.assertion())
    assert run("imagetrove_link_account").endswith("1 waiting.\n")
    assert "local-ada" in run("imagetrove_link_account", "local-ada", mail="ADA@example.edu")
    assert run("imagetrove_link_account") == "0 waiting.\n"
    post(signer.assertion())
    assert user_of(client) == local.pk


def test_a_person_who_never_came_is_linked_by_targeted_id(post, client, local):
    run("imagetrove_link_account", "local-ada", targeted_id=signer.targeted_id())
    post(signer.assertion())
    assert user_of(client) == local.pk


def test_a_wrong_link_can_be_mended(post, client, local):
    post(signer.assertion("grace"))
    grace = user_of(client)
    run("imagetrove_link_account", "local-ada", targeted_id=signer.targeted_id("grace"))
    post(signer.assertion("grace", said={"mail": None}))
    assert user_of(client) == local.pk
    assert User.objects.get(pk=grace).userprofile.rapidConnectEduPersonTargetedID is None


def test_of_two_people_with_one_address_none_is_guessed(post, local):
    post(signer.assertion("ada"))
    post(signer.assertion("grace", said={"mail": "ada@example.edu"}))
    with pytest.raises(CommandError) as caught:
        run("imagetrove_link_account", "local-ada", mail="ada@example.edu")
    assert signer.targeted_id("ada") in str(caught.value)
    assert signer.targeted_id("grace") in str(caught.value)
    assert not FederatedIdentity.objects.filter(user__isnull=False).exists()


def test_a_copied_targeted_id_may_have_space_around_it(post, client, local):
    run("imagetrove_link_account", "local-ada", targeted_id=f" {signer.targeted_id()}\n")
    post(signer.assertion())
    assert user_of(client) == local.pk


@pytest.mark.parametrize(
    ("args", "options", "words"),
    [
        (["nobody"], {"mail": "ada@example.edu"}, "Account 'nobody' does not exist"),
        (["local-ada"], {}, "Give --mail or --identifier"),
        (["local-ada"], {"targeted_id": " "}, "Give --mail or --identifier"),
        (["local-ada"], {"targeted_id": "x" * 401}, "at most 400"),
        (["local-ada"], {"mail": "other@example.edu"}, "sign in once first"),
    ],
)
def test_what_cannot_be_linked_is_said(site, local, args, options, words):
    with pytest.raises(CommandError, match=words):
        run("imagetrove_link_account", *args, **options)


def test_a_targeted_id_needs_a_federation(site, local):
    site.RAPID_CONNECT_CONFIG = {}
    with pytest.raises(CommandError, match="give --issuer"):
        run("imagetrove_link_account", "local-ada", targeted_id="x")


# Any provider


def test_people_of_any_provider_wait_and_are_linked(arrive, provider, client, local):
    provider.said |= {"email_verified": False}
    arrive()
    told = run("imagetrove_link_account")
    assert f"ada@example.edu (not verified)\tAda Lovelace\tsubject-of-ada\t{provider.issuer}\n" in told
    told = run("imagetrove_link_account", "local-ada", mail="ada@example.edu")
    assert f"(subject-of-ada) signs in to local-ada from now on, by {provider.issuer}" in told
    arrive()
    assert user_of(client) == local.pk


def test_an_identifier_that_was_not_seen_needs_its_issuer(arrive, openid, site, provider, client, local):
    site.RAPID_CONNECT_ENABLED = True
    with pytest.raises(CommandError, match="--issuer"):
        run("imagetrove_link_account", "local-ada", identifier="subject-of-ada")
    run("imagetrove_link_account", "local-ada", identifier="subject-of-ada", issuer=provider.issuer)
    arrive()
    assert user_of(client) == local.pk
    # From now on it is seen.
    run("imagetrove_link_account", "local-ada", identifier="subject-of-ada")
    assert FederatedIdentity.objects.count() == 1


def test_of_two_providers_with_one_address_the_issuer_decides(arrive, post, site, openid, provider, local):
    site.RAPID_CONNECT_ENABLED = True
    post(signer.assertion())
    arrive()
    with pytest.raises(CommandError, match="2 people"):
        run("imagetrove_link_account", "local-ada", mail="ada@example.edu")
    run("imagetrove_link_account", "local-ada", mail="ada@example.edu", issuer=provider.issuer)
    assert FederatedIdentity.objects.get(user=local).issuer == provider.issuer
