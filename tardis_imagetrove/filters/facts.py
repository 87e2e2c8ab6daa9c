"""Which attributes are facts of an acquisition, by what names and units, and where instances keep them."""

from __future__ import annotations

from ..formats.dicom.attributes import tag_of
from ..formats.dicom.fields import parse_field
from ..formats.dicom.vendor import B_VALUES

#: Numbers of the acquisition and their units: DICOM keyword → unit (PS3.3 C.7.6, C.8.2.1, C.8.3.1, C.8.9).
NUMBERS = {
    "Rows": "",
    "Columns": "",
    "NumberOfFrames": "",
    "SliceThickness": "mm",
    "SpacingBetweenSlices": "mm",
    "RepetitionTime": "ms",
    "EchoTime": "ms",
    "EffectiveEchoTime": "ms",
    "InversionTime": "ms",
    "FlipAngle": "deg",
    "EchoTrainLength": "",
    "NumberOfAverages": "",
    "PixelBandwidth": "Hz/pixel",
    "MagneticFieldStrength": "T",
    "ImagingFrequency": "MHz",
    "TransmitterFrequency": "MHz",
    "DiffusionBValue": "s/mm^2",
    "SAR": "W/kg",
    "KVP": "kV",
    "XRayTubeCurrent": "mA",
    "ExposureTime": "ms",
    "Exposure": "mAs",
    "CTDIvol": "mGy",
    "SpiralPitchFactor": "",
    "GantryDetectorTilt": "deg",
    "DataCollectionDiameter": "mm",
    "ReconstructionDiameter": "mm",
    "ActualFrameDuration": "ms",
    "RadionuclideTotalDose": "Bq",
    "RadionuclideHalfLife": "s",
}

#: Words of the acquisition.
WORDS = (
    "Modality",
    "SeriesDescription",
    "ProtocolName",
    "SequenceName",
    "PulseSequenceName",
    "ScanningSequence",
    "MRAcquisitionType",
    "BodyPartExamined",
    "PatientPosition",
    "ReceiveCoilName",
    "ConvolutionKernel",
    "Radiopharmaceutical",
    "Units",
    "SoftwareVersions",
)

#: What Siemens's CSA header says: its own field → the parameter's name, unit, and full name. The first have the
#: standard's names, and are used where the standard's attributes are missing.
SIEMENS = {
    "B_value": ("DiffusionBValue", "s/mm^2", ""),
    "ImaCoilString": ("ReceiveCoilName", "", ""),
    "NumberOfImagesInMosaic": ("NumberOfImagesInMosaic", "", "Number of Images in Mosaic"),
    "BandwidthPerPixelPhaseEncode": (
        "BandwidthPerPixelPhaseEncode",
        "Hz/pixel",
        "Bandwidth per Pixel, Phase Encode",
    ),
}

#: Where an enhanced multi-frame object keeps what a classic one has at its top (PS3.3 C.7.6.16).
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
NESTED = ("RadiopharmaceuticalInformationSequence",)

#: Siemens's CSA image header, with what reserves its block.
_CSA = ("(0029,0010)", "(0029,1010)", "(0029,0011)", "(0029,1110)")

#: Vendors' b-values, with what reserves their blocks.
_B_VALUES = tuple(
    f"({group:04x},{number:04x})"
    for _, group, element, _ in B_VALUES
    for block in (0x10, 0x11)
    for number in (block, block << 8 | element)
)

HOLDERS = frozenset(map(tag_of, (*GROUPS, *NESTED)))
ACQUIRED = frozenset(map(tag_of, (*NUMBERS, *WORDS, "PixelSpacing")))

#: What is said of the series, beside its acquisition.
_OF_SERIES = (
    *("InstitutionName", "InstitutionalDepartmentName", "InstitutionAddress", "Manufacturer"),
    *("ManufacturerModelName", "PatientName", "PatientID", "StudyDescription", "StudyDate", "StudyTime"),
    *("TimezoneOffsetFromUTC", "LongitudinalTemporalInformationModified", "SOPInstanceUID"),
    *("SeriesInstanceUID", "InstanceNumber"),
)
TAGS = HOLDERS | ACQUIRED | frozenset(map(parse_field, (*_OF_SERIES, *_CSA, *_B_VALUES)))

READING_ORDER = (
    *(
        "Study Date",
        "Shifted Study Date",
        "StudyDescription",
        "Modality",
        "BodyPartExamined",
        "PatientPosition",
    ),
    *("SeriesDescription", "Series", "ProtocolName"),
    # Magnetic resonance
    *("MagneticFieldStrength", "ReceiveCoilName", "MRAcquisitionType", "ScanningSequence", "SequenceName"),
    *("PulseSequenceName", "RepetitionTime", "EchoTime", "EffectiveEchoTime", "InversionTime", "FlipAngle"),
    *(
        "EchoTrainLength",
        "DiffusionBValue",
        "NumberOfAverages",
        "PixelBandwidth",
        "BandwidthPerPixelPhaseEncode",
    ),
    *("ImagingFrequency", "TransmitterFrequency", "SAR"),
    # Computed tomography
    *(
        "KVP",
        "XRayTubeCurrent",
        "ExposureTime",
        "Exposure",
        "CTDIvol",
        "SpiralPitchFactor",
        "GantryDetectorTilt",
    ),
    *("ConvolutionKernel", "DataCollectionDiameter", "ReconstructionDiameter"),
    # Emission tomography
    *("Radiopharmaceutical", "RadionuclideTotalDose", "RadionuclideHalfLife", "ActualFrameDuration", "Units"),
    # Slices and matrix
    *("SliceThickness", "SpacingBetweenSlices", "PixelSpacingRows", "PixelSpacingColumns", "Rows", "Columns"),
    *("NumberOfFrames", "NumberOfImagesInMosaic", "NumberOfInstances", "NumberOfFiles"),
    *("Manufacturer", "Manufacturer Model Name", "SoftwareVersions"),
)
"""Names of parameters as a radiographer reads a protocol: when and what, how it was acquired, the slices, the scanner.
Those of other names follow."""


def reading_place(name: str) -> tuple[int, str]:
    """Sorts names of parameters by :data:`READING_ORDER`; smallest and largest values stand where a single one would."""
    plain = name.removesuffix("Min").removesuffix("Max")
    known = READING_ORDER.index(plain) if plain in READING_ORDER else len(READING_ORDER)
    return known, "" if plain == name else "1" if name.endswith("Min") else "2"
