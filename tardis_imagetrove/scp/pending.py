"""Storage commitment requests that were taken on and are not reported yet: durable files beside the spool.

``commitments/<hash>.json`` holds one request. It is there, synced, before the N-ACTION is answered
with success, and goes when the peer has confirmed the report. Locks are the kernel's, so several
receivers of one spool share the work, and a killed one holds none.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Iterator

from ..disk import sync_folder
from ..spool import Spool, disk_errors
from .records import Caller, CommitmentReference, CommitmentRequest

logger = logging.getLogger("tardis_imagetrove.scp")


class PendingCommitments:
    """The requests under a spool's folder."""

    def __init__(self, spool: Spool) -> None:
        self._folder = spool.root / "commitments"

    def take(self, request: CommitmentRequest) -> None:
        """Keep a request for good; the same one again is kept once.

        Raises:
            SpoolError: it cannot be kept; nothing may be acknowledged.
        """
        content = json.dumps(
            {
                "transaction_uid": request.transaction_uid,
                "calling_ae": request.caller.calling_ae,
                "called_ae": request.caller.called_ae,
                "address": request.caller.address,
                "references": [[one.sop_class, one.sop_instance] for one in request.references],
            }
        ).encode()
        path = self._folder / f"{hashlib.sha256(content).hexdigest()[:32]}.json"
        part = path.with_suffix(f".{uuid.uuid4().hex}.part")
        # The folder is the spool's to make: where a disk is not mounted, nothing may be acknowledged.
        with disk_errors("cannot keep a storage commitment request in", path):
            try:
                with part.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            except OSError:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
                raise
            sync_folder(self._folder)

    def waiting(self) -> dict[str, int]:
        """What the requests that wait are called here, each with a number that changes when it comes again.

        Raises:
            SpoolError: the folder cannot be read.
        """
        with disk_errors("cannot read", self._folder):
            try:
                entries = list(os.scandir(self._folder))
            except FileNotFoundError:
                return {}
            return {entry.name: entry.inode() for entry in entries if entry.name.endswith(".json")}

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[CommitmentRequest | None]:
        """Hold a request; yields None if it has gone, is held by somebody else, or is none.

        Raises:
            SpoolError: the disk fails.
        """
        path = self._folder / name
        with disk_errors("cannot read", path):
            try:
                file = path.open("rb")
            except FileNotFoundError:
                file = None
        if file is None:
            yield None
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            request = None
            with disk_errors("cannot read", path):
                # Its former holder may just have done with it.
                if path.exists() and (request := _read(file.read())) is None:
                    logger.error("%s is no storage commitment request and is set aside", path)
                    path.replace(path.with_suffix(".unreadable"))
            yield request

    def remove(self, name: str) -> None:
        """Forget a request, which the caller has claimed.

        Raises:
            SpoolError: the disk refuses.
        """
        path = self._folder / name
        with disk_errors("cannot remove", path):
            path.unlink(missing_ok=True)
            sync_folder(self._folder)


def _read(content: bytes) -> CommitmentRequest | None:
    try:
        found = json.loads(content)
        return CommitmentRequest(
            found["transaction_uid"],
            tuple(CommitmentReference(*one) for one in found["references"]),
            Caller(found["calling_ae"], found["called_ae"], found["address"]),
        )
    except (ValueError, TypeError, KeyError):
        return None
