"""What a scan most likely is, by its name and its sequence, where neither a rule nor ReproIn says it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .names import KINDS, Name, label
from .scan import Image, Scan

SCOUT = re.compile(
    r"localis?zer|localizer|scout|survey|3[ -]?plane|plane[ _-]?loc|smartbrain|calibration|asset cal", re.I
)
_SBREF = re.compile(r"sb[_ -]?ref\b|single[_ -]?band[_ -]?ref", re.I)
_FMAP = re.compile(
    r"field[ _-]?map|fmap|gre_field|b0[ _-]?map|topup|pepolar|distortion|spin[ _-]?echo[ _-]?field|sefm", re.I
)
_ASL = re.compile(r"(?<![a-z])p?c?asl(?![a-z])|arterial[ _-]spin", re.I)
_DWI = re.compile(r"dwi|dti|diff|hardi|noddi|ep2d_se_b0|_b\d{3,4}", re.I)
_BOLD = re.compile(r"bold|fmri|func|resting|\brest\b|_rest|rest_|task|epi|ep2d|rsfmri", re.I)
_T1W = re.compile(r"mp[_ -]?rage|\bt1|_t1|t1w|bravo|fspgr|spgr|tfl|vibe|tfe", re.I)
_T2W = re.compile(r"\bt2(?!\*|[ _-]?star)|_t2(?!\*|[ _-]?star)|t2w|t2_?(space|tse|fse|cube|vista)", re.I)
_T2STAR = re.compile(r"t2[ _-]?(\*|star)|swi\b|swan|medic|flash2d|hemo", re.I)
_FLAIR = re.compile(r"flair|tirm|dark[ _-]?fluid", re.I)
_PDW = re.compile(r"\bpd\b|pdw|proton[ _-]?density|_pd_|^pd_", re.I)
_ANGIO = re.compile(r"tof|angio|\bmra\b|_mra", re.I)
_DIRECTION = re.compile(r"(?<![A-Za-z])(AP|PA|LR|RL|SI|IS)(?![A-Za-z])|(?:^|[_-])(ap|pa|lr|rl)(?=$|[_-])")
_MAP = re.compile(r"t[12]\*?[ _-]?(map|rho)|[_ -]map(s|ping)?\b|molli|mapit|quant", re.I)
_PERFUSION = re.compile(r"perf(?!ect)|(?<![a-z])d(sc|ce)(?![a-z])", re.I)
_REST = re.compile(r"(?<![a-z])(rest(ing)?(?![a-z])|rs[-_ ]?(fmri|bold))|restingstate", re.I)
_AXES = {"i": "LR", "i-": "RL", "j": "PA", "j-": "AP", "k": "IS", "k-": "SI"}

#: Parts of ImageType that say an image was computed from others, in words.
DERIVED = {
    "ADC": "apparent diffusion coefficient",
    "FA": "fractional anisotropy",
    "EXP": "exponential diffusion",
    "TRACEW": "trace-weighted diffusion",
    "TRACE": "trace-weighted diffusion",
    "TENSOR": "diffusion tensor",
    "COLFA": "coloured anisotropy",
    "MPR": "reformatted",
    "REFORMATTED": "reformatted",
    "PROJECTION IMAGE": "projection",
    "MIP": "maximum intensity projection",
    "MINIP": "minimum intensity projection",
    "MOCO": "motion-corrected",
    "T_MAP": "statistical map",
    "MNIP": "minimum intensity projection",
    "SUBTRACTION": "subtraction",
    "POST_PROCESSED": "processed",
    "RCBF": "relative blood flow",
    "ASL_PERFUSION": "perfusion map",
    "CBF": "blood flow",
    "SCREEN SAVE": "screen capture",
}


@dataclass(frozen=True)
class Suggestion:
    """A name with the reason for it, or only the reason why there is none."""

    name: Name | None
    why: str


def text_of(scan: Scan) -> str:
    return " ".join(filter(None, (scan.get("SeriesDescription"), scan.get("ProtocolName"))))


def kinds_of(scan: Scan, image: Image) -> frozenset[str]:
    """The parts of ImageType, in capitals: the image's own, else the series'."""
    own = image.sidecar.get("ImageType")
    parts = own if isinstance(own, list) else scan.get("ImageType").split("\\")
    return frozenset(str(part).strip().upper() for part in parts)


def number(image: Image, key: str) -> float | None:
    """A number of the sidecar, in BIDS's units (seconds, degrees); ``None`` if it has none."""
    value = image.sidecar.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def is_phase(scan: Scan, image: Image) -> bool:
    return bool(kinds_of(scan, image) & {"P", "PHASE", "PHASE MAP"}) or image.label.endswith("ph")


def direction(scan: Scan, image: Image) -> str:
    """The direction of phase encoding, as names have it: ``AP``; empty if nothing says it."""
    if found := _DIRECTION.search(text_of(scan)):
        return (found[1] or found[2]).upper()
    return _AXES.get(str(image.sidecar.get("PhaseEncodingDirection", "")), "")


def task(scan: Scan) -> str:
    """The task that a functional scan's name says."""
    text = text_of(scan)
    if found := re.search(r"task[-_ ]?([a-zA-Z0-9]+)", text, re.I):
        return label(found[1])
    if _REST.search(text):
        return "rest"
    words = re.sub(
        r"bold|fmri|func(tional)?|ep2d|epi|moco|mb\d+|sms\d*|run[-_ ]?\d*|task|\d+mm|tr\d+|sb[-_ ]?ref|"
        r"(?<![a-z])(AP|PA|LR|RL)(?![a-z])",
        " ",
        scan.get("SeriesDescription") or scan.get("ProtocolName"),
        flags=re.I,
    )
    return label(words)


def derived(scan: Scan, image: Image) -> str:
    """What kind of computed image it is, in words; empty if it is the scanner's own."""
    kinds = kinds_of(scan, image)
    if "UNI" in kinds:
        return ""
    known = sorted(DERIVED[kind] for kind in kinds & DERIVED.keys())
    if known and ("DERIVED" in kinds or "MOCO" in kinds or "T_MAP" in kinds):
        return known[0]
    return "secondary" if {"DERIVED", "SECONDARY"} <= kinds else ""


def suggest(scan: Scan, image: Image) -> Suggestion:
    """What an image of a series most likely is."""
    modality = scan.get("Modality").upper()
    text = text_of(scan)
    if modality == "PT":
        return Suggestion(Name("pet", "pet"), "modality PT")
    if modality == "CT":
        return Suggestion(None, "BIDS has no place for CT")
    if modality != "MR":
        return Suggestion(None, f"BIDS has no place for modality {modality or 'unknown'}")
    if SCOUT.search(text):
        return Suggestion(None, "localizer: BIDS has no place for it")
    if kind := derived(scan, image):
        return Suggestion(None, f"computed from other images ({kind})")
    return _of_mr(scan, image, text)


def _of_mr(scan: Scan, image: Image, text: str) -> Suggestion:
    sequence = scan.get("ScanningSequence").upper().split("\\")
    planar = "EP" in sequence or bool(
        re.search(r"ep2d|epfid|epse|(?<![a-z])epi", _sequence_names(scan), re.I)
    )
    weighted = image.bval is not None and image.bvec is not None
    if _FMAP.search(text) and not (weighted and image.volumes > 6):
        return _field_map(scan, image, planar)
    if _ASL.search(text):
        return Suggestion(Name("perf", "asl"), "arterial spin labelling by its name")
    if _PERFUSION.search(text) and not weighted:
        return Suggestion(
            None, "perfusion whose name does not say ASL: BIDS has no other; add a rule if it is ASL"
        )
    if weighted or (_DWI.search(text) and planar):
        if _SBREF.search(text):
            return Suggestion(_directed(Name("dwi", "sbref"), scan, image), "diffusion reference by its name")
        if weighted:
            return Suggestion(_directed(Name("dwi", "dwi"), scan, image), "it has b-values and gradients")
        return Suggestion(
            None, "diffusion without gradients: not a dwi in BIDS; add a rule, for instance fmap/epi"
        )
    if _SBREF.search(text):
        return Suggestion(Name("func", "sbref", {"task": task(scan) or "unnamed"}), "reference by its name")
    if planar or _BOLD.search(text):
        named = bool(_BOLD.search(text))
        if image.volumes > 1:
            why = "by its name" if named else "echo-planar over time"
            return Suggestion(Name("func", "bold", {"task": task(scan) or "unnamed"}), f"functional {why}")
        if planar or re.search(r"bold|fmri|ep2d", text, re.I):
            return Suggestion(
                None,
                "a functional scan of one volume: not a bold in BIDS; add a rule, for instance func/sbref",
            )
    return _structural(scan, image, text, sequence)


def _contrasted(name: Name, image: Image) -> Name:
    agent = str(image.sidecar.get("ContrastBolusAgent") or "").strip()
    return name.having(ce=label(agent)) if agent.lower() not in ("", "no", "none", "n", "0") else name


def _sequence_names(scan: Scan) -> str:
    return scan.get("SequenceName")


def _directed(name: Name, scan: Scan, image: Image) -> Name:
    found = direction(scan, image)
    return name.having(dir=found) if found else name


def _field_map(scan: Scan, image: Image, planar: bool) -> Suggestion:
    if planar or re.search(r"epi|topup|pepolar|spin", text_of(scan), re.I):
        found = direction(scan, image)
        if not found:
            return Suggestion(
                None, "a reversed-phase field map whose direction nothing says; add a rule with dir-"
            )
        return Suggestion(Name("fmap", "epi", {"dir": found}), "reversed-phase field map by its name")
    if is_phase(scan, image):
        return Suggestion(Name("fmap", "phasediff"), "field map by its name, phase by ImageType")
    # Which of the two, its echo time says: all of the scan's images are looked at together.
    return Suggestion(Name("fmap", "magnitude1"), "field map by its name, magnitude by ImageType")


def _structural(scan: Scan, image: Image, text: str, sequence: list[str]) -> Suggestion:
    kinds = kinds_of(scan, image)
    if "UNI" in kinds or re.search(r"_UNI(_|$)", text):
        return Suggestion(Name("anat", "UNIT1"), "MP2RAGE's uniform image by ImageType")
    if re.search(r"mp2rage", text, re.I) and (found := re.search(r"inv[-_ ]?([12])", text, re.I)):
        return Suggestion(Name("anat", "MP2RAGE", {"inv": found[1]}), "MP2RAGE's inversion image by its name")
    if found := _MAP.search(text):
        return Suggestion(
            None, f"{found[0].strip(' _-')!r} in its name: a map, or a scan for one; add a rule"
        )
    for pattern, suffix in (
        (re.compile(r"t1[ _-]?flair", re.I), "T1w"),
        (_FLAIR, "FLAIR"),
        (_ANGIO, "angio"),
        (_T2STAR, "T2starw"),
        (_T1W, "T1w"),
        (_T2W, "T2w"),
        (_PDW, "PDw"),
    ):
        if found := pattern.search(text):
            return Suggestion(
                _contrasted(Name("anat", suffix), image), f"{suffix} by {found[0].strip(' _-')!r} in its name"
            )
    echo, repetition, inversion = (
        number(image, key) for key in ("EchoTime", "RepetitionTime", "InversionTime")
    )
    if inversion is not None and echo is not None and inversion > 1.5 and echo > 0.06:
        return Suggestion(Name("anat", "FLAIR"), "long inversion and echo times")
    if inversion is not None and 0.3 < inversion < 1.5 and "GR" in sequence:
        return Suggestion(Name("anat", "T1w"), "gradient echo with an inversion")
    if "SE" in sequence and echo is not None and repetition is not None and inversion is None:
        if echo > 0.06 and repetition > 2:
            return Suggestion(Name("anat", "T2w"), "spin echo with long echo and repetition times")
        if echo < 0.03 and repetition < 1:
            return Suggestion(Name("anat", "T1w"), "spin echo with short echo and repetition times")
        if echo < 0.03 and repetition > 2:
            return Suggestion(Name("anat", "PDw"), "spin echo with a short echo and a long repetition time")
    guessed = image.sidecar.get("BidsGuess")
    if isinstance(guessed, list) and len(guessed) == 2 and guessed[0] == "anat":
        suffix = str(guessed[1]).rpartition("_")[2]
        if ("anat", suffix) in KINDS and not KINDS["anat", suffix].must:
            return Suggestion(_contrasted(Name("anat", suffix), image), f"{suffix} by dcm2niix's guess")
    return Suggestion(None, "neither its name nor its sequence says what it is; add a rule")
