"""One peer's connection: buffered reading with time-outs, and sending, over plain TCP or TLS."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time

from .config import Timeouts
from .pace import AssociationPace

_BUFFER_BYTES = 256 * 1024
#: Short reads between two looks at the pace: a buffer may hold 20,000 fragments of a byte.
_READS_A_LOOK = 32
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
#: What a socket with a time-out raises when it has passed: plain with SO_RCVTIMEO, and TLS.
_TIMED_OUT = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ConnectionLost(Exception):
    """The connection ended without a release or an abort."""


class PeerTimeout(Exception):
    """The peer exceeded a time-out."""


class ReceiverStopping(Exception):
    """The receiver stops, and nothing is in flight on this connection."""


class StopSignal:
    """Tells all associations at once to come to an end; what waits in poll() wakes up."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()

    def set(self) -> None:
        """Raise the signal, for good."""
        with contextlib.suppress(OSError):
            self._writer.shutdown(socket.SHUT_WR)  # the reader is readable from now on

    def fileno(self) -> int:
        """Readable once the signal is set."""
        return self._reader.fileno()

    def close(self) -> None:
        """Free the two sockets; nobody may wait any more."""
        self._reader.close()
        self._writer.close()


class Connection:
    """Reads a peer's bytes through one bounded buffer, and minds the clock.

    The memoryviews that it hands out are valid until the next call.
    """

    def __init__(
        self, sock: socket.socket, timeouts: Timeouts, stop: StopSignal, pace: AssociationPace
    ) -> None:
        self._pace = pace
        self._socket = sock
        self._timeouts = timeouts
        self._stop = stop
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        self._reads = 0
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(stop, select.POLLIN)
        self._deadline: float | None = None
        self._window_end = 0.0
        self._window_bytes = 0
        self.received = 0

    def limit_to(self, deadline: float) -> None:
        """Everything read from now on must be there by ``deadline`` (time.monotonic())."""
        self._deadline = deadline

    def no_limit(self) -> None:
        """Back to the time-outs of an established association."""
        self._deadline = None
        self._set_timeout(self._timeouts.stall)

    def _set_timeout(self, seconds: float) -> None:
        if self._tls:
            self._socket.settimeout(seconds)
            return
        # Kernel time-outs, as Python's own cost a poll() for every recv().
        whole = int(seconds)
        value = struct.pack("@ll", whole, max(int((seconds - whole) * 1e6), 0 if whole else 1))
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def wait_for_message(self) -> None:
        """Wait between two messages.

        Raises:
            ReceiverStopping: the receiver stops.
            PeerTimeout: nothing came in the idle time.
        """
        if self._end == self._start and not (
            isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()
        ):
            ready = self._poll.poll(self._timeouts.idle * 1000)
            if not ready:
                raise PeerTimeout(f"idle for {self._timeouts.idle:g} s")
            if len(ready) == 1 and ready[0][0] == self._stop.fileno():
                raise ReceiverStopping
        self._window_end = time.monotonic() + self._timeouts.slow
        self._window_bytes = self.received

    def _fill(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == _BUFFER_BYTES:
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        self._reads = 0
        self._pace.keep()
        now = time.monotonic()
        if self._deadline is not None:
            if now >= self._deadline:
                raise PeerTimeout("the association request did not come in time")
            self._set_timeout(self._deadline - now)
        elif now > self._window_end:
            self._check_pace(now)
        try:
            count = self._socket.recv_into(self._view[self._end :])
        except _TIMED_OUT:
            raise PeerTimeout(
                f"silent for {self._timeouts.stall:g} s inside a message"
                if self._deadline is None
                else "the association request did not come in time"
            ) from None
        except OSError as error:
            raise ConnectionLost(f"connection lost: {error.strerror or error}") from None
        if not count:
            raise ConnectionLost("the peer closed the connection")
        if _QUICKACK is not None:
            # A sender with Nagle's delay waits for this ACK before the rest of what it has to say.
            # The kernel forgets the option after a while, so it is set again each time.
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        self._end += count
        self.received += count

    def _check_pace(self, now: float) -> None:
        if self.received - self._window_bytes < self._timeouts.slow_bytes:
            raise PeerTimeout(
                f"less than {self._timeouts.slow_bytes} bytes in {self._timeouts.slow:g} s inside a message"
            )
        self._window_end = now + self._timeouts.slow
        self._window_bytes = self.received

    def read_exactly(self, size: int) -> memoryview:
        """Exactly ``size`` bytes, at most the buffer's 256 KiB."""
        while self._end - self._start < size:
            self._fill()
        self._reads += 1
        if self._reads >= _READS_A_LOOK:
            self._reads = 0
            self._pace.keep()
        self._start += size
        return self._view[self._start - size : self._start]

    def read_some(self, limit: int) -> memoryview:
        """At least 1 byte and at most ``limit``."""
        if self._start == self._end:
            self._fill()
        start = self._start
        self._start = min(self._end, start + limit)
        return self._view[start : self._start]

    def send(self, data: bytes) -> None:
        """Send all of ``data``.

        Raises:
            PeerTimeout: the peer does not take it.
            ConnectionLost: the connection is lost.
        """
        try:
            self._socket.sendall(data)
        except _TIMED_OUT:
            raise PeerTimeout("the peer does not read our answer") from None
        except OSError as error:
            raise ConnectionLost(f"connection lost: {error.strerror or error}") from None

    def close(self, last: bytes = b"") -> None:
        """Send ``last``, give the peer a moment to close, then close; never raises.

        Closing at once, with bytes of the peer unread, would reset the connection, and the reset
        can overtake our last answer.
        """
        deadline = time.monotonic() + self._timeouts.close
        with contextlib.suppress(OSError, ValueError):
            self._socket.settimeout(self._timeouts.close)
            if last:
                self._socket.sendall(last)
            self._socket.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                # SSLSocket.recv_into on a socket that is half shut reads the raw bytes, which is all that is wanted.
                if not self._socket.recv_into(self._view):
                    break
        with contextlib.suppress(OSError):
            self._socket.close()
