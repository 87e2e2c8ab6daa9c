"""A whole BIDS dataset: the images' files, and those that speak of all of them."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from .plan import File, LeftOut, Named, Plan, image_files, name_all
from .scan import Scan
from .sidecars import as_bytes

BIDS_VERSION = "1.9.0"
SOURCES = "imagetrove/sources.tsv"
"""Where each file comes from; ``imagetrove/`` is named in ``.bidsignore``."""

NONE = "n/a"


def plan(scans: Sequence[Scan], title: str, version: str) -> Plan:
    """All files of the dataset of some scans.

    The same scans give the same bytes: nothing of the time or the place of making is in them.

    Args:
        title: of the dataset.
        version: of this software.
    """
    named, left = name_all(scans)
    images = [file for one in named for file in image_files(one)]
    made = [
        File("dataset_description.json", content=_description(title, version)),
        File("README", content=_readme(title, named, left)),
        File(".bidsignore", content=b"imagetrove/\nmanifest.json\nSHA512SUMS\n"),
        *_participants(named),
        *_scans(named),
    ]
    listed = [
        File("imagetrove/left_out.tsv", content=_left_out(left)),
        File(SOURCES, content=sources([*made, *images], {one.scan.id: one.scan for one in named})),
    ]
    return Plan((*made, *images, *listed), named, left)


def tsv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A table as BIDS writes it; a tab or a line's end in a value becomes a space."""
    lines = [header, *rows]
    return "".join(
        "\t".join(re.sub(r"[\t\r\n]+", " ", str(value)) for value in line) + "\n" for line in lines
    ).encode()


def _description(title: str, version: str) -> bytes:
    return as_bytes(
        {
            "Name": title,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "GeneratedBy": [
                {
                    "Name": "tardis_imagetrove",
                    "Version": version,
                    "Description": "Named and collected from archived DICOM series of MyTARDIS.",
                }
            ],
        }
    )


def _participants(named: Sequence[Named]) -> list[File]:
    by_person: dict[str, list[Scan]] = defaultdict(list)
    for one in named:
        by_person[one.place.participant].append(one.scan)
    rows = []
    for person, scans in sorted(by_person.items()):
        sex = next(
            (text for scan in scans if (text := scan.get("PatientSex").upper()) in ("M", "F", "O")), NONE
        )
        rows.append((f"sub-{person}", _age(scans), sex))
    columns = {
        "age": {"Description": "Age at the first scan; n/a if it is not known or above 89", "Units": "years"},
        "sex": {
            "Description": "Sex as it was entered at the scanner",
            "Levels": {"M": "male", "F": "female", "O": "other"},
        },
    }
    return [
        File("participants.tsv", content=tsv(("participant_id", *columns), rows)),
        File("participants.json", content=as_bytes(columns)),
    ]


def _age(scans: Sequence[Scan]) -> str:
    """Years by PatientAge, whose unit is its last letter (PS3.5 section 6.2)."""
    for scan in sorted(scans, key=lambda one: (one.get("StudyDate"), one.id)):
        if found := re.fullmatch(r"(\d{1,3})([DWMY])", scan.get("PatientAge").upper()):
            years = int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[found[2]]
            return NONE if years > 89 else f"{years:.3g}" if years < 3 else f"{years:.0f}"
    return NONE


def _scans(named: Sequence[Named]) -> list[File]:
    shifted = any(one.scan.dates == "MODIFIED" for one in named)
    by_session: dict[tuple[str, str], list[Named]] = defaultdict(list)
    for one in named:
        by_session[one.place.participant, one.place.session].append(one)
    found = []
    for (person, session), images in sorted(by_session.items()):
        parts = [f"sub-{person}", *([f"ses-{session}"] if session else [])]
        header = ["filename", "acq_time", *(["dates"] if shifted else [])]
        rows = []
        for one in images:
            name = f"{one.stem.removeprefix('/'.join(parts) + '/')}.nii.gz"
            moment = acquired(one.scan)
            dates = NONE if moment == NONE else "shifted" if one.scan.dates == "MODIFIED" else "true"
            rows.append((name, moment, *([dates] if shifted else [])))
        found.append(
            File("/".join([*parts, "_".join([*parts, "scans.tsv"])]), content=tsv(header, sorted(rows)))
        )
    if not found:
        return []
    columns: dict[str, object] = {
        "acq_time": {
            "Description": "When the first instance of the series was acquired, by the scanner's clock"
        }
    }
    if shifted:
        columns["dates"] = {
            "Description": "Whether acq_time is as the scanner recorded it",
            "Levels": {
                "true": "as the scanner recorded it",
                "shifted": "moved by de-identification, each participant by a constant time of their own",
            },
        }
    return [File("scans.json", content=as_bytes(columns)), *found]


def acquired(scan: Scan) -> str:
    """When a series was acquired, as BIDS writes it; ``n/a`` if it does not say, or de-identification removed it."""
    if scan.dates == "REMOVED":
        return NONE
    for date, time in (
        ("AcquisitionDate", "AcquisitionTime"),
        ("SeriesDate", "SeriesTime"),
        ("StudyDate", "StudyTime"),
    ):
        clock = re.split(r"[^\d:]", scan.get(time))[0].replace(":", "")
        text = re.sub(r"[.:]", "", scan.get(date)) + clock[:6]
        try:
            # Without a day or seconds there is none; some systems write what no clock shows.
            moment = datetime.strptime(text, "%Y%m%d%H%M%S") if len(text) == 14 else None  # noqa: DTZ007 (the scanner's)
        except ValueError:
            moment = None
        if moment is not None:
            return moment.isoformat()
    return NONE


def _readme(title: str, named: Sequence[Named], left: Sequence[LeftOut]) -> bytes:
    people = {one.place.participant for one in named}
    series = {one.scan.id for one in named}
    without = {one.scan.id for one in left}
    hidden = any(one.scan.deidentified for one in named)
    dates = {one.scan.dates for one in named}
    text = [
        title,
        "=" * len(title),
        "",
        f"{_count(len(people), 'participant')}, {len(series)} series, {_count(len(named), 'image')}, collected from"
        " MyTARDIS by tardis_imagetrove.",
        "",
        "Images and gradients are the files that MyTARDIS keeps, byte for byte. Sidecars are those of the conversion,",
        "with what BIDS requires added and what it does not accept taken away. `imagetrove/sources.tsv` names the",
        "series, the file and the checksum that each file comes from; `imagetrove/left_out.tsv` lists what is not here",
        f"and why ({len(without)} series in whole or in part).",
    ]
    if hidden:
        text += [
            "",
            "Scans were de-identified by DICOM PS3.15: participants' labels are pseudonyms, and sidecars have the codes of",
            "the method (DeidentificationMethodCodeSequence). Faces are not removed from images.",
        ]
    if "MODIFIED" in dates:
        text += [
            "Dates are shifted where scans.tsv says so; the time between scans of a participant is true."
        ]
    if "REMOVED" in dates:
        text += ["Dates were removed where scans.tsv has none."]
    return ("\n".join(text) + "\n").encode()


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _left_out(left: Sequence[LeftOut]) -> bytes:
    rows = sorted((one.scan.title, one.image or NONE, one.reason, one.scan.uid or NONE) for one in left)
    return tsv(("series", "image", "reason", "SeriesInstanceUID"), rows)


def sources(files: Iterable[File], scans: dict[int, Scan]) -> bytes:
    """Where each file comes from, with its size and checksum."""
    rows = []
    for file in files:
        sha512 = file.source.sha512 if file.source else hashlib.sha512(file.content).hexdigest()
        scan = scans.get(file.of)
        rows.append(
            (
                file.name,
                file.size,
                sha512,
                file.source.id if file.source else NONE,
                file.source.filename if file.source else NONE,
                scan.title if scan else NONE,
                (scan.uid or NONE) if scan else NONE,
            )
        )
    header = ("name", "size", "sha512", "datafile", "filename", "series", "SeriesInstanceUID")
    return tsv(header, sorted(rows))
