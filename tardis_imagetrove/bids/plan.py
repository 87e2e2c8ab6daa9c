"""The plan of a BIDS dataset: every file with its source, and what is left out and why."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from . import guess, reproin, sidecars
from .mapping import Rule
from .names import KINDS, Name, NotBids
from .people import Place, place
from .reproin import ReproIn
from .scan import Image, Scan, Source

FIELD_MAPS = frozenset(
    {"phasediff", "phase1", "phase2", "magnitude1", "magnitude2", "magnitude", "fieldmap", "epi"}
)
_TO_CORRECT = frozenset(
    {("func", "bold"), ("func", "sbref"), ("dwi", "dwi"), ("dwi", "sbref"), ("perf", "asl")}
)


@dataclass(frozen=True)
class File:
    """One file of the dataset: a file of MyTARDIS, or bytes that were made for it.

    Attributes:
        of: id of the series that it is made of; 0 for files of the dataset as a whole.
    """

    name: str
    source: Source | None = None
    content: bytes = b""
    of: int = 0

    @property
    def size(self) -> int:
        return self.source.size if self.source else len(self.content)


@dataclass(frozen=True)
class Named:
    """An image with its name.

    Attributes:
        stem: path in the dataset, without extension.
        how: why it has this name.
        notes: what was changed in its sidecar, or is not sure.
    """

    scan: Scan
    image: Image
    place: Place
    name: Name
    how: str
    sidecar: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    context: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        return self.name.stem(self.place.participant, self.place.session)


@dataclass(frozen=True)
class LeftOut:
    """A series, or one of its images, that is not in the dataset."""

    scan: Scan
    reason: str
    image: str = ""


@dataclass(frozen=True)
class Plan:
    """All of a dataset."""

    files: tuple[File, ...]
    named: tuple[Named, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def participants(self) -> list[str]:
        return sorted({one.place.participant for one in self.named})

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class _Draft:
    """A named image before clashes are settled: ``repeats`` if the same name means the same thing scanned again."""

    named: Named
    repeats: bool = False
    run: str = ""  # by ReproIn: + or =


class _LeftOut(Exception):
    """This image is left out; the text says why."""


def name_all(scans: Sequence[Scan]) -> tuple[tuple[Named, ...], tuple[LeftOut, ...]]:
    """Names for all images of the scans, and what has none."""
    left: list[LeftOut] = []
    usable: list[Scan] = []
    for scan in scans:
        if scan.problem:
            left.append(LeftOut(scan, scan.problem))
        else:
            usable.append(scan)
    said = {
        scan.id: found for scan in usable if (found := _reproin(scan)) and not scan.mapping.find(scan.fields)
    }
    placed = place(usable, {key: found.session for key, found in said.items() if found.session})
    by_session: dict[Place, list[Scan]] = defaultdict(list)
    for scan in usable:
        if scan.id in placed.problems:
            left.append(LeftOut(scan, placed.problems[scan.id]))
        else:
            by_session[placed.places[scan.id]].append(scan)
    named: list[Named] = []
    for where in sorted(by_session, key=lambda one: (one.participant, one.session)):
        drafts: list[_Draft] = []
        for scan in sorted(by_session[where], key=_order):
            drafts += _draft(scan, where, said.get(scan.id), left)
        named += _linked(_settled(_field_map_echoes(drafts), left))
    return tuple(named), tuple(sorted(left, key=lambda one: (one.scan.id, one.image)))


def _order(scan: Scan) -> tuple[str, int, int]:
    return (f"{scan.get('StudyDate')}{scan.get('StudyTime')}", scan.number, scan.id)


def _reproin(scan: Scan) -> ReproIn | None:
    # The protocol's name is what was chosen; a description may have been changed by the scanner (_SBRef).
    protocol, description = (
        reproin.parse(scan.get("ProtocolName")),
        reproin.parse(scan.get("SeriesDescription")),
    )
    return description or protocol


def _draft(scan: Scan, where: Place, said: ReproIn | None, left: list[LeftOut]) -> Iterator[_Draft]:
    """Names for a scan's images, as far as the scan alone decides."""
    drafts = []
    for image in scan.images:
        try:
            drafts.append(_of_image(scan, image, where, said))
        except (_LeftOut, NotBids) as reason:
            left.append(LeftOut(scan, str(reason), image.label))
    yield from _told_apart(drafts)


def _of_image(scan: Scan, image: Image, where: Place, said: ReproIn | None) -> _Draft:
    if image.label and re.search(r"(?:^|_)(Eq|Tilt|ROI)", image.label):
        raise _LeftOut(
            "interpolated, or drawn from an overlay: the scanner's own voxels are in another image"
        )
    context: tuple[str, ...] = ()
    extra: dict[str, object] = {}
    repeats, run = False, ""
    if found := scan.mapping.find(scan.fields):
        rule, groups = found
        if rule.kind is None:
            raise _LeftOut(rule.why or "a rule of the mapping table leaves it out")
        name, how = rule.name(groups), f"rule in line {rule.line}"
        context, extra = _context(rule, image), dict(rule.sidecar)
        repeats = "run" in name.entities
    elif said is not None:
        name, how = _by_reproin(scan, image, said), "ReproIn"
        repeats, run = said.run not in ("+", "="), said.run if said.run in ("+", "=") else ""
    else:
        suggestion = guess.suggest(scan, image)
        if suggestion.name is None:
            raise _LeftOut(suggestion.why)
        name, how = suggestion.name, suggestion.why
    if name.datatype != "fmap" and guess.is_phase(scan, image) and "part" in _may(name):
        name = name.having(part="phase")
    fields, notes = sidecars.mended({**image.sidecar, **extra}, name, image)
    if name.datatype == "pet":
        fields = sidecars.with_pet_times(fields, scan)
    if name.datatype == "func" and "task" in name.entities:
        fields.setdefault("TaskName", name.entities["task"])
    if name.entities.get("task") == "unnamed":
        notes.append("its name does not say which task it is")
    _check_shape(name, image)
    named = Named(scan, image, where, name, how, fields, (*scan.notes, *notes), context)
    return _Draft(named, repeats, run)


def _may(name: Name) -> frozenset[str]:
    return KINDS[name.datatype, name.suffix].may


def _by_reproin(scan: Scan, image: Image, said: ReproIn) -> Name:
    if said.duplicate:
        raise _LeftOut("cancelled: its name marks it as repeated (__dup)")
    if said.scout:
        raise _LeftOut("localizer: BIDS has no place for it")
    if kind := guess.derived(scan, image):
        raise _LeftOut(f"computed from other images ({kind})")
    entities = dict(said.entities)
    if said.run and said.run not in "+=":
        entities["run"] = said.run
    suffix = said.suffix
    if not suffix and said.datatype == "fmap":
        suffix = "phasediff" if guess.is_phase(scan, image) else "epi" if "dir" in entities else "magnitude1"
    elif not suffix:
        suggestion = guess.suggest(scan, image)
        if suggestion.name is None or suggestion.name.datatype != said.datatype:
            raise _LeftOut(f"its name says {said.datatype}, and nothing says which kind of image it is")
        suffix = suggestion.name.suffix
    if said.datatype == "func":
        entities.setdefault("task", "unnamed")
    if suffix == "epi" and "dir" not in entities and (found := guess.direction(scan, image)):
        entities["dir"] = found
    return Name(said.datatype, suffix, entities).known().checked()


def _context(rule: Rule, image: Image) -> tuple[str, ...]:
    """What each volume is: the rule's list, whose end repeats after calibration volumes."""
    given, count = rule.context, image.volumes
    if not given or len(given) == count:
        return given
    start = next((i for i, one in enumerate(given) if one != "m0scan"), len(given))
    first, pattern = given[:start], given[start:]
    rest = count - len(first)
    if not pattern or rest < 0 or rest % len(pattern):
        raise _LeftOut(f"aslcontext of line {rule.line} does not match its {count} volumes")
    return (*first, *pattern * (rest // len(pattern)))


def _check_shape(name: Name, image: Image) -> None:
    kind = (name.datatype, name.suffix)
    if kind in (("func", "bold"), ("func", "cbv")) and image.shape and image.volumes < 2:
        raise _LeftOut("one volume: BIDS has a bold over time only")
    if name.datatype == "anat" and image.volumes > 1:
        raise _LeftOut(f"{image.volumes} volumes: BIDS has one in a structural image")
    if kind == ("dwi", "dwi") and (image.bval is None or image.bvec is None):
        raise _LeftOut("no b-values and gradients: BIDS has no dwi without them")


def _told_apart(drafts: Sequence[_Draft]) -> list[_Draft]:
    """Images of one scan with one name get echo, part or, of field maps, numbers."""
    keyed: dict[str, list[_Draft]] = defaultdict(list)
    for draft in drafts:
        keyed[str(draft.named.name.without("part"))].append(draft)
    found = []
    for group in keyed.values():
        echoes = sorted({echo for draft in group if (echo := _echo(draft)) is not None})
        complex_ = len({guess.is_phase(d.named.scan, d.named.image) for d in group}) > 1
        for draft in group:
            name = draft.named.name
            echo = _echo(draft)
            if len(echoes) > 1 and echo is not None and name.datatype in ("func", "anat"):
                name = _multi_echo(name, echoes.index(echo) + 1, draft.named.scan)
            if complex_ and "part" in _may(name):
                name = name.having(
                    part="phase" if guess.is_phase(draft.named.scan, draft.named.image) else "mag"
                )
            elif "part" in name.entities and "part" not in _may(name):
                name = name.without("part")
            found.append(_renamed(draft, name))
    return found


def _echo(draft: _Draft) -> float | None:
    return guess.number(draft.named.image, "EchoTime")


def _multi_echo(name: Name, number: int, scan: Scan) -> Name:
    if name.datatype == "anat" and name.suffix in ("T2starw", "T1w", "T2w", "PDw"):
        gradient = "GR" in scan.get("ScanningSequence").upper().split("\\") or name.suffix == "T2starw"
        name = replace(name, suffix="MEGRE" if gradient else "MESE")
    return name.having(echo=str(number)) if "echo" in _may(name) else name


def _renamed(draft: _Draft, name: Name, **changes: object) -> _Draft:
    return replace(draft, named=replace(draft.named, name=name, **changes))  # type: ignore[arg-type]


def _field_map_echoes(drafts: list[_Draft]) -> list[_Draft]:
    """Which magnitude is of the first echo and which of the second, and the echo times of a phase difference.

    A vendor sends magnitudes and phases as one scan or as two that follow each other.
    """
    found = list(drafts)
    for group in _runs(
        found, lambda d: d.named.name.datatype == "fmap" and d.named.name.suffix in FIELD_MAPS - {"epi"}
    ):
        magnitudes = [i for i in group if found[i].named.name.suffix.startswith("magnitude")]
        phases = [i for i in group if found[i].named.name.suffix.startswith("phase")]
        for indices, suffixes in ((magnitudes, ("magnitude1", "magnitude2")), (phases, ("phase1", "phase2"))):
            for part in _batches(found, indices):
                echoes = sorted({echo for i in part if (echo := _echo(found[i])) is not None})
                if len(echoes) != 2 or len(part) != 2:
                    continue
                for i in part:
                    suffix = suffixes[echoes.index(_echo(found[i]) or 0.0)]
                    found[i] = _renamed(found[i], replace(found[i].named.name, suffix=suffix))
        times: list[float] = []
        for i in group:
            named = found[i].named
            if named.name.suffix == "magnitude1" or (named.name.suffix == "magnitude2" and len(times) != 1):
                times = []
            if named.name.suffix.startswith("magnitude") and (echo := _echo(found[i])) is not None:
                times = sorted({*times, echo})[:2]
            if named.name.suffix == "phasediff" and len(times) == 2:
                fields = {"EchoTime1": times[0], "EchoTime2": times[1], **named.sidecar}
                found[i] = _renamed(found[i], named.name, sidecar=fields)
    return found


def _batches(drafts: Sequence[_Draft], indices: Sequence[int]) -> Iterator[list[int]]:
    """Images of a field map: of each scan of several images; else scans that follow each other, by twos."""
    rest: list[int] = []
    by_scan: dict[int, list[int]] = defaultdict(list)
    for i in indices:
        by_scan[drafts[i].named.scan.id].append(i)
    for part in by_scan.values():
        if len(part) > 1:
            yield part
        else:
            rest += part
    for start in range(0, len(rest) - 1, 2):
        yield rest[start : start + 2]


def _runs(drafts: Sequence[_Draft], wanted: Callable[[_Draft], bool]) -> Iterator[list[int]]:
    """Indices of drafts that follow each other and are wanted."""
    group: list[int] = []
    for i, draft in enumerate(drafts):
        if wanted(draft):
            group.append(i)
        elif group:
            yield group
            group = []
    if group:
        yield group


def _settled(drafts: Sequence[_Draft], left: list[LeftOut]) -> list[Named]:
    """Run numbers where names clash; of what was repeated under its own name, the last."""
    whole: list[_Draft] = []
    for draft in drafts:
        named = draft.named
        if lacking := sidecars.missing(named.sidecar, named.name):
            kind = f"{named.name.datatype}/{named.name.suffix}"
            reason = f"BIDS requires {', '.join(lacking)} in the sidecar of {kind}; give them in a rule of the mapping table"
            left.append(LeftOut(named.scan, reason, named.image.label))
        elif named.name.suffix == "asl" and len(named.context) != max(named.image.volumes, 1):
            reason = "BIDS requires what each volume of perf/asl is; give aslcontext in a rule of the mapping table"
            left.append(LeftOut(named.scan, reason, named.image.label))
        else:
            whole.append(draft)
    whole = _counted(whole)
    alike: dict[str, list[_Draft]] = defaultdict(list)
    for draft in whole:
        alike[str(draft.named.name).lower()].append(draft)
    dropped: dict[int, LeftOut] = {}
    shorter: dict[int, str] = {}
    runs: dict[int, str] = {}
    for group in alike.values():
        if len(group) == 1:
            continue
        if all(draft.repeats for draft in group):
            last = group[-1].named.scan
            for draft in group[:-1]:
                if draft.named.scan.id == last.id:
                    continue
                reason = f"cancelled: scanned again under the same name as {last.title}"
                dropped[id(draft)] = LeftOut(draft.named.scan, reason, draft.named.image.label)
                if draft.named.image.volumes > group[-1].named.image.volumes:
                    shorter[id(group[-1])] = (
                        f"{draft.named.scan.title}, scanned before under the same name and left out, has"
                        f" {draft.named.image.volumes} volumes; this has {group[-1].named.image.volumes}"
                    )
            group = [draft for draft in group if id(draft) not in dropped]
        if len(group) > 1:
            for number, draft in enumerate(group, 1):
                runs[id(draft)] = f"{number:02d}"
    left += dropped.values()
    settled = []
    for draft in whole:
        if id(draft) in dropped:
            continue
        name = draft.named.name
        if id(draft) in runs:
            name = name.having(run=runs[id(draft)])
        notes = (*draft.named.notes, *([shorter[id(draft)]] if id(draft) in shorter else []))
        settled.append(replace(draft.named, name=name, notes=notes))
    return _unique(settled, left)


def _counted(drafts: Sequence[_Draft]) -> list[_Draft]:
    """ReproIn's ``run+`` is the next run of a name, ``run=`` the same."""
    counts: dict[str, int] = defaultdict(int)
    of_scan: dict[tuple[str, int], str] = {}
    found = []
    for draft in drafts:
        name = draft.named.name
        key = str(name).lower()
        if draft.run:
            scan = (key, draft.named.scan.id)
            if scan not in of_scan:
                counts[key] = max(1, counts[key] + (draft.run == "+"))
                of_scan[scan] = f"{counts[key]:02d}"
            draft = replace(_renamed(draft, name.having(run=of_scan[scan])), repeats=True)
        elif "run" in name.entities:
            key = str(name.without("run")).lower()
            counts[key] = max(counts[key], int(name.entities["run"]))
        found.append(draft)
    return found


def _unique(named: Sequence[Named], left: list[LeftOut]) -> list[Named]:
    """No two files with one name, also where a file system does not tell capitals apart."""
    taken: dict[str, Named] = {}
    for one in named:
        other = taken.setdefault(one.stem.lower(), one)
        if other is not one:
            left.append(
                LeftOut(one.scan, f"{other.scan.title} has the same name, {one.name}", one.image.label)
            )
    return list(taken.values())


def _linked(named: Sequence[Named]) -> list[Named]:
    """Field maps with what they are for: the nearest before an image, of the same study, position and shim."""
    groups: list[list[int]] = []
    for i, one in enumerate(named):
        if one.name.datatype != "fmap" or one.name.suffix not in FIELD_MAPS:
            continue
        former = named[groups[-1][-1]] if groups else None
        if (
            former is not None
            and i == groups[-1][-1] + 1
            and _family(former) == _family(one)
            and _agree(former, one)
            and not any(named[j].name == one.name for j in groups[-1])
            and not _repeats_of(named, groups[-1], one)
        ):
            groups[-1].append(i)
        else:
            groups.append([i])
    targets: dict[int, list[int]] = defaultdict(list)
    for i, one in enumerate(named):
        if (one.name.datatype, one.name.suffix) not in _TO_CORRECT:
            continue
        fitting = [g for g, group in enumerate(groups) if _fits([named[j] for j in group], one)]
        before = [g for g in fitting if groups[g][0] < i]
        if fitting:
            targets[before[-1] if before else fitting[0]].append(i)
    changed = list(named)
    for g, members in targets.items():
        identifier = f"fmap{g + 1:02d}"
        for i in members:
            changed[i] = replace(changed[i], sidecar={**changed[i].sidecar, "B0FieldSource": identifier})
        intended = [_within_participant(named[i]) for i in members]
        for j in groups[g]:
            sidecar = {**changed[j].sidecar, "B0FieldIdentifier": identifier, "IntendedFor": intended}
            changed[j] = replace(changed[j], sidecar=sidecar)
    return changed


def _within_participant(named: Named) -> str:
    return named.stem.partition("/")[2] + ".nii.gz"


def _family(named: Named) -> str:
    return "epi" if named.name.suffix == "epi" else "gradient echo"


def _repeats_of(named: Sequence[Named], group: Iterable[int], one: Named) -> bool:
    """Whether a field map of another run, or the same direction once more, begins."""
    for j in group:
        other = named[j]
        if other.name.entities.get("run") != one.name.entities.get("run") or other.name.entities.get(
            "acq"
        ) != one.name.entities.get("acq"):
            return True
    return False


def _fits(group: Sequence[Named], image: Named) -> bool:
    """Whether an image can be corrected by it: two directions with the image's own, a phase difference, or a field."""
    if not all(_agree(one, image) for one in group):
        return False
    suffixes = {one.name.suffix for one in group}
    if suffixes == {"epi"}:
        return len({one.sidecar.get("PhaseEncodingDirection") for one in (*group, image)} - {None}) > 1
    return bool(suffixes & {"phasediff", "fieldmap"}) or {"phase1", "phase2"} <= suffixes


def _agree(one: Named, other: Named) -> bool:
    """Whether two images are of one study, one position and, where it is known, one shim."""
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if one.scan.get(name) and other.scan.get(name) and one.scan.get(name) != other.scan.get(name):
            return False
    shims = one.sidecar.get("ShimSetting"), other.sidecar.get("ShimSetting")
    return not (shims[0] and shims[1]) or shims[0] == shims[1]


def image_files(named: Named) -> Iterator[File]:
    """The files of an image."""
    of = named.scan.id
    yield File(f"{named.stem}.nii.gz", named.image.nifti, of=of)
    yield File(f"{named.stem}.json", content=sidecars.as_bytes(named.sidecar), of=of)
    if (named.name.datatype, named.name.suffix) == ("dwi", "dwi"):
        yield File(f"{named.stem}.bval", named.image.bval, of=of)
        yield File(f"{named.stem}.bvec", named.image.bvec, of=of)
    if named.context:
        rows = "\n".join(("volume_type", *named.context)) + "\n"
        yield File(named.stem.rpartition("_")[0] + "_aslcontext.tsv", content=rows.encode(), of=of)
