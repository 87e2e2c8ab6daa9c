"""Metadata: the parameter sets of experiment, dataset and file, from the DICOM headers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from django.utils.timezone import get_current_timezone
from pydicom.datadict import dictionary_description, dictionary_has_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ..errors import PermanentError
from ..formats.base import DICOM
from ..formats.dicom.fields import field_text, is_foreign, parse_field
from ..formats.dicom.files import UnreadableFile, read_header
from ..formats.dicom.vendor import B_VALUES, private_b_value, siemens_csa
from ..parameters import Level, Parameter, Parameters
from .base import OTHER_FORMATS, DicomSeries, Filter, FilterResult, Takes

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
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_NESTED = ("RadiopharmaceuticalInformationSequence",)

#: Siemens's CSA image header, with what reserves its block.
_CSA = ("(0029,0010)", "(0029,1010)", "(0029,0011)", "(0029,1110)")

#: Vendors' b-values, with what reserves their blocks.
_B_VALUES = tuple(
    f"({group:04x},{number:04x})"
    for _, group, element, _ in B_VALUES
    for block in (0x10, 0x11)
    for number in (block, block << 8 | element)
)

_OF_EACH_INSTANCE = (*NUMBERS, *WORDS, *_GROUPS, *_NESTED, *_CSA, *_B_VALUES)


class MetadataFilter(Filter):
    """Parameter sets with the original uploader's names, and the acquisition's numbers with units.

    Attributes that identify a person are left out unless the instrument's configuration asks
    for them. Where instances differ in a number, its smallest and largest value are given.
    """

    name = "metadata"
    title = "Metadata"
    version = "1"
    takes = Takes(formats=frozenset({DICOM, *OTHER_FORMATS}))

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        if series.format != DICOM:
            return FilterResult(parameters=tuple(of_study(series)))
        # Of all instances only what may differ among them: a whole header takes milliseconds.
        headers, paths, troubles = [], [], []
        for path in series.files:
            try:
                headers.append(read_header(path, _OF_EACH_INSTANCE))
                paths.append(path)
            except UnreadableFile as error:
                troubles.append(f"{error}; it is left out")
        first = None
        for index in sorted(
            range(len(headers)), key=lambda i: _number(headers[i].get("InstanceNumber")) or 0
        ):
            try:
                first = headers[index] = read_header(paths[index])
                break
            except UnreadableFile as error:
                troubles.append(f"{error}; only its numbers are looked at")
        if first is None:
            raise PermanentError("; ".join(troubles[:5]) or "the archive holds no instance")
        return FilterResult(
            parameters=(
                Parameters(Level.EXPERIMENT, tuple(_experiment(first, series))),
                Parameters(Level.DATASET, tuple(_dataset(first, headers, series)), key="SeriesInstanceUID"),
                Parameters(Level.DATAFILE, tuple(_file(first, headers, series))),
            ),
            warnings=tuple(troubles),
        )


#: Fields of studies of other formats that are facts of the acquisition, with their units.
_STUDY_NUMBERS = {
    "paravision:VisuAcqRepetitionTime": ("RepetitionTime", "ms"),
    "paravision:VisuAcqEchoTime": ("EchoTime", "ms"),
    "paravision:VisuAcqInversionTime": ("InversionTime", "ms"),
    "paravision:VisuAcqFlipAngle": ("FlipAngle", "deg"),
    "paravision:VisuAcqNumberOfAverages": ("NumberOfAverages", ""),
    "paravision:VisuAcqEchoTrainLength": ("EchoTrainLength", ""),
    "paravision:VisuAcqPixelBandwidth": ("PixelBandwidth", "Hz/pixel"),
    "paravision:VisuMagneticFieldStrength": ("MagneticFieldStrength", "T"),
    "paravision:VisuAcqImagingFrequency": ("ImagingFrequency", "MHz"),
    "paravision:VisuCoreFrameThickness": ("SliceThickness", "mm"),
    "paravision:PVM_DwEffBval": ("DiffusionBValue", "s/mm^2"),
}
_STUDY_WORDS = (
    "Modality",
    "StudyDescription",
    "StudyID",
    "ProtocolName",
    "SequenceName",
    "ImagedNucleus",
    "SoftwareVersions",
    "OperatorsName",
)
_IDENTIFYING = ("PatientID", "PatientName", "PatientSex", "PatientWeight")


def of_study(series: DicomSeries) -> Iterator[Parameters]:
    """The parameter sets of a study of another format, by the fields that were read when it arrived.

    Fields that a source's pattern found in the path stand under their own names. Those of the person are
    left out unless the instrument's configuration asks for them.
    """
    fields, settings = series.fields, series.settings
    header = Dataset()
    header.StudyDate, header.StudyTime = fields.get("StudyDate", ""), fields.get("StudyTime", "")

    def experiment() -> Iterator[Parameter]:
        yield from _words("InstitutionName", fields.get("InstitutionName", "") or settings.institution_name)
        yield from _words("InstitutionalDepartmentName", settings.institutional_department_name)
        yield from _words("InstitutionAddress", settings.institution_address)
        yield from _words("Operator", " ".join(settings.operators))
        yield from _words("Instrument", " ".join(value for _, value in settings.identity))
        yield from _words("Project", settings.project)

    def dataset() -> Iterator[Parameter]:
        yield from _words("SeriesInstanceUID", fields.get("SeriesInstanceUID", ""))
        yield from _words("Series", series.name)
        yield from _words("Manufacturer", fields.get("Manufacturer", ""))
        yield from _words("Manufacturer Model Name", fields.get("ManufacturerModelName", ""))
        if (moment := study_moment(header)) is not None:
            yield Parameter("Study Date", moment, full_name="Study Date")
        yield Parameter("NumberOfFiles", len(series.files), full_name="Number of Files")
        told = {*_STUDY_WORDS, *_IDENTIFYING, "StudyDate", "StudyTime", "SeriesDescription", "Manufacturer"}
        told |= {"ManufacturerModelName", "InstitutionName", "PatientBirthDate", "ReferringPhysicianName"}
        told |= {"StationName", "ImagingFrequency", "SeriesInstanceUID", "StudyInstanceUID"}
        yield from (one for name in _STUDY_WORDS for one in _words(name, fields.get(name, "")))
        for field, (name, units) in _STUDY_NUMBERS.items():
            numbers = {_number(text) for text in fields.get(field, "").split("\\")}
            yield from _range(name, sorted(number for number in numbers if number is not None), units)
        for name in sorted(fields.keys() - told):  # found in the path
            if not is_foreign(name) or name.startswith("path:"):
                yield from _words(name.rpartition(":")[2], fields[name])
        if settings.identifying_metadata:
            yield from (one for name in _IDENTIFYING for one in _words(name, fields.get(name, "")))

    yield Parameters(Level.EXPERIMENT, tuple(experiment()))
    yield Parameters(Level.DATASET, tuple(dataset()), key="SeriesInstanceUID")


def _experiment(header: Dataset, series: DicomSeries) -> Iterator[Parameter]:
    settings = series.settings
    yield from _words("InstitutionName", field_text(header, "InstitutionName") or settings.institution_name)
    yield from _words(
        "InstitutionalDepartmentName",
        field_text(header, "InstitutionalDepartmentName") or settings.institutional_department_name,
    )
    yield from _words(
        "InstitutionAddress", field_text(header, "InstitutionAddress") or settings.institution_address
    )
    yield from _words("Operator", " ".join(settings.operators))
    yield from _words("Instrument", " ".join(value for _, value in settings.identity))
    yield from _words("Project", settings.project)


def _dataset(header: Dataset, headers: list[Dataset], series: DicomSeries) -> Iterator[Parameter]:
    yield from _words("SeriesInstanceUID", str(header.SeriesInstanceUID))
    yield from _words("Series", series.name)
    yield from _words("Manufacturer", field_text(header, "Manufacturer"))
    yield from _words("Manufacturer Model Name", field_text(header, "ManufacturerModelName"))
    if series.settings.identifying_metadata:
        yield from _words("Patient Name", field_text(header, "PatientName"))
    moment = study_moment(header)
    if moment is not None and field_text(header, "LongitudinalTemporalInformationModified") == "MODIFIED":
        # Under a name of its own: nobody who looks for scans of a day shall find these.
        yield Parameter("Shifted Study Date", moment, full_name="Study Date, shifted by de-identification")
    elif moment is not None:
        yield Parameter("Study Date", moment, full_name="Study Date")
    yield Parameter("NumberOfInstances", len(headers), full_name="Number of Instances")
    yield from acquisition(headers)


def _file(header: Dataset, headers: list[Dataset], series: DicomSeries) -> Iterator[Parameter]:
    if series.settings.identifying_metadata:
        yield from _words("PatientID", field_text(header, "PatientID"))
    yield from _words("StudyDescription", field_text(header, "StudyDescription"))
    yield from _words("SeriesInstanceUID", str(header.SeriesInstanceUID))
    yield Parameter("NumberOfInstances", len(headers), full_name="Number of Instances")


def _words(name: str, text: str) -> Iterator[Parameter]:
    if text:
        yield Parameter(name, text, full_name=_full_name(name))


def _full_name(name: str) -> str:
    with contextlib.suppress(PermanentError):
        tag = parse_field(name)
        if dictionary_has_tag(tag):
            return dictionary_description(tag)
    return name


def acquisition(headers: list[Dataset]) -> Iterator[Parameter]:
    """The acquisition's numbers, with units, and words, of all instances of a series."""
    told = list(_from_attributes(headers))
    if not any(parameter.name.startswith("DiffusionBValue") for parameter in told):
        b_values = {value for header in headers if (value := private_b_value(header)) is not None}
        if any(b_values):  # 0 alone stands in images of every kind
            told += _range("DiffusionBValue", sorted(b_values), NUMBERS["DiffusionBValue"])
    yield from told
    yield from _from_siemens(headers, {parameter.name for parameter in told})


def _from_attributes(headers: list[Dataset]) -> Iterator[Parameter]:
    for keyword, units in NUMBERS.items():
        values = sorted({value for header in headers for value in _numbers(header, keyword)})
        yield from _range(keyword, values, units)
    for index, axis in enumerate(("Rows", "Columns")):
        values = sorted(
            {
                number
                for header in headers
                for value in find(header, "PixelSpacing")
                if len(value) == 2 and (number := _number(value[index])) is not None
            }
        )
        yield from _range(f"PixelSpacing{axis}", values, "mm", f"Pixel Spacing, {axis}")
    for keyword in WORDS:
        text = next((text for header in headers if (text := _text(header, keyword))), "")
        yield from _words(keyword, text)


def _from_siemens(headers: list[Dataset], told: set[str]) -> Iterator[Parameter]:
    """What only the CSA header says: of the first instance, or of all where it has a b-value."""
    sources = [siemens_csa(headers[0])]
    if "B_value" in sources[0]:
        sources += map(siemens_csa, headers[1:])
    for field, (name, units, full_name) in SIEMENS.items():
        if {name, f"{name}Min"} & told:
            continue
        values = {source[field][0] for source in sources if source.get(field)}
        numbers = {number for value in values if (number := _number(value)) is not None}
        if len(numbers) == len(values):
            yield from _range(name, sorted(numbers), units, full_name)
        else:
            yield from _words(name, str(sorted(map(str, values))[0]))


def _range(keyword: str, values: list[float], units: str, full_name: str = "") -> Iterator[Parameter]:
    full_name = full_name or _full_name(keyword)
    if len(values) == 1:
        yield Parameter(keyword, values[0], units, full_name)
    elif values:
        yield Parameter(f"{keyword}Min", values[0], units, f"{full_name}, smallest")
        yield Parameter(f"{keyword}Max", values[-1], units, f"{full_name}, largest")


def find(header: Dataset, keyword: str) -> Iterator[object]:
    """Values of an attribute: at the top, else in the functional groups of an enhanced object."""
    value = header.get(keyword)
    if value not in (None, ""):
        yield value
        return
    for name in _NESTED:
        for item in header.get(name) or ():
            if item.get(keyword) not in (None, ""):
                yield item.get(keyword)
                return
    for name in _GROUPS:
        found = False
        for frame in header.get(name) or ():
            for group in frame:
                if group.VR != "SQ":
                    continue
                for item in group.value:
                    if item.get(keyword) not in (None, ""):
                        found = True
                        yield item.get(keyword)
        if found:
            return


def _numbers(header: Dataset, keyword: str) -> Iterator[float]:
    for value in find(header, keyword):
        for single in value if isinstance(value, MultiValue) else (value,):
            number = _number(single)
            if number is not None:
                yield number


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None  # neither infinite nor not a number


def _text(header: Dataset, keyword: str) -> str:
    if keyword in header:
        return field_text(header, keyword)
    return next((str(value) for value in find(header, keyword)), "")


def study_moment(header: Dataset) -> datetime | None:
    """When the study began, by StudyDate and StudyTime (PS3.5 section 6.2); None if it does not say.

    Without TimezoneOffsetFromUTC (PS3.3 C.12.1.1) the time is the site's.
    """
    date = re.sub(r"\D", "", field_text(header, "StudyDate"))
    time = (re.sub(r"\D.*", "", field_text(header, "StudyTime")) + "000000")[:6]
    try:
        moment = datetime.strptime(date + time, "%Y%m%d%H%M%S")  # noqa: DTZ007 (made aware below)
    except ValueError:
        return None
    offset = re.match(r"([+-])(\d\d)(\d\d)\Z", field_text(header, "TimezoneOffsetFromUTC"))
    if offset:
        minutes = int(offset[2]) * 60 + int(offset[3])
        return moment.replace(tzinfo=timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes)))
    zone = get_current_timezone()
    # pytz, which Django 3.2 brings, must localise; others are plain tzinfo.
    return zone.localize(moment) if hasattr(zone, "localize") else moment.replace(tzinfo=zone)
