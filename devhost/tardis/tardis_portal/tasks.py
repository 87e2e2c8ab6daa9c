"""The host's own background work: comparing stored files with their recorded size and checksum."""

from django.db import transaction
from tardis.celery import tardis_app


@tardis_app.task(name="tardis_portal.dfo.verify", ignore_result=True)
def dfo_verify(dfo_id, *args, **kwargs):
    """Verifies one stored copy; False if it is gone or differs."""
    from .models import DataFileObject

    locked = kwargs.pop("transaction_lock", False)
    with transaction.atomic():
        copies = DataFileObject.objects.select_for_update() if locked else DataFileObject.objects.all()
        copy = copies.filter(pk=dfo_id).first()
        return copy.verify(*args, **kwargs) if copy else False


@tardis_app.task(name="tardis_portal.verify_dfos", ignore_result=True)
def verify_dfos(**kwargs):
    """Asks again for every copy that is not verified."""
    from .models import DataFileObject

    for copy in DataFileObject.objects.filter(verified=False):
        dfo_verify.apply_async(args=[copy.id], priority=copy.priority)
