"""The two families of errors: those that a retry can mend, and those that need a person."""

from __future__ import annotations


class ImageTroveError(Exception):
    """Base of this package's own errors; operators see its text unchanged.

    Attributes:
        code: stable and short, for filters and notices.
    """

    code = "error"

    def __init__(self, *args: object, code: str = "") -> None:
        super().__init__(*args)
        if code:
            self.code = code


class RetriableError(ImageTroveError):
    """Something outside is away (disk, storage box, broker, database).

    The series or the filter run keeps its place, its state says why, and the watcher tries
    it again, waiting longer each time.
    """

    code = "unavailable"


class KilledError(RetriableError):
    """A process was killed from outside, as the kernel does when memory runs out.

    The input may be the cause, and may not: it is tried again, a few times.
    """

    code = "killed"


class PermanentError(ImageTroveError):
    """Trying again with the same input and configuration would fail in the same way.

    The series or the filter run stops at once, keeps its data and says why; it goes on when
    its input or the configuration changes, or when somebody asks for it.
    """

    code = "invalid"


def is_of_system(error: OSError) -> bool:
    """Whether the system raised an error, which may pass.

    Libraries raise OSError for damaged content too (pydicom for a sequence that is cut off, Pillow for an image), and
    that stays as it is; theirs has no number.
    """
    return error.errno is not None
