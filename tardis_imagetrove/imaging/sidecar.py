"""The BIDS sidecar of an image that is made without dcm2niix."""

from __future__ import annotations

from pathlib import Path

import nibabel
import pydicom
from pydicom.multival import MultiValue

OWN_SOFTWARE = f"pydicom {pydicom.__version__}, nibabel {nibabel.__version__}"
"""What makes an image where dcm2niix does not."""

SIDECAR_FIELDS = {
    "Modality": "Modality",
    "Manufacturer": "Manufacturer",
    "ManufacturerModelName": "ManufacturersModelName",
    "MagneticFieldStrength": "MagneticFieldStrength",
    "SoftwareVersions": "SoftwareVersions",
    "BodyPartExamined": "BodyPartExamined",
    "PatientPosition": "PatientPosition",
    "ProtocolName": "ProtocolName",
    "SeriesDescription": "SeriesDescription",
    "SeriesNumber": "SeriesNumber",
    "ImageType": "ImageType",
}
"""DICOM's keyword to the sidecar's field, as dcm2niix names it, for images made without it."""


def sidecar_fields(path: Path) -> dict[str, object]:
    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(SIDECAR_FIELDS))
    fields: dict[str, object] = {"ConversionSoftware": OWN_SOFTWARE}
    for keyword, field in SIDECAR_FIELDS.items():
        value = dataset.get(keyword)
        if value not in (None, ""):
            several = isinstance(value, MultiValue)
            fields[field] = (
                list(value) if several else value if isinstance(value, (int, float)) else str(value)
            )
    return fields
