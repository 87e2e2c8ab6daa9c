"""An instrument's rule is tried on what was received before it is saved."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..formats.dicom.fields import fields_of
from ..ingest.glance import CannotGlance, glance
from ..ingest.placement import Rule, Unplaceable, explain, place
from ..ingest.series import rule_of, rules
from ..models import InstrumentConfiguration, Series
from ..spool import Spool

#: Series that are looked at, the newest first.
MOST_HELD = 200
MOST_PLACED = 500

#: What series are held for that another rule can help.
_UNPLACED = (
    "no-instrument",
    "several-instruments",
    "unplaceable",
    "assigned-to-none",
    "assigned-undisguised",
)


@dataclass
class RuleTrial:
    """What a rule would do.

    Attributes:
        held: series that are held for want of a place, and were looked at.
        would: of them, those that the rule would place: the series and the group that may then read it.
        would_not: those that fit the rule and still have no place, with the reason.
        placed: series that have a place, and could be looked at.
        unknown: those of which too little was kept to say.
        taken: of those placed, what fits the rule and is another instrument's; it would fit two from now on.
        lost: those of this instrument that no longer fit its rule.
    """

    held: int = 0
    would: list[tuple[Series, str]] = field(default_factory=list)
    would_not: list[tuple[Series, str]] = field(default_factory=list)
    placed: int = 0
    unknown: int = 0
    taken: list[Series] = field(default_factory=list)
    lost: list[Series] = field(default_factory=list)


def try_instrument(configuration: InstrumentConfiguration, spool: Spool) -> RuleTrial:
    """What a configuration would do to series that are held, and to those that were placed last; it changes nothing.

    Held series are judged by their first file in the spool, placed ones by the fields that were kept of them.

    Args:
        configuration: as it would be saved.

    Raises:
        SpoolError: the spool cannot be read.
    """
    rule, trial = rule_of(configuration), RuleTrial()
    others = [one for one in rules() if one.id != rule.id]
    _try_held(rule, [*others, rule] if configuration.enabled else others, spool, trial)
    _try_placed(rule, trial)
    return trial


def _try_held(rule: Rule, site_rules: list[Rule], spool: Spool, trial: RuleTrial) -> None:
    names = {name for one in site_rules for name in one.fields()}
    held = Series.objects.filter(
        state=Series.State.HELD, reason_code__in=_UNPLACED, dataset_key=None, assigned={}
    )
    for series in held.order_by("-modified", "-pk")[:MOST_HELD]:
        try:
            (file, *_) = spool.files(series.series_uid)
            fields = fields_of(glance(file, names), names)
        except (ValueError, CannotGlance, OSError):  # removed meanwhile, or unreadable for other rules too
            continue
        trial.held += 1
        try:
            placement = place(fields, site_rules, discreet=True)
        except Unplaceable as error:
            if explain(fields, [rule])[0].matches:
                trial.would_not.append((series, str(error)))
            continue
        if placement.rule_id == rule.id:
            trial.would.append((series, placement.group))


def _try_placed(rule: Rule, trial: RuleTrial) -> None:
    placed = Series.objects.filter(configuration__isnull=False, dataset_key__isnull=False, assigned={})
    for series in placed.select_related("configuration").order_by("-modified", "-pk")[:MOST_PLACED]:
        # Of de-identified series digests were kept; of others, the fields that their own rule looked at.
        if series.is_deidentified or not {name for name, _ in rule.instrument} <= series.placed_by.keys():
            trial.unknown += 1
            continue
        trial.placed += 1
        fits = explain(series.placed_by, [rule])[0].matches
        own = series.configuration_id == rule.id
        if fits and not own:
            trial.taken.append(series)
        elif own and not fits:
            trial.lost.append(series)
