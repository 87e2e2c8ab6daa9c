"""Tells systemd that the receiver is ready and alive (``Type=notify``, ``WatchdogSec=``); does nothing elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> bool:
    """Send a state such as ``READY=1``, ``WATCHDOG=1`` or ``STOPPING=1`` (sd_notify(3)); whether it was sent."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address[0] == "@":  # Linux's abstract names begin with NUL
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), address)
        return True
    return False


def watchdog_seconds() -> float | None:
    """How often at least ``WATCHDOG=1`` should be sent: half of what systemd allows; None without a watchdog."""
    given = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not given.isdigit() or meant != str(os.getpid()):
        return None
    return int(given) / 2e6
