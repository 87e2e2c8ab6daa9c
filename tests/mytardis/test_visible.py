"""Which datasets a user sees in lists: exactly those that MyTARDIS itself lets them see, one by one."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import product

import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.http import HttpRequest

from tardis_imagetrove.mytardis import mytardis

pytestmark = pytest.mark.django_db(transaction=True)

TYPED = "objectacl" not in apps.all_models["tardis_portal"]
DAYS = {
    name: date.today() + timedelta(days=days) for name, days in {"past": -3, "today": 0, "future": 3}.items()
} | {"none": None}
PER_OBJECT = pytest.mark.skipif(not TYPED, reason="only MyTARDIS 5.0 has access rights per object")


@pytest.fixture
def user(owner, django_user_model):
    user = django_user_model.objects.create_user("member")
    user.groups.add(Group.objects.create(name="theirs"))
    return user


def asked(user) -> HttpRequest:
    request = HttpRequest()
    request.user = user
    return request


def make(owner, public_access: int = 1) -> tuple[int, int]:
    """Ids of a new experiment, which nobody may see, and its dataset."""
    from tardis.tardis_portal.models import Experiment

    experiment = Experiment.objects.create(title="one", created_by=owner, public_access=public_access)
    return experiment.pk, mytardis().make_dataset(experiment.pk, "one", None)


def rule(experiment_id: int, dataset_id: int, who, begins, ends, **flags) -> None:
    dates = {"effectiveDate": begins, "expiryDate": ends}
    if TYPED:
        from tardis.tardis_portal.models import DatasetACL, ExperimentACL

        key = "group" if isinstance(who, Group) else "user"
        ExperimentACL.objects.create(experiment_id=experiment_id, **{key: who}, **dates, **flags)
        DatasetACL.objects.create(dataset_id=dataset_id, **{key: who}, **dates, **flags)
    else:
        from tardis.tardis_portal.models import Experiment, ObjectACL

        ObjectACL.objects.create(
            content_object=Experiment.objects.get(pk=experiment_id),
            pluginId="django_group" if isinstance(who, Group) else "django_user",
            entityId=str(who.pk),
            **dates,
            **flags,
        )


@pytest.mark.parametrize("only_experiments", [True, pytest.param(False, marks=PER_OBJECT)])
def test_the_list_holds_what_mytardis_allows_one_by_one(
    owner, user, django_user_model, settings, only_experiments
):
    settings.ONLY_EXPERIMENT_ACLS = only_experiments
    people = [user, user.groups.get(), owner, Group.objects.create(name="others")]
    flags = [{"canRead": True}, {"isOwner": True}, {"canWrite": True}, {"canRead": True, "isOwner": True}]
    if TYPED:
        flags.append({"canDownload": True})
    datasets = []
    for who, flag, begins, ends in product(people, flags, DAYS.values(), DAYS.values()):
        experiment_id, dataset_id = make(owner)
        rule(experiment_id, dataset_id, who, begins, ends, **flag)
        datasets.append(dataset_id)
    for public_access in (1, 25, 50, 100):
        datasets.append(make(owner, public_access)[1])
    allowed = {pk for pk in datasets if mytardis().may_view_dataset(asked(user), pk)}
    assert set(mytardis().visible_datasets(user).values_list("pk", flat=True)) == allowed
    assert len(datasets) > len(allowed) > 20


def test_a_dataset_of_two_experiments_is_seen_by_either(owner, user):
    from tardis.tardis_portal.models import Dataset

    (_, dataset_id), (shown, _) = make(owner), make(owner)
    assert not mytardis().visible_datasets(user).exists()
    Dataset.objects.get(pk=dataset_id).experiments.add(shown)
    mytardis().grant_experiment(shown, owner.pk, user.groups.get().pk)
    assert mytardis().may_view_dataset(asked(user), dataset_id)
    assert mytardis().visible_datasets(user).filter(pk=dataset_id).exists()


def test_a_superuser_sees_all_and_one_who_has_left_does_not(owner, django_user_model):
    boss = django_user_model.objects.create_superuser("boss")
    _, dataset_id = make(owner)
    for active in (True, False):
        boss.is_active = active
        boss.save()
        assert mytardis().may_view_dataset(asked(boss), dataset_id) is active
        assert mytardis().visible_datasets(boss).filter(pk=dataset_id).exists() is active
