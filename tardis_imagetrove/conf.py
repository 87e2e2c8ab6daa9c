"""The one setting, ``IMAGETROVE``: defaults by role, and access that follows overridden settings."""

from __future__ import annotations

import os
import reprlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

DEFAULTS: dict[str, Any] = {
    # Receiving. The folder where files wait from their C-STORE until they are archived. It has no
    # default: it must be on a disk that outlives a reboot, and large enough for a day of scans.
    "SPOOL": None,
    # MiB of that disk that receiving leaves free; below it, senders are told "out of resources".
    "SPOOL_RESERVE_MIB": 512,
    # Seconds without a new instance after which a series counts as complete; an instrument may
    # have its own. DICOM itself has no "series complete".
    "QUIET_SECONDS": 60,
    # Folders in which folder sources may lie, in admin and on the command line; nothing else of the disk is read.
    "FOLDER_ROOTS": [],
    # Days for which the trash keeps what an operator discarded.
    "TRASH_DAYS": 30,
    # Seconds that a storage commitment request may wait for instances that are received and not
    # archived yet; then they are reported as failed. Consoles keep their own copies meanwhile.
    "COMMITMENT_WAIT_SECONDS": 86400,
    # Converting. The folder where filters unpack and convert; None is the system's temporary one.
    "SCRATCH": None,
    # The filters a site has, as dotted paths of subclasses of tardis_imagetrove.filters.base.Filter.
    "FILTERS": [
        "tardis_imagetrove.filters.nifti.NiftiFilter",
        "tardis_imagetrove.filters.minc.MincFilter",
        "tardis_imagetrove.filters.picture.PictureFilter",
        "tardis_imagetrove.filters.metadata.MetadataFilter",
    ],
    # Values of filters' own options and limits, by the filter's name: {"minc": {"memory_mib": 4096}}.
    "FILTER_OPTIONS": {},
    # The Celery queues of ingest and of conversion; None is Celery's default queue, which the worker of
    # every MyTARDIS works on. A queue that is named here needs a worker that is started with -Q.
    "INGEST_QUEUE": None,
    "CONVERT_QUEUE": None,
    # Going on after trouble. Seconds without a sign of life after which a task is taken for dead
    # and given to another worker.
    "STALL_SECONDS": 60,
    # Seconds to the first retry of what waits (storage box, broker, database away); doubled each time …
    "RETRY_SECONDS": 30,
    # … up to this many.
    "RETRY_SECONDS_MAX": 3600,
}


#: The numbers, with the smallest value that makes sense; the largest is where clocks and disks still can count.
_LEAST = {
    "SPOOL_RESERVE_MIB": 0,
    "QUIET_SECONDS": 0,
    "TRASH_DAYS": 0,
    "COMMITMENT_WAIT_SECONDS": 0,
    "STALL_SECONDS": 1,
    "RETRY_SECONDS": 1,
    "RETRY_SECONDS_MAX": 1,
}
_MOST = 10**9


def _wanted(name: str, value: Any) -> str:
    """What a setting must be, where ``value`` is not; a filter's options are looked at with the filter."""
    if name in _LEAST:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # The other way round NaN would pass.
        fits = is_number and _LEAST[name] <= value <= _MOST
        return "" if fits else f"a number of at least {_LEAST[name]}, and at most {_MOST}"
    if name in ("SPOOL", "SCRATCH"):
        path = os.fspath(value) if isinstance(value, os.PathLike) else value
        fits = value is None or (isinstance(path, str) and "\0" not in path)
        return "" if fits else "a folder's path"
    if name in ("INGEST_QUEUE", "CONVERT_QUEUE"):
        return "" if value is None or (isinstance(value, str) and value) else "a queue's name, or None"
    if name == "FOLDER_ROOTS":
        fits = isinstance(value, (list, tuple)) and all(
            isinstance(path, (str, os.PathLike)) and Path(path).is_absolute() for path in value
        )
        return "" if fits else "a list of absolute paths"
    if name == "FILTERS":
        fits = isinstance(value, (list, tuple)) and all(isinstance(path, str) for path in value)
        return "" if fits else "a list of dotted paths"
    return ""


class Settings:
    """Attribute access to ``IMAGETROVE`` over :data:`DEFAULTS`; reads Django's settings each time.

    Raises:
        ImproperlyConfigured: by each attribute, if its value is of the wrong kind; the text names it.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in DEFAULTS:
            raise AttributeError(f"IMAGETROVE has no setting {name!r}")
        value = self.given().get(name, DEFAULTS[name])
        if wanted := _wanted(name, value):
            raise ImproperlyConfigured(f"IMAGETROVE[{name!r}] is {reprlib.repr(value)}: it must be {wanted}")
        return value

    @staticmethod
    def given() -> Mapping[str, Any]:
        """What the site has set.

        Raises:
            ImproperlyConfigured: ``IMAGETROVE`` is no dictionary.
        """
        given = getattr(django_settings, "IMAGETROVE", None) or {}
        if not isinstance(given, Mapping):
            raise ImproperlyConfigured(
                f"IMAGETROVE must be a dictionary, and is of type {type(given).__name__}"
            )
        return given

    def problems(self) -> dict[str, str]:
        """Words for each setting of the wrong kind, by its name; by ``IMAGETROVE`` if it is no dictionary."""
        try:
            self.given()
        except ImproperlyConfigured as error:
            return {"IMAGETROVE": str(error)}
        found = {}
        for name in DEFAULTS:
            try:
                getattr(self, name)
            except ImproperlyConfigured as error:
                found[name] = str(error)
        return found

    @property
    def spool_path(self) -> Path:
        """The spool's folder.

        Raises:
            ImproperlyConfigured: ``IMAGETROVE['SPOOL']`` is not set.
        """
        if not self.SPOOL:
            raise ImproperlyConfigured("IMAGETROVE['SPOOL'] is not set: name the folder that receives files")
        return Path(self.SPOOL)

    @property
    def scratch_path(self) -> Path:
        return Path(self.SCRATCH or tempfile.gettempdir()).absolute()


settings = Settings()
