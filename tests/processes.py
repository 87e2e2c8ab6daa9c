"""What /proc says of a process."""

from __future__ import annotations

from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process runs, in any thread.

    Of a killed one, a thread may still wait for the disk, and hold files and their locks, when its
    first thread is a zombie already.
    """
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return False
    return any(map(_runs, threads))


def _runs(thread: Path) -> bool:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] not in "XZ"
    except OSError:
        return False
