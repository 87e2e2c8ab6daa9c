"""Who may store, as instruments are configured; and a thread that keeps the receiver's list of them up to date."""

from __future__ import annotations

import logging
import threading

from django.db import DatabaseError, close_old_connections
from django.db.models import Exists, OuterRef

from .models import InstrumentConfiguration, Series
from .models import Sender as Configured
from .scp import Sender, SenderList

log = logging.getLogger(__name__)

#: Seconds from one look at the configuration to the next.
LOOK_SECONDS = 2.0


def configured_senders() -> list[Sender]:
    """The senders of all enabled instruments.

    Raises:
        DatabaseError: the database is away.
    """
    found = Configured.objects.filter(configuration__enabled=True).order_by("pk")
    return [
        Sender(*values)
        for values in found.values_list("ae_title", "address", "configuration__name", "report_port")
    ]


def instruments_without_senders() -> list[str]:
    """Names of the enabled instruments that nobody seems to send for.

    One without a sender of its own whose series arrive all the same stands behind a router, or shares
    another's console.

    Raises:
        DatabaseError: the database is away.
    """
    arrived = Series.objects.filter(configuration=OuterRef("pk"))
    found = InstrumentConfiguration.objects.filter(~Exists(arrived), enabled=True, senders=None)
    return list(found.values_list("name", flat=True))


class SenderWatch:
    """Keeps a list like the configuration, on a thread of its own: a database that hangs holds nobody up.

    With the database away the list stays as it was; :meth:`start` has the one that was kept on disk by then.
    """

    def __init__(self, senders: SenderList) -> None:
        self._senders = senders
        self._looked = threading.Event()
        self._stop = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="senders", daemon=True)

    def start(self, patience_seconds: float) -> None:
        """Begin, and wait for the first look, but no longer than so."""
        self._thread.start()
        if not self._looked.wait(patience_seconds):
            self._take_kept()

    def stop(self) -> None:
        """Look no more; one that hangs is left to itself."""
        self._stop.set()
        self._thread.join(1)

    def _run(self) -> None:
        while True:
            self.look()
            self._looked.set()
            if self._stop.wait(LOOK_SECONDS):
                return

    def look(self) -> None:
        """Look once; no trouble ends it."""
        try:
            close_old_connections()
            senders = configured_senders()
        except Exception as error:  # drivers raise their own as well
            if not isinstance(error, DatabaseError):
                log.exception("senders: unexpected; going on")
            trouble = str(error).strip() or type(error).__name__
            # Said once, not every two seconds of a night without a database.
            if trouble != self._trouble:
                log.warning(
                    "senders: the last known ones count, as the configuration cannot be read: %s", trouble
                )
            self._trouble = trouble
            self._take_kept()
            return
        finally:
            close_old_connections()
        news = self._senders.replace(senders)
        if self._trouble:
            log.warning("senders: the configuration can be read again")
            self._trouble = ""
        if news:
            log.info(
                "senders: %s",
                ", ".join(sorted({f"{one.ae_title} at {one.network}" for one in senders})) or "none",
            )

    def _take_kept(self) -> None:
        if self._senders.senders is None:
            self._senders.recall()
