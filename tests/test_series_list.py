"""The list of received series: how each stands and why, for staff only."""

from __future__ import annotations

import pytest
from django.urls import reverse

from tardis_imagetrove.models import Series

from .conftest import why

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def staff(client, owner, django_user_model):
    client.force_login(django_user_model.objects.create_user("staff", is_staff=True))
    return client


def page(client, query: str = "") -> str:
    answer = client.get(reverse("tardis_imagetrove:index") + query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_it_says_how_each_series_stands_and_why(staff):
    Series.objects.create(
        series_uid="1.2.3",
        description="<b>t1</b>",
        state=Series.State.HELD,
        reasons=why("has no PatientID & no name"),
    )
    text = page(staff)
    assert "&lt;b&gt;t1&lt;/b&gt;" in text
    assert "Held: needs attention" in text
    assert "has no PatientID &amp; no name" in text
    assert "<title>Received series" in text


def test_pages_stay_with_the_state_that_was_asked_for(staff):
    for state, count in (("done", 60), ("held", 100)):
        for number in range(count):
            Series.objects.create(series_uid=f"{len(state)}{count}.{number}", description=state, state=state)
    first = page(staff, "?state=held")
    assert 'href="?state=held&amp;page=2"' in first
    second = page(staff, "?state=held&page=2")
    assert second.count(">held</a><br>") == 50
    assert ">done</a><br>" not in second
    assert 'href="?state=held&amp;page=1"' in second
    assert ">held</a><br>" not in page(staff, "?state=done")
    assert page(staff, "?state=nonsense").count("<br><small>") == 50
    assert "No series matches" in page(staff, "?state=waiting")


def test_it_is_for_staff(client, owner, django_user_model):
    Series.objects.create(series_uid="1.2.3", description="t1_secret")
    for person in (None, owner):
        if person:
            client.force_login(person)
        answer = client.get(reverse("tardis_imagetrove:index"))
        assert answer.status_code in (302, 403)
        assert b"t1_secret" not in answer.content


def test_a_link_is_in_the_menu_of_staff_alone(staff, owner, settings):
    settings.USER_MENU_MODIFIERS = ["tardis_imagetrove.menus.add_board"]
    link = f'href="{reverse("tardis_imagetrove:index")}"'
    front = reverse("tardis.tardis_portal.views.index")
    assert link in staff.get(front).content.decode()
    staff.force_login(owner, "django.contrib.auth.backends.ModelBackend")
    assert link not in staff.get(front).content.decode()
