"""``manage.py imagetrove_import_conf``: instruments from the old uploader's configuration file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from ...contrib.uploader.conf import ConfError, Severity, UploaderConf, UploaderInstrument, interpret, load
from ...models import InstrumentConfiguration, Sender

#: What a block says and a configuration keeps, by the one name that both have for it.
_FIELDS = tuple(
    field.name for field in fields(UploaderInstrument) if field.name not in ("name", "place", "places")
)


class Command(BaseCommand):
    help = (
        "Make or update instrument configurations from an imagetrove_uploader.conf. What the file does not say "
        "(owner, storage box, project, filters) stays as it is. Ends with status 1 if anything was left out."
    )
    requires_system_checks = ("imagetrove",)  # other apps and signing in have their own commands

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the uploader's configuration file")
        parser.add_argument(
            "--dry-run", action="store_true", help="print what would be done, without doing it"
        )
        parser.add_argument(
            "--owner",
            help="owner of the new instruments' experiments (default: the file's `user`, if that account exists)",
        )

    def handle(self, *, file: Path, dry_run: bool, owner: str | None, **options: object) -> None:
        try:
            self._run(interpret(load(file, os.environ)), dry_run, owner)
        except ConfError as error:
            raise CommandError(str(error)) from error
        except UnicodeEncodeError as error:  # what the shell had in another encoding
            raise CommandError("--owner: not text in UTF-8") from error
        except DatabaseError as error:
            raise CommandError(f"the database cannot be used: {error}") from error

    def _run(self, conf: UploaderConf, dry_run: bool, owner: str | None) -> None:
        if owner is not None and not User.objects.filter(username=owner).exists():
            raise CommandError(f"--owner: account {owner!r} does not exist")
        for note in conf.notes:
            if note.severity is not Severity.LEFT_OUT:
                self.stdout.write(f"{note.severity.value}: {note.text}")
        names: list[str] = []
        left_out = 0
        for instrument in conf.instruments:
            try:
                outcome = self._import(instrument, self._owner(conf, owner), dry_run)
            except ValidationError as error:
                for words in _words(instrument, error):
                    left_out += 1
                    self._complain(words)
            else:
                names.append(instrument.name)
                self.stdout.write(f"{instrument.name}: {outcome}")
        for instrument, others in _of_the_same_images(conf, set(names)):
            self.stdout.write(
                f"{Severity.WARNING.value}: {instrument.places['instrument']}: {instrument.name}.instrument: is the"
                f" same as that of {', '.join(others)}: series that match more than one instrument are held."
                " If it was renamed in admin, rename it in the file as well"
            )
        having = set(Sender.objects.values_list("configuration__name", flat=True))
        if without := [name for name in names if name not in having]:
            self.stdout.write(
                f"no sender yet: {', '.join(without)}: the file does not say which AE titles and addresses may store;"
                " add them in admin, nothing is taken from anybody else"
            )
        for note in conf.notes:
            if note.severity is Severity.LEFT_OUT:
                left_out += 1
                self._complain(note.text)
        done = f"{_count(len(names), 'instrument')} {'would be' if dry_run else 'now'} as the file has it"
        if left_out:
            raise CommandError(f"{done}; {_count(left_out, 'thing')} left out, as said above")
        self.stdout.write(f"{done}.")

    def _complain(self, text: str) -> None:
        self.stderr.write(f"{Severity.LEFT_OUT.value}: {text}")

    @staticmethod
    def _owner(conf: UploaderConf, named: str | None) -> User | None:
        name = named or conf.user
        # PostgreSQL refuses to be asked for a NUL.
        return None if "\0" in name else User.objects.filter(username=name).first()

    @staticmethod
    def _import(instrument: UploaderInstrument, owner: User | None, dry_run: bool) -> str:
        """Bring the configuration of that name in line with the file; returns what that came to.

        Raises:
            ValidationError: the configuration would not be valid, or a new one has no owner.
        """
        configuration = InstrumentConfiguration.objects.filter(name=instrument.name).first()
        made = configuration is None
        if made:
            if owner is None:
                raise ValidationError(
                    "it is new, and nobody is named to own what it makes: give --owner USERNAME"
                )
            configuration = InstrumentConfiguration(name=instrument.name, owner=owner)
        changed = []
        for name in _FIELDS:
            said = _as_json(getattr(instrument, name))
            if said is not None and getattr(configuration, name) != said:
                setattr(configuration, name, said)
                changed.append(name)
        if not changed and not made:
            return "unchanged"
        if dry_run:
            configuration.full_clean()
        else:
            configuration.save()
        would = "would be " if dry_run else ""
        return f"{would}created" if made else f"{would}updated ({', '.join(changed)})"


def _of_the_same_images(
    conf: UploaderConf, names: Collection[str]
) -> Iterator[tuple[UploaderInstrument, list[str]]]:
    """The imported instruments that have the pairs of others, in the database or in the file; with these others' names."""
    imported = [instrument for instrument in conf.instruments if instrument.name in names]
    others = InstrumentConfiguration.objects.exclude(name__in=names).filter(enabled=True)
    alike: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for one in (*others, *imported):
        alike[_pairs(one)].append(one.name)
    for instrument in imported:
        if same := sorted(name for name in alike[_pairs(instrument)] if name != instrument.name):
            yield instrument, same


def _pairs(instrument: InstrumentConfiguration | UploaderInstrument) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((field, value) for field, value in instrument.instrument))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _as_json(value: object) -> object:
    """Tuples as the lists that a JSON field gives back."""
    return [_as_json(item) for item in value] if isinstance(value, tuple) else value


def _words(instrument: UploaderInstrument, error: ValidationError) -> list[str]:
    """What keeps an instrument from its import, each with the place of the setting in the file."""
    if not hasattr(error, "error_dict"):
        return [f"{instrument.place}: {instrument.name}: {' '.join(error.messages)}"]
    return [
        f"{instrument.places.get(name, instrument.place)}: {instrument.name}.{name}: {' '.join(texts)}"
        for name, texts in error.message_dict.items()
    ]
