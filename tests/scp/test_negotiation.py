"""Which services and transfer syntaxes are agreed on."""

from __future__ import annotations

import pytest
from pydicom.uid import UID_dictionary
from pynetdicom import sop_class

from tardis_imagetrove.scp.negotiation import OTHER_SERVICES, STORAGE_COMMITMENT, is_storage, negotiate
from tardis_imagetrove.scp.pdu import AssociateRequest, ProposedContext, Role


def request(*contexts: ProposedContext, roles=()) -> AssociateRequest:
    return AssociateRequest(1, "B", "A", bytes(32), "1.2.840.10008.3.1.1.1", contexts, roles)


def test_every_storage_class_that_pynetdicom_knows_is_storage():
    for name, uid in {**sop_class._STORAGE_CLASSES, **sop_class._NON_PATIENT_OBJECT_CLASSES}.items():
        assert is_storage(uid), name


@pytest.mark.parametrize("kind", ["VERIFICATION", "QR", "BASIC_WORKLIST", "PRINT_MANAGEMENT", "PROCEDURE_STEP",
                                  "STORAGE_COMMITMENT", "UNIFIED_PROCEDURE_STEP", "MEDIA_STORAGE", "INVENTORY"])  # fmt: skip
def test_other_services_are_not_storage(kind):
    for name, uid in getattr(sop_class, f"_{kind}_CLASSES").items():
        assert not is_storage(uid), name


def test_no_retired_image_class_is_taken_for_another_service():
    wrong = [UID_dictionary[uid][0] for uid in OTHER_SERVICES if "Image Storage" in UID_dictionary[uid][0]]
    assert wrong == []


def test_storage_commitment_is_agreed_on_when_it_is_served():
    asked = request(ProposedContext(1, STORAGE_COMMITMENT, ("1.2.840.10008.1.2",)))
    assert negotiate(asked, commitment=False).results[0].result == 3
    assert negotiate(asked, commitment=True).results[0].result == 0


def test_a_context_without_transfer_syntax_is_refused_alone():
    agreement = negotiate(request(ProposedContext(1, "1.2.3", ()), ProposedContext(3, "1.2.3", ("1.2.4",))))
    assert [one.result for one in agreement.results] == [4, 0]
    assert list(agreement.accepted) == [3]


def test_the_role_of_a_provider_is_declined_to_the_peer():
    asked = request(
        ProposedContext(1, "1.2.3", ("1.2.4",)), roles=(Role("1.2.3", True, True), Role("9.9", True, True))
    )
    assert negotiate(asked).roles == (Role("1.2.3", True, False),)
