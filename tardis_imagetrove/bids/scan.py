"""What a BIDS dataset is made of: scans with their images, as MyTARDIS keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..formats.base import Fields
from .mapping import DEFAULT, MappingTable

#: DICOM fields that names, participants and sessions are made of, beside those that a mapping table names.
INJECTED_AT = "RadiopharmaceuticalInformationSequence.RadiopharmaceuticalStartTime"
FIELDS = (
    INJECTED_AT,
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientIdentityRemoved",
    "LongitudinalTemporalInformationModified",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "SequenceName",
    "ScanningSequence",
    "MRAcquisitionType",
    "ImageType",
    "Modality",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FrameOfReferenceUID",
    "AcquisitionDate",
    "AcquisitionTime",
    "SeriesDate",
    "SeriesTime",
)


@dataclass(frozen=True)
class Source:
    """A file in MyTARDIS: its id, and what its bytes must be."""

    id: int
    filename: str
    size: int
    sha512: str


@dataclass(frozen=True)
class Image:
    """One NIfTI image of a series.

    Attributes:
        nifti, bval, bvec: its files.
        label: what tells it from the series' other images (``e2_ph``); may be empty.
        sidecar: the fields of its sidecar.
        shape: as the image's header has it; empty if it is not known.
        step: seconds between volumes; 0 if it is not known.
    """

    nifti: Source
    label: str = ""
    sidecar: Mapping[str, object] = field(default_factory=dict)
    bval: Source | None = None
    bvec: Source | None = None
    shape: tuple[int, ...] = ()
    step: float = 0.0

    @property
    def volumes(self) -> int:
        """How many volumes it has; 0 if that is not known."""
        return 0 if not self.shape else self.shape[3] if len(self.shape) > 3 else 1


@dataclass(frozen=True)
class Scan:
    """One series.

    Attributes:
        id: of the series; later ones are higher.
        title: as pages name it: ``0003_t1_mprage``.
        uid: the SeriesInstanceUID that its visitors may know.
        fields: DICOM fields of its first instance, as it is shown: of a de-identified series, the copy's.
        mapping: the instrument's mapping table.
        problem: why it cannot be used at all, in words.
        notes: what somebody who uses it must know, such as a conversion's warnings.
        read: ids of the files that fields and sidecars were read of.
    """

    id: int
    title: str
    uid: str = ""
    fields: Fields = field(default_factory=dict)
    images: tuple[Image, ...] = ()
    mapping: MappingTable = DEFAULT
    problem: str = ""
    notes: tuple[str, ...] = ()
    read: tuple[int, ...] = ()

    def get(self, name: str) -> str:
        return self.fields.get(name, "").strip()

    @property
    def deidentified(self) -> bool:
        return self.get("PatientIdentityRemoved").upper() == "YES"

    @property
    def dates(self) -> str:
        """How de-identification treated its dates: ``UNMODIFIED``, ``MODIFIED`` (shifted) or ``REMOVED``."""
        return self.get("LongitudinalTemporalInformationModified").upper() or "UNMODIFIED"

    @property
    def number(self) -> int:
        text = self.get("SeriesNumber")
        return int(text) if text.lstrip("-").isdecimal() else 0
