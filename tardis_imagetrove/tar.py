"""TAR files of members whose sizes are known before a byte is read, so that each byte has its place beforehand.

POSIX.1-2001 pax headers (IEEE Std 1003.1), uncompressed: what a reader asks for from the middle is found by arithmetic.
"""

from __future__ import annotations

import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

_ZEROS = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Member:
    """A file in a TAR.

    Attributes:
        size: bytes.
        mtime: seconds since 1970.
    """

    name: str
    size: int
    mtime: int

    def header(self) -> bytes:
        """What stands before its content: whole blocks of 512 bytes."""
        info = tarfile.TarInfo(self.name)
        info.size, info.mtime, info.mode = self.size, self.mtime, 0o644
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


Content = Callable[[int, int, int], Iterable[bytes]]
"""Bytes of the member with an index, from an offset to another, exactly so many."""


class ShortContent(Exception):
    """A member gave fewer or more bytes than its header says."""


class Tar:
    """A TAR of some members, of which any part can be read.

    Attributes:
        size: bytes of all of it.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = tuple(members)
        self._starts: list[int] = []
        at = 0
        for member in self._members:
            self._starts.append(at)
            at += len(member.header()) + _rounded(member.size, tarfile.BLOCKSIZE)
        self._end = at
        self.size = _rounded(at + 2 * tarfile.BLOCKSIZE, tarfile.RECORDSIZE)

    def content_at(self, index: int) -> int:
        """Where the bytes of a member begin."""
        return self._starts[index] + len(self._members[index].header())

    def read(self, start: int, stop: int, content: Content) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``stop``.

        Raises:
            ShortContent: a member is not as long as its header says; what was given until then is right.
        """
        index = max(0, bisect_right(self._starts, start) - 1)
        for number in range(index, len(self._members)):
            at = self._starts[number]
            if at >= stop:
                return
            member = self._members[number]
            header = member.header()
            yield from _part(header, start - at, stop - at)
            at += len(header)
            first, last = max(0, start - at), min(member.size, stop - at)
            if first < last:
                yield from self._exactly(member, content(number, first, last), last - first)
            at += member.size
            yield from _part(_ZEROS[: -member.size % tarfile.BLOCKSIZE], start - at, stop - at)
        yield from _part(bytes(self.size - self._end), start - self._end, stop - self._end)

    @staticmethod
    def _exactly(member: Member, chunks: Iterable[bytes], wanted: int) -> Iterator[bytes]:
        for chunk in chunks:
            wanted -= len(chunk)
            if wanted < 0:
                raise ShortContent(
                    f"{member.name} is longer than the {member.size} bytes that were announced"
                )
            yield chunk
        if wanted:
            raise ShortContent(f"{member.name} ended {wanted} bytes too early")


def _rounded(size: int, block: int) -> int:
    return -(-size // block) * block


def _part(data: bytes, start: int, stop: int) -> Iterator[bytes]:
    if part := data[max(0, start) : max(0, stop)]:
        yield part
