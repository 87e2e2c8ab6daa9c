"""De-identified ingest: which disguise a series gets, and copies of its instances that may be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..deidentification import NotDeidentifiable, Profile, Pseudonyms, deidentify, new_secret
from ..errors import RetriableError
from ..models import InstrumentConfiguration, PseudonymKey, Series
from ..spool import file_sha256
from .arrived import Arrived


@dataclass(frozen=True)
class Disguise:
    """How a series is de-identified."""

    profile: Profile
    keep_originals: bool
    key: PseudonymKey

    @property
    def pseudonyms(self) -> Pseudonyms:
        return Pseudonyms(self.key.secret)

    def digest(self, field: str, value: str) -> str:
        """What is remembered of a field's value, so that a late instance's can be compared with it."""
        return self.pseudonyms.digest([field, value])

    @property
    def record(self) -> dict[str, object]:
        """As the series remembers it."""
        return {"options": self.profile.names, "keep_originals": self.keep_originals}


@dataclass(frozen=True)
class CopiedInstance:
    """An instance that arrived, and its de-identified copy."""

    arrived: Arrived
    copy: Arrived


@dataclass(frozen=True)
class Copies:
    """What became of instances that were to be de-identified.

    Attributes:
        refused: those of which there is no safe copy; they stay in the spool.
        reasons: why, in words that name nobody.
    """

    made: tuple[CopiedInstance, ...]
    refused: tuple[Arrived, ...]
    reasons: tuple[str, ...]
    series_uid: str = ""
    study_uid: str = ""
    losses: tuple[str, ...] = ()


def disguise_for(
    series: Series, configuration: InstrumentConfiguration | None, group: str
) -> Disguise | None:
    """How a series is de-identified; None if it is shown as it was received.

    A series that has its place keeps what was decided then, whatever its instrument says now.

    Args:
        configuration, group: where it is placed now; of no account if it has its place.
    """
    if series.dataset_key is not None:
        if not series.is_deidentified:
            return None
        kept = series.deidentification
        return Disguise(Profile.of(kept["options"]), kept["keep_originals"], series.pseudonym_key)
    if configuration is None or not configuration.deidentify:
        return None
    return Disguise(
        Profile.of(configuration.deidentification_options),
        configuration.keep_originals,
        _key(group, configuration.owner_id),
    )


def _key(group: str, owner_id: int) -> PseudonymKey:
    """The project's secret, made if it has none; instruments that feed one project share it.

    Series of no project share their owner's.
    """
    scope = f"group {group}" if group else f"owner {owner_id}"
    key, _ = PseudonymKey.objects.get_or_create(scope=scope, defaults={"secret": new_secret()})
    return key


def make_copies(arrived: Iterable[Arrived], disguise: Disguise, folder: Path) -> Copies:
    """De-identified copies of instances, in ``folder``; one that is refused stops none of the others.

    Raises:
        OSError: a file cannot be read or written.
        RetriableError: there is no memory for one.
    """
    made, refused = [], []
    reasons: Counter[str] = Counter()
    series_uid = study_uid = ""
    losses: dict[str, None] = {}
    for number, item in enumerate(arrived):
        try:
            copy = deidentify(item.path, folder / f"{number:06d}.dcm", disguise.profile, disguise.pseudonyms)
        except NotDeidentifiable as error:
            refused.append(item)
            reasons[str(error)] += 1
            continue
        except MemoryError:
            raise RetriableError(
                f"too little memory to de-identify an instance of {item.size / 2**20:.0f} MiB"
            ) from None
        series_uid, study_uid = copy.series_uid, copy.study_uid
        losses.update(dict.fromkeys(copy.losses))
        made.append(
            CopiedInstance(
                item,
                Arrived(
                    copy.path,
                    copy.sop_instance_uid,
                    item.sop_class_uid,
                    item.transfer_syntax_uid,
                    copy.path.stat().st_size,
                    file_sha256(copy.path),
                ),
            )
        )
    return Copies(
        tuple(made),
        tuple(refused),
        tuple(f"{count} instance{'s' if count > 1 else ''}: {reason}" for reason, count in reasons.items()),
        series_uid,
        study_uid,
        tuple(losses),
    )
