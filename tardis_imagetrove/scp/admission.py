"""Who may store: the list of senders, kept in memory and durably beside the spool; knows no Django.

The list is handed in by whoever can read the configuration. While that is away the last known list
counts, also after a restart: ``senders.json`` in the spool's folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from ..errors import RetriableError
from ..spool import Spool, disk_errors

logger = logging.getLogger("tardis_imagetrove.scp")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FILE = "senders.json"
_PROMISCUOUS = "promiscuous.lock"
_RECEIVING = "receiving.lock"


class SendersUnknown(RetriableError):
    """Nobody can tell yet who may store."""


def parse_ae_title(text: str) -> str:
    """An AE title without its padding (PS3.5 section 6.2).

    Raises:
        ValueError: it is none.
    """
    title = text.strip(" ")
    if not title or len(title) > 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError(f"AE title {text!r}: must be 1 to 16 printable ASCII characters without a backslash")
    return title


def parse_network(text: str) -> Network:
    """An IP address, or a network such as 10.1.2.0/24.

    Raises:
        ValueError: it is neither; the words say what was probably meant.
    """
    text = text.strip()
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an IP address or network (for example 10.1.2.0/24);"
            " names are not taken, since whoever answers for them could let anybody in"
        ) from None
    raise ValueError(f"{text!r} names a host within its network: write {meant}, or the address alone")


def network_text(network: Network) -> str:
    """The shortest way to write it: an address alone where it is no more than one."""
    return str(network.network_address) if network.num_addresses == 1 else str(network)


@dataclass(frozen=True)
class Sender:
    """A peer that may store.

    Attributes:
        ae_title: that it calls itself.
        network: that it calls from: an IP address or a network.
        instrument: for whose sake it may, for people to read.
        report_port: where it listens for reports of storage commitment; None if it does not.
    """

    ae_title: str
    network: str
    instrument: str = ""
    report_port: int | None = None

    @cached_property
    def addresses(self) -> Network:
        """What ``network`` says."""
        return parse_network(self.network)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


class SenderList:
    """The senders as far as they are known; may be asked and replaced from any thread.

    Args:
        spool: beside whose files the list is kept.
    """

    def __init__(self, spool: Spool) -> None:
        self._path = spool.root / _FILE
        self._lock = threading.Lock()
        self._senders: tuple[Sender, ...] | None = None
        self._kept: tuple[Sender, ...] | None = None

    @property
    def senders(self) -> tuple[Sender, ...] | None:
        """All of them; None before anything is known."""
        return self._senders

    def replace(self, senders: Iterable[Sender]) -> bool:
        """What the configuration says now; whether that is news.

        The list counts at once; a disk that does not keep it is told in the log, and tried again.
        """
        with self._lock:
            former, self._senders = self._senders, tuple(senders)
            if self._kept != self._senders:
                self._keep(self._senders)
            return former != self._senders

    def _keep(self, senders: tuple[Sender, ...]) -> None:
        part = self._path.with_name(f"{_FILE}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8") as file:
                json.dump({"senders": [asdict(sender) for sender in senders]}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as error:
            logger.warning("the list of senders cannot be kept in %s: %s", self._path, error.strerror)
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        else:
            self._kept = senders

    def recall(self) -> bool:
        """Take the list that was kept, unless one is known already; whether there was one."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            senders = tuple(Sender(**entry) for entry in found["senders"])
            for sender in senders:
                sender.addresses  # noqa: B018 (raises what is wrong with it)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("the list of senders in %s cannot be used: %s", self._path, error)
            return False
        with self._lock:
            if self._senders is None:
                self._senders = self._kept = senders
        return True

    def find(self, ae_title: str, address: str) -> Sender | None:
        """The narrowest entry for a peer; one that takes reports goes before one that does not."""
        here = _address(address)
        found = [
            sender
            for sender in self._senders or ()
            if sender.ae_title == ae_title.strip(" ") and here in sender.addresses
        ]
        found.sort(key=lambda sender: (sender.report_port is None, -sender.addresses.prefixlen))
        return found[0] if found else None

    def admit(self, calling_ae: str, address: str) -> str | None:
        """None lets a peer in; a text is the reason against it.

        Raises:
            SendersUnknown: no list was ever read.
        """
        if self._senders is None:
            raise SendersUnknown("the list of senders has not been read yet")
        if self.find(calling_ae, address) is not None:
            return None
        if any(sender.ae_title == calling_ae.strip(" ") for sender in self._senders):
            return f"{calling_ae!r} is a sender, but not from {address}"
        return f"{calling_ae!r} at {address} is not a sender of any enabled instrument"


def promiscuous_mark(spool: Spool) -> contextlib.AbstractContextManager[None]:
    """Mark the spool, as long as the block runs, as one that everybody may store into.

    Raises:
        SpoolError: the mark cannot be made.
    """
    return _mark(spool, _PROMISCUOUS)


def is_promiscuous(spool: Spool) -> bool:
    """Whether a receiver of this spool lets everybody store now."""
    return _is_marked(spool, _PROMISCUOUS)


def receiving_mark(spool: Spool) -> contextlib.AbstractContextManager[None]:
    """Mark the spool, as long as the block runs, as one that a receiver writes to.

    Raises:
        SpoolError: the mark cannot be made.
    """
    return _mark(spool, _RECEIVING)


def is_receiving(spool: Spool) -> bool:
    """Whether a receiver of this spool runs now."""
    return _is_marked(spool, _RECEIVING)


@contextlib.contextmanager
def _mark(spool: Spool, name: str) -> Iterator[None]:
    """A lock of the kernel's, which is gone with the process."""
    path = spool.root / name
    with disk_errors("cannot write", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _is_marked(spool: Spool, name: str) -> bool:
    try:
        descriptor = os.open(spool.root / name, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
