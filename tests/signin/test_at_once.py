"""Two browsers at the same moment, in real transactions, on whichever database the host runs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connection
from django.test import Client

from tardis_imagetrove.signin.models import FederatedIdentity, ProjectMember, SpentAssertion

from . import signer
from .conftest import user_of

User = get_user_model()
pytestmark = pytest.mark.django_db(transaction=True)


def post_at_once(tokens):
    """Statuses and accounts of posts that all begin together, each with its own connection."""
    gate = threading.Barrier(len(tokens))

    def one(token):
        browser = Client()
        try:
            gate.wait(30)
            response = browser.post("/rc/", {"assertion": token}, secure=True)
            return response.status_code, user_of(browser)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(tokens)) as pool:
        return list(pool.map(one, tokens))


@pytest.mark.parametrize("copies", [2, 6])
def test_of_copies_of_an_assertion_one_signs_in(site, copies):
    answers = post_at_once([signer.assertion()] * copies)
    assert sorted(status for status, _ in answers) == [302] + [403] * (copies - 1)
    assert len([user for _, user in answers if user]) == 1
    assert User.objects.filter(email="ada@example.edu").count() == 1
    assert SpentAssertion.objects.count() == 1


def test_of_copies_of_a_known_persons_assertion_one_signs_in(site):
    post_at_once([signer.assertion()])
    answers = post_at_once([signer.assertion()] * 4)
    assert sorted(status for status, _ in answers) == [302, 403, 403, 403]


def test_a_person_who_signs_in_twice_at_once_gets_one_account(site):
    ProjectMember.objects.create(group=Group.objects.create(name="Project 12345"), mail="ada@example.edu")
    answers = post_at_once([signer.assertion() for _ in range(4)])
    assert [status for status, _ in answers] == [302] * 4
    assert {user for _, user in answers} == {User.objects.get(email="ada@example.edu").pk}
    assert FederatedIdentity.objects.count() == 1
    assert ProjectMember.objects.get().user


def test_people_with_one_address_who_come_at_once_get_an_account_each(site):
    people = [f"person-{number}" for number in range(12)]
    answers = post_at_once([signer.assertion(who, said={"mail": "team@example.edu"}) for who in people])
    assert [status for status, _ in answers] == [302] * 12
    assert len({user for _, user in answers}) == 12
    assert len(set(User.objects.filter(email="team@example.edu").values_list("username", flat=True))) == 12


def test_a_person_who_comes_twice_at_once_by_openid_connect_gets_one_account(openid, provider):
    browsers = [Client() for _ in range(4)]
    backs = [provider.authorize(browser.get("/oidc/aaf/", secure=True)["Location"]) for browser in browsers]
    gate = threading.Barrier(len(browsers))

    def one(browser, back):
        try:
            gate.wait(30)
            return browser.get("/oidc/aaf/callback/", back, secure=True).status_code, user_of(browser)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(browsers)) as pool:
        answers = list(pool.map(one, browsers, backs))
    assert [status for status, _ in answers] == [302] * 4
    assert len({user for _, user in answers}) == 1
    assert FederatedIdentity.objects.count() == User.objects.filter(email="ada@example.edu").count() == 1


def test_of_copies_of_a_way_back_one_signs_in(openid, provider):
    browser = Client()
    back = provider.authorize(browser.get("/oidc/aaf/", secure=True)["Location"])
    copies = [Client() for _ in range(3)]
    for copy in copies:
        copy.cookies = browser.cookies
    gate = threading.Barrier(len(copies))

    def one(copy):
        try:
            gate.wait(30)
            return copy.get("/oidc/aaf/callback/", back, secure=True).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(len(copies)) as pool:
        assert sorted(pool.map(one, copies)) == [302, 403, 403]
