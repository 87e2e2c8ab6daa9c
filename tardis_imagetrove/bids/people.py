"""Participants and sessions of a dataset: labels that are stable, and never one for two people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .names import digest, label
from .scan import Scan


@dataclass(frozen=True)
class Place:
    """Whose scan it is and of which session; ``session`` is empty where a dataset has none."""

    participant: str
    session: str = ""


@dataclass(frozen=True)
class Placed:
    """Where each scan belongs, by its id, and why others belong nowhere."""

    places: Mapping[int, Place]
    problems: Mapping[int, str]


def labels(values: Iterable[str]) -> dict[str, str]:
    """A label for each value, of its letters and digits; no two are equal, in capitals or not.

    Where several values have the same letters and digits, each of them gets a part of its checksum, so that no label
    that stood for one of them ever comes to stand for another.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for value in sorted(set(values)):
        alike[label(value).lower()].append(value)
    found = {group[0]: label(group[0]) for group in alike.values() if len(group) == 1}
    taken = set(alike)
    for value in sorted(value for group in alike.values() if len(group) > 1 for value in group):
        candidates = (f"{label(value)}x{digest(value, length)}" for length in range(6, 65))
        found[value] = next(one for one in candidates if one.lower() not in taken)
        taken.add(found[value].lower())
    return found


def place(scans: Sequence[Scan], named_sessions: Mapping[int, str]) -> Placed:
    """Participants by the mapping's field, sessions by its field, by the protocol's name, or by study.

    Sessions are numbered as soon as one participant has more than one study.

    Args:
        named_sessions: by scan, the session that the protocol's name has.
    """
    problems: dict[int, str] = {}
    by_person: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        if value := scan.get(scan.mapping.participant):
            by_person[value].append(scan)
        else:
            problems[scan.id] = (
                f"{scan.mapping.participant} is empty, but it identifies the participant; choose another field in the instrument's BIDS settings"
                " field"
            )
    for value, theirs in list(by_person.items()):
        born = {scan.get("PatientBirthDate") for scan in theirs} - {""}
        if len(born) > 1 and not any(scan.deidentified for scan in theirs):
            del by_person[value]
            field = theirs[0].mapping.participant
            for scan in theirs:
                problems[scan.id] = (
                    f"its {field} stands for {len(born)} people: their birth dates differ; correct them, or name"
                    " another field for participants"
                )
    people = labels(by_person)
    sessions: dict[int, str] = {}
    for theirs in by_person.values():
        sessions.update(_sessions(theirs, named_sessions))
    several = any(
        len({sessions[scan.id] for scan in theirs}) > 1
        or any(_is_named(scan, named_sessions) for scan in theirs)
        for theirs in by_person.values()
    )
    return Placed(
        {
            scan.id: Place(people[value], sessions[scan.id] if several else "")
            for value, theirs in by_person.items()
            for scan in theirs
        },
        problems,
    )


def _is_named(scan: Scan, named: Mapping[int, str]) -> bool:
    return bool(named.get(scan.id) or (scan.mapping.session and scan.get(scan.mapping.session)))


def _sessions(scans: Sequence[Scan], named: Mapping[int, str]) -> dict[int, str]:
    """By scan, the session's label: as named in its study, or the study's number among the person's."""
    studies: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        studies[scan.get("StudyInstanceUID") or f"scan {scan.id}"].append(scan)

    def begun(study: list[Scan]) -> tuple[str, int]:
        return (
            min(f"{scan.get('StudyDate')}{scan.get('StudyTime')}" for scan in study),
            min(s.id for s in study),
        )

    ordered = sorted(studies.values(), key=begun)
    by_field = labels(
        scan.get(scan.mapping.session)
        for scan in scans
        if scan.mapping.session and scan.get(scan.mapping.session)
    )
    found: dict[int, str] = {}
    for study in ordered:
        of_study = next((named[scan.id] for scan in study if named.get(scan.id)), "")
        for scan in study:
            value = scan.get(scan.mapping.session) if scan.mapping.session else ""
            if session := (named.get(scan.id) or by_field.get(value, "") or of_study):
                found[scan.id] = session
    taken = {session.lower() for session in found.values()}
    for number, study in enumerate(ordered, 1):
        session = f"{number:02d}"
        if session in taken:
            session = f"{session}x{digest(study[0].get('StudyInstanceUID') or str(study[0].id), 6)}"
        for scan in study:
            found.setdefault(scan.id, session)
    return found
