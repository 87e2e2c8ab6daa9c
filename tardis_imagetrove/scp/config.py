"""What a receiver is told when it is started: address, limits, time-outs, TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import PermanentError
from .admission import parse_ae_title


class ReceiverConfigError(PermanentError):
    """The receiver cannot run as configured; the text names the option."""


@dataclass(frozen=True)
class Timeouts:
    """How long a peer may keep us waiting, in seconds.

    Attributes:
        associate: from the connection to the whole A-ASSOCIATE-RQ, TLS included (the ARTIM timer
            of PS3.8 section 9.1.5).
        idle: between two messages of an association. Scanners keep theirs open while they reconstruct.
        stall: without a single byte inside a message, and for a peer that does not take our answer.
        slow: a window of this length inside a message must bring ``slow_bytes``.
        close: after our last PDU, for the peer to close the connection.
    """

    associate: float = 30.0
    idle: float = 300.0
    stall: float = 60.0
    slow: float = 60.0
    slow_bytes: int = 16 * 1024
    close: float = 2.0


@dataclass(frozen=True)
class TLSFiles:
    """PEM files of mutual TLS (PS3.15 annex B): our certificate and key, and the CA that peers must be signed by."""

    certificate: Path
    key: Path
    ca: Path

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer; a peer without a certificate of the CA is refused.

        Raises:
            ReceiverConfigError: a file is missing or is no PEM, or key and certificate do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """The same for associations of our own; the CA vouches for the peer, not the name in its certificate.

        Raises:
            ReceiverConfigError: as above.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # peers are known by address, and certificates name hosts
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=self.ca)
        except OSError as error:
            raise ReceiverConfigError(f"TLS: cannot use the CA file {self.ca}: {error}") from error
        try:
            # An empty password instead of a prompt that nobody would answer.
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:
            raise ReceiverConfigError(
                f"TLS: cannot use the certificate {self.certificate} with the key {self.key}: {error}"
            ) from error


@dataclass(frozen=True)
class ReceiverConfig:
    """How a receiver listens, and what it puts up with.

    Attributes:
        port: TCP port; 0 takes a free one.
        ae_title: our own AE title, at most 16 characters.
        require_called_ae: refuse associations that call another AE title.
        workers: 1 receives in threads of this process; more are processes of their own, which
            share the connections evenly.
        max_associations: open at once, over all workers; more are rejected as transient.
        max_associations_per_address: open at once from one address, so that no peer takes all of them.
        max_pdu: longest P-DATA-TF that peers are asked to send, in bytes.
        tls: None for plain TCP.
    """

    host: str = "0.0.0.0"
    port: int = 4242
    ae_title: str = "IMAGETROVE"
    require_called_ae: bool = True
    workers: int = 1
    max_associations: int = 64
    max_associations_per_address: int = 32
    max_pdu: int = 128 * 1024
    timeouts: Timeouts = field(default_factory=Timeouts)
    tls: TLSFiles | None = None

    def __post_init__(self) -> None:
        try:
            parse_ae_title(self.ae_title)
        except ValueError as error:
            raise ReceiverConfigError(str(error)) from None
        if not 0 <= self.port <= 65535:
            raise ReceiverConfigError(f"port {self.port}: must be 0 to 65535")
        if self.workers < 1:
            raise ReceiverConfigError(f"workers {self.workers}: must be 1 or more")
        if self.max_associations < 1:
            raise ReceiverConfigError(f"max_associations {self.max_associations}: must be 1 or more")
        if self.max_associations_per_address < 1:
            raise ReceiverConfigError(
                f"max_associations_per_address {self.max_associations_per_address}: must be 1 or more"
            )
        if self.max_pdu < 4096:
            raise ReceiverConfigError(f"max_pdu {self.max_pdu}: must be 4096 or more")
