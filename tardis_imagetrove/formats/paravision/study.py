"""ParaVision studies: where scans and reconstructions are, and the fields of a study.

Layout (ParaVision 5, 6, 7 and 360)::

    STUDY/subject                      parameters of subject and study; may be missing
    STUDY/<n>/acqp, method, fid …      a scan
    STUDY/<n>/pdata/<m>/2dseq, visu_pars, reco …   a reconstruction
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ...uids import derived_uid, is_uid
from ..base import PARAVISION, Fields
from .parameters import Parameters, UnreadableParameters, read_parameters

KIND = PARAVISION

#: Field by which a rule asks for any parameter: ``paravision:SUBJECT_comment``.
PREFIX = f"{KIND}:"
#: The whole text of the file ``subject``.
SUBJECT = f"{PREFIX}subject"

#: DICOM's name of a field, and the parameters that hold it, the surest first.
NAMES = {
    "PatientID": ("SUBJECT_id", "VisuSubjectId"),
    "PatientName": ("SUBJECT_name_string", "SUBJECT_name", "VisuSubjectName"),
    "PatientSex": ("SUBJECT_sex", "VisuSubjectSex"),
    "PatientWeight": ("SUBJECT_weight", "VisuSubjectWeight"),
    "StudyID": ("SUBJECT_study_name", "VisuStudyId"),
    "StudyDescription": ("SUBJECT_study_comment", "VisuStudyDescription", "SUBJECT_study_name"),
    "ReferringPhysicianName": ("SUBJECT_referral", "VisuStudyReferringPhysician"),
    "InstitutionName": ("VisuInstitution", "ACQ_institution"),
    "StationName": ("VisuStation", "ACQ_station"),
    "ManufacturerModelName": ("VisuStation", "ACQ_station"),
    "ProtocolName": ("VisuAcquisitionProtocol", "ACQ_protocol_name"),
    "SequenceName": ("VisuAcqSequenceName", "ACQ_method"),
    "OperatorsName": ("ACQ_operator", "SUBJECT_operator", "OWNER"),
    "ImagedNucleus": ("VisuAcqImagedNucleus", "NUCLEUS"),
    "ImagingFrequency": ("VisuAcqImagingFrequency", "BF1"),
    "Manufacturer": ("VisuManufacturer", "ORIGIN"),
}
_SEXES = {"MALE": "M", "FEMALE": "F"}


@dataclass(frozen=True)
class Place:
    """A reconstruction: number of its scan, its own number, and its folder."""

    scan: int
    number: int
    folder: Path

    @property
    def label(self) -> str:
        return f"{self.scan}_{self.number}"


def is_study(folder: Path) -> bool:
    """Whether a folder is a ParaVision study: it has a ``subject``, or a numbered scan with ``acqp`` or ``pdata``."""
    return (folder / "subject").is_file() or any(True for _ in scans(folder))


def scans(folder: Path) -> Iterator[tuple[int, Path]]:
    """The scans of a study by number."""
    numbered = sorted(
        (int(entry.name), entry)
        for entry in folder.iterdir()
        if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
    )
    for number, entry in numbered:
        if (entry / "acqp").is_file() or (entry / "method").is_file() or (entry / "pdata").is_dir():
            yield number, entry


def reconstructions(folder: Path) -> Iterator[Place]:
    """The reconstructions of a study's scans, by number."""
    for scan, entry in scans(folder):
        pdata = entry / "pdata"
        if not pdata.is_dir():
            continue
        found = sorted(
            (int(one.name), one)
            for one in pdata.iterdir()
            if one.name.isascii() and one.name.isdigit() and one.is_dir()
        )
        for number, one in found:
            yield Place(scan, number, one)


def study_fields(folder: Path) -> tuple[Fields, list[str]]:
    """The fields of a study, and a sentence for each parameter file that could not be read.

    Fields have DICOM's names where DICOM has one, and ``paravision:NAME`` for every parameter of ``subject`` and
    of the first scan's ``visu_pars``, ``acqp`` and ``method``.

    Raises:
        OSError: a file cannot be read now.
    """
    sources: list[Parameters] = []
    troubles: list[str] = []
    for path in _described_by(folder):
        try:
            sources.append(read_parameters(path))
        except UnreadableParameters as error:
            troubles.append(f"{path.parent.relative_to(folder)}/{error}")
    fields: dict[str, str] = {"Modality": "MR", "SeriesDescription": folder.name}
    for source in reversed(sources):
        for name in source:
            try:
                fields[PREFIX + name] = source.text(name)
            except UnreadableParameters as error:
                troubles.append(str(error))
    for name, parameters in NAMES.items():
        fields[name] = next((text for one in parameters if (text := fields.get(PREFIX + one, ""))), "")
    fields["PatientSex"] = _SEXES.get(fields["PatientSex"].upper(), "")
    version = fields.get(PREFIX + "VisuCreatorVersion", "")
    fields["SoftwareVersions"] = f"{fields.get(PREFIX + 'VisuCreator', 'ParaVision')} {version}".strip()
    started = next(
        (
            moment
            for name in ("SUBJECT_date", "VisuStudyDate", "VisuAcqDate", "ACQ_time")
            if (moment := parse_date(fields.get(PREFIX + name, "")))
        ),
        None,
    )
    fields["StudyDate"], fields["StudyTime"] = (
        (started.strftime("%Y%m%d"), started.strftime("%H%M%S")) if started else ("", "")
    )
    born = re.sub(
        r"\D",
        "",
        fields.get(PREFIX + "VisuSubjectBirthDate", "") or fields.get(PREFIX + "SUBJECT_dbirth", ""),
    )
    fields["PatientBirthDate"] = born if len(born) == 8 else ""
    fields["StudyInstanceUID"] = next(
        (
            uid
            for name in ("SUBJECT_study_instance_uid", "VisuStudyUid")
            if is_uid(uid := fields.get(PREFIX + name, "")) and uid
        ),
        "",
    )
    with_text = folder / "subject"
    if with_text.is_file():
        fields[SUBJECT] = with_text.read_bytes()[: 64 * 1024].decode("utf-8", "replace").replace("\0", "")
    return fields, troubles


def _described_by(folder: Path) -> Iterator[Path]:
    if (folder / "subject").is_file():
        yield folder / "subject"
    for place in reconstructions(folder):
        if (place.folder / "visu_pars").is_file():
            yield place.folder / "visu_pars"
            break
    for _, scan in scans(folder):
        for name in ("acqp", "method"):
            if (scan / name).is_file():
                yield scan / name
        break


def study_uid(folder: Path, fields: Fields, *names: str) -> str:
    """The study's UID: ParaVision's own, or one derived from ``names``."""
    return fields.get("StudyInstanceUID") or derived_uid(KIND, *names, folder.name)


def parse_date(text: str) -> datetime | None:
    """A date as ParaVision writes it: ``10:17:36 30 Nov 2011``, or ISO 8601 with milliseconds and a zone."""
    text = text.strip()
    if found := re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text):
        text, form = found[1], "%Y-%m-%dT%H:%M:%S"
    else:
        form = "%H:%M:%S %d %b %Y"
    try:
        return datetime.strptime(text, form)  # noqa: DTZ007 (the scanner's own)
    except ValueError:
        return None
