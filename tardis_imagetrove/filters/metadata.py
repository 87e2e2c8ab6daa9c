"""Metadata: the parameter sets of experiment, dataset and file, from the DICOM headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from django.utils.timezone import get_current_timezone
from pydicom.datadict import dictionary_description, tag_for_keyword

from ..errors import PermanentError
from ..formats.base import DICOM
from ..formats.dicom.attributes import Attributes, Instance, is_sequence, number_of, tag_of
from ..formats.dicom.fields import is_foreign
from ..formats.dicom.vendor import private_b_value, siemens_csa
from ..parameters import Level, Parameter, Parameters
from .base import OTHER_FORMATS, DicomSeries, Filter, FilterResult, Takes
from .facts import ACQUIRED, GROUPS, HOLDERS, NESTED, NUMBERS, SIEMENS, WORDS
from .shared import instances_of


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
        found = instances_of(series)
        troubles = [f"{one.trouble}; it is left out" for one in found if one.attributes is None]
        for one in found:
            if one.attributes is not None and not one.attributes.text("SeriesInstanceUID"):
                troubles.append(f"{one.path.name}: has no SeriesInstanceUID; it is left out")
        instances = [one for one in found if one.attributes and one.attributes.text("SeriesInstanceUID")]
        if not instances:
            raise PermanentError("; ".join(troubles[:5]) or "the archive contains no instance")
        first = min(
            instances, key=lambda one: number_of(one.attributes.text("InstanceNumber") or "0")
        ).attributes
        told = _Acquisition(instances)
        acquired = tuple(told.parameters())
        return FilterResult(
            parameters=(
                Parameters(Level.EXPERIMENT, tuple(_experiment(first, series))),
                Parameters(
                    Level.DATASET,
                    (*_dataset(first, len(instances), series), *acquired),
                    key="SeriesInstanceUID",
                ),
                Parameters(Level.DATAFILE, tuple(_file(first, len(instances), series))),
            ),
            warnings=(*troubles, *told.troubles),
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
        if (moment := study_moment(lambda name: fields.get(name, ""))) is not None:
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


def _experiment(header: Attributes, series: DicomSeries) -> Iterator[Parameter]:
    settings = series.settings
    yield from _words("InstitutionName", header.text("InstitutionName") or settings.institution_name)
    yield from _words(
        "InstitutionalDepartmentName",
        header.text("InstitutionalDepartmentName") or settings.institutional_department_name,
    )
    yield from _words("InstitutionAddress", header.text("InstitutionAddress") or settings.institution_address)
    yield from _words("Operator", " ".join(settings.operators))
    yield from _words("Instrument", " ".join(value for _, value in settings.identity))
    yield from _words("Project", settings.project)


def _dataset(header: Attributes, count: int, series: DicomSeries) -> Iterator[Parameter]:
    yield from _words("SeriesInstanceUID", header.text("SeriesInstanceUID"))
    yield from _words("Series", series.name)
    yield from _words("Manufacturer", header.text("Manufacturer"))
    yield from _words("Manufacturer Model Name", header.text("ManufacturerModelName"))
    if series.settings.identifying_metadata:
        yield from _words("Patient Name", header.text("PatientName"))
    moment = study_moment(header.text)
    if moment is not None and header.text("LongitudinalTemporalInformationModified") == "MODIFIED":
        # Under a name of its own: nobody who looks for scans of a day shall find these.
        yield Parameter("Shifted Study Date", moment, full_name="Study Date, shifted by de-identification")
    elif moment is not None:
        yield Parameter("Study Date", moment, full_name="Study Date")
    yield Parameter("NumberOfInstances", count, full_name="Number of Instances")


def _file(header: Attributes, count: int, series: DicomSeries) -> Iterator[Parameter]:
    if series.settings.identifying_metadata:
        yield from _words("PatientID", header.text("PatientID"))
    yield from _words("StudyDescription", header.text("StudyDescription"))
    yield from _words("SeriesInstanceUID", header.text("SeriesInstanceUID"))
    yield Parameter("NumberOfInstances", count, full_name="Number of Instances")


def _words(name: str, text: str) -> Iterator[Parameter]:
    if text:
        yield Parameter(name, text, full_name=_full_name(name))


def _full_name(name: str) -> str:
    tag = tag_for_keyword(name)
    return name if tag is None else dictionary_description(tag)


class _Acquisition:
    """The acquisition's numbers and words of all instances of a series.

    Most instances repeat the bytes of the first: only those that differ are decoded.

    Attributes:
        troubles: words for values that are no numbers.
    """

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.troubles: list[str] = []
        self._attributes = [instance.attributes for instance in instances]
        self._found: dict[int, dict[object, tuple[str, Attributes]]] = {tag: {} for tag in ACQUIRED}
        for instance in instances:
            self._look(instance)

    def _look(self, instance: Instance) -> None:
        """Keep an instance's values that are new: those at its top, else those of its groups."""
        elements = instance.attributes.elements
        missing = []
        for tag, known in self._found.items():
            element = elements.get(tag)
            if element is None or not element[1]:
                missing.append(tag)
            elif element[1] not in known:
                known[element[1]] = instance.path.name, instance.attributes
        if elements.keys() & HOLDERS:
            for place in (NESTED, *((name,) for name in GROUPS)):
                left = []
                leaves = _leaves(instance.attributes, place, grouped=place is not NESTED)
                for tag in missing:
                    if tag not in leaves:
                        left.append(tag)
                        continue
                    for raw, item in leaves[tag].items():
                        self._found[tag].setdefault(raw, (instance.path.name, item))
                missing = left

    def parameters(self) -> Iterator[Parameter]:
        told = list(self._from_attributes())
        if not any(parameter.name.startswith("DiffusionBValue") for parameter in told):
            b_values = {value for one in self._attributes if (value := private_b_value(one)) is not None}
            if any(b_values):  # 0 alone stands in images of every kind
                told += _range("DiffusionBValue", sorted(b_values), NUMBERS["DiffusionBValue"])
        yield from told
        yield from self._from_siemens({parameter.name for parameter in told})

    def _from_attributes(self) -> Iterator[Parameter]:
        for keyword, units in NUMBERS.items():
            values = {number for numbers in self._numbers(keyword) for number in numbers}
            yield from _range(keyword, sorted(values), units)
        pairs = [numbers for numbers in self._numbers("PixelSpacing") if len(numbers) == 2]
        for index, axis in enumerate(("Rows", "Columns")):
            values = {pair[index] for pair in pairs}
            yield from _range(f"PixelSpacing{axis}", sorted(values), "mm", f"Pixel Spacing, {axis}")
        for keyword in WORDS:
            found = self._found[tag_of(keyword)].values()
            yield from _words(keyword, next((text for _, one in found if (text := one.text(keyword))), ""))

    def _numbers(self, keyword: str) -> Iterator[list[float]]:
        for name, attributes in self._found[tag_of(keyword)].values():
            texts = [text for text in attributes.text(keyword).split("\\") if text]
            numbers = [number for text in texts if (number := _number(text)) is not None]
            if len(numbers) < max(len(texts), 1):
                shown = attributes.text(keyword)[:40] or "damaged"
                self.troubles.append(f"{name}: {keyword} is not a number ({shown}); it is left out")
            yield numbers

    def _from_siemens(self, told: set[str]) -> Iterator[Parameter]:
        """What only the CSA header says: of the first instance, or of all where it has a b-value."""
        sources = [siemens_csa(self._attributes[0], SIEMENS.keys())]
        if "B_value" in sources[0] and not {"DiffusionBValue", "DiffusionBValueMin"} & told:
            sources += (siemens_csa(one, SIEMENS.keys()) for one in self._attributes[1:])
        for field, (name, units, full_name) in SIEMENS.items():
            if {name, f"{name}Min"} & told:
                continue
            values = {source[field][0] for source in sources if source.get(field)}
            numbers = {number for value in values if (number := _number(value)) is not None}
            if len(numbers) == len(values):
                yield from _range(name, sorted(numbers), units, full_name)
            else:
                yield from _words(name, str(sorted(map(str, values))[0]))


def _leaves(
    attributes: Attributes, holders: Iterable[str], grouped: bool
) -> dict[int, dict[object, Attributes]]:
    """Values by tag and bytes, with an item that has them: of sequences' items, or of the groups in those."""
    leaves: dict[int, dict[object, Attributes]] = {}
    seen: set[tuple[int, object]] = set()
    items = [item for name in holders for item in attributes.items(name)]
    if grouped:
        groups = []
        for item in items:
            for tag, (_, raw) in item.elements.items():
                key = tag, raw if isinstance(raw, bytes) else id(raw)
                if key not in seen:
                    seen.add(key)
                    value = item.value(tag) if is_sequence(tag) else None
                    groups += value if isinstance(value, list) else []
        items = groups
    for item in items:
        for tag, (_, raw) in item.elements.items():
            if tag in ACQUIRED and raw:
                leaves.setdefault(tag, {}).setdefault(raw, item)
    return leaves


def _range(keyword: str, values: list[float], units: str, full_name: str = "") -> Iterator[Parameter]:
    full_name = full_name or _full_name(keyword)
    if len(values) == 1:
        yield Parameter(keyword, values[0], units, full_name)
    elif values:
        yield Parameter(f"{keyword}Min", values[0], units, f"{full_name}, smallest")
        yield Parameter(f"{keyword}Max", values[-1], units, f"{full_name}, largest")


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if abs(number) < 1e300 else None  # neither infinite nor not a number


def study_moment(text: Callable[[str], str]) -> datetime | None:
    """When the study began, by StudyDate and StudyTime (PS3.5 section 6.2); None if they do not say.

    Args:
        text: a field's text by its keyword.

    Without TimezoneOffsetFromUTC (PS3.3 C.12.1.1) the time is the site's.
    """
    date = re.sub(r"\D", "", text("StudyDate"))
    time = (re.sub(r"\D.*", "", text("StudyTime")) + "000000")[:6]
    try:
        moment = datetime.strptime(date + time, "%Y%m%d%H%M%S")  # noqa: DTZ007 (made aware below)
    except ValueError:
        return None
    offset = re.match(r"([+-])(\d\d)(\d\d)\Z", text("TimezoneOffsetFromUTC"))
    if offset:
        minutes = int(offset[2]) * 60 + int(offset[3])
        return moment.replace(tzinfo=timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes)))
    zone = get_current_timezone()
    # pytz, which Django 3.2 brings, must localise; others are plain tzinfo.
    return zone.localize(moment) if hasattr(zone, "localize") else moment.replace(tzinfo=zone)
