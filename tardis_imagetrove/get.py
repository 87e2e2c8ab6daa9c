"""``imagetrove-get``: fetches a download of scans, goes on where it was interrupted, and checks every file.

This file needs Python alone: it can be copied to any machine and run there.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import hashlib
import http.client
import json
import os
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

_BLOCK = 256 * 1024
_SKIP = 4 * 1024**2
"""Bytes that are rather read over than asked for anew."""
_TRIES = 8
"""Attempts in a row that bring nothing, before it is given up."""
_TIMEOUT = 120


T = TypeVar("T")


class Problem(Exception):
    """What ends it, in words for whoever runs it."""


class Lost(Exception):
    """The connection broke; another attempt may help."""


@dataclass(frozen=True)
class Listed:
    """A file of the manifest.

    Attributes:
        name: its path below the download's folder.
        at: where its bytes begin, counted from the first file's header.
    """

    name: str
    size: int
    sha512: str
    at: int


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        # The key would go along, to whatever host it is.
        raise Problem(f"the server sends us to {newurl}: give that address, if you trust it")


class Server:
    """Parts of one TAR, asked for by their first byte.

    Args:
        address: of the TAR.
        key: ``user:key`` of MyTARDIS's API.
    """

    def __init__(self, address: str, key: str) -> None:
        self._address, self._key, self._etag = address, key, ""
        self._opener = urllib.request.build_opener(_NoRedirect)

    def open(self, start: int) -> http.client.HTTPResponse:
        """The TAR from an offset on.

        Raises:
            Problem: the server refuses; what it says is in the text.
            Lost: it cannot be reached now.
        """
        headers = {"Authorization": f"ApiKey {self._key}", "Range": f"bytes={start}-"}
        if self._etag:
            headers["If-Range"] = self._etag
        request = urllib.request.Request(self._address, headers=headers)
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace").strip()
            if error.code >= 500:
                raise Lost(f"the server answers {error.code}") from error
            words = said if error.headers.get_content_type() == "text/plain" else ""
            raise Problem(words or _refusal(error.code)) from error
        except (OSError, http.client.HTTPException) as error:
            raise Lost(str(error)) from error
        if answer.status != 206 or (self._etag and answer.headers.get("ETag") != self._etag):
            answer.close()
            raise Problem(
                "the download has changed since it was begun: choose the scans again"
                if answer.headers.get_content_type() == "application/x-tar"
                else "this is no address of a download: give the one that its page shows"
            )
        self._etag = answer.headers.get("ETag", "")
        return answer


def _refusal(status: int) -> str:
    if status == 404:
        return "there is no such download of yours: is the address right, and not older than its page says?"
    return f"the server refuses with status {status}"


class Fetch:
    """One download into a folder.

    Args:
        out: the folder in which the download's own folder is made.
        progress: where progress is written, if anywhere.
    """

    def __init__(self, server: Server, out: Path, progress: IO[str] | None = None) -> None:
        self._server, self._out, self._progress = server, out, progress
        self._answer: http.client.HTTPResponse | None = None
        self._position = 0
        self._failures = 0
        self._shown = 0.0

    def run(self) -> tuple[Path, int, int]:
        """Fetch what is missing; returns the folder, and the number and bytes of its files.

        Raises:
            Problem: it cannot be completed; what is there stays, and is used next time.
        """
        folder, base, first, files = self._retried(self._manifest)
        folder.mkdir(parents=True, exist_ok=True)
        whole = sum(file.size for file in files)
        done = 0
        for file in files:
            path = folder.joinpath(*PurePosixPath(file.name).parts)
            if not (path.is_file() and path.stat().st_size == file.size and _sha512(path) == file.sha512):
                self._file(file, path, base, done, whole)
            done += file.size
            self._show(done, whole)
        for name, content in first.items():
            (folder / name).write_bytes(content)
        self._close()
        if self._progress:
            self._progress.write("\n")
        return folder, len(files), whole

    def _manifest(self) -> tuple[Path, int, dict[str, bytes], list[Listed]]:
        """The download's folder, where its files begin, its first members, and the files."""
        answer = self._server.open(0)
        try:
            with answer, tarfile.open(fileobj=answer, mode="r|") as tar:
                first: dict[str, bytes] = {}
                folder, base = "", 0
                for name in ("manifest.json", "SHA512SUMS"):
                    member = tar.next()
                    if member is None or member.name.partition("/")[2] != name:
                        raise Problem("this is not the address of a download")
                    folder = member.name.partition("/")[0]
                    content = tar.extractfile(member)
                    first[name] = content.read() if content else b""
                    base = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            files = [
                Listed(str(one["name"]), int(one["size"]), str(one["sha512"]), int(one["at"]))
                for one in json.loads(first["manifest.json"])["files"]
            ]
        except (tarfile.TarError, OSError, http.client.HTTPException, EOFError) as error:
            raise Lost(str(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Problem(f"the manifest cannot be read: {error}") from error
        for name in (folder, *(file.name for file in files)):
            parts = PurePosixPath(name).parts
            if (
                not parts
                or ".." in parts
                or name.startswith("/")
                or "\\" in name
                or (os.name == "nt" and ":" in name)
            ):
                raise Problem(f"the name {name!r} would leave the folder")
        return self._out / folder, base, first, files

    def _file(self, file: Listed, path: Path, base: int, done: int, whole: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        for attempt in (1, 2):
            self._retried(lambda: self._append(file, part, base, done, whole))
            if _sha512(part) == file.sha512:
                part.replace(path)
                return
            part.unlink()
            self._close()
            if attempt == 2:
                raise Problem(f"{file.name} came with another checksum than the manifest has, twice")

    def _append(self, file: Listed, part: Path, base: int, done: int, whole: int) -> None:
        """What ``part`` lacks of the file."""
        with part.open("ab") as out:
            if out.tell() > file.size:
                out.truncate(0)
            have = out.tell()
            for block in self._bytes(base + file.at + have, file.size - have):
                out.write(block)
                have += len(block)
                self._failures = 0
                self._show(done + have, whole)

    def _bytes(self, start: int, count: int) -> Iterator[bytes]:
        if not count:
            return
        if self._answer is None or not 0 <= start - self._position <= _SKIP:
            self._close()
            self._answer, self._position = self._server.open(start), start
        over = start - self._position
        while over + count:
            try:
                block = self._answer.read(min(_BLOCK, over or count))
            except (OSError, http.client.HTTPException) as error:
                raise Lost(str(error)) from error
            if not block:
                raise Lost("the server broke the download off")
            self._position += len(block)
            if over:
                over -= len(block)
            else:
                count -= len(block)
                yield block

    def _retried(self, do: Callable[[], T]) -> T:
        while True:
            try:
                return do()
            except Lost as error:
                self._close()
                self._failures += 1
                if self._failures >= _TRIES:
                    raise Problem(
                        f"{error}, {_TRIES} times in a row; run the command again later to resume"
                    ) from error
                time.sleep(min(30, 0.25 * 2**self._failures))

    def _close(self) -> None:
        if self._answer is not None:
            with contextlib.suppress(OSError):
                self._answer.close()
        self._answer = None

    def _show(self, done: int, whole: int) -> None:
        if self._progress and (done == whole or time.monotonic() - self._shown > 0.5):
            self._shown = time.monotonic()
            share = done / whole if whole else 1
            self._progress.write(f"\r{share:4.0%}  {done / 1e6:,.1f} of {whole / 1e6:,.1f} MB ")
            self._progress.flush()


def _sha512(path: Path) -> str:
    digest = hashlib.sha512()
    if not path.exists():
        return ""
    with path.open("rb") as file:
        while block := file.read(1024**2):
            digest.update(block)
    return digest.hexdigest()


def _address(text: str, plain: bool) -> str:
    found = urlsplit(text)
    if found.scheme not in ("http", "https") or not found.hostname:
        raise Problem(f"{text!r} is not a web address; it must begin with https://")
    if found.scheme == "http" and not plain and found.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise Problem("over http:// anybody on the way can read your key: use https://, or give --plain-http")
    return text if text.endswith("/scans.tar") else f"{text.rstrip('/')}/scans.tar"


def _key(given: str) -> str:
    if not given and sys.stdin.isatty():
        given = f"{input('User name: ')}:{getpass.getpass('API key: ')}"
    if ":" not in given:
        raise Problem("set IMAGETROVE_KEY to USER:KEY; the key is in MyTARDIS's user menu")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status: 0 if every file is there and has its checksum."""
    parser = argparse.ArgumentParser(
        prog="imagetrove-get",
        description="Fetch a download of scans from MyTARDIS, go on where it was interrupted, and check every file.",
    )
    parser.add_argument("address", help="of the download's page")
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder to put it in (default: the current one)"
    )
    parser.add_argument("--plain-http", action="store_true", help="send the key without encryption")
    options = parser.parse_args(arguments)
    try:
        server = Server(
            _address(options.address, options.plain_http), _key(os.environ.get("IMAGETROVE_KEY", ""))
        )
        folder, count, size = Fetch(server, options.out, sys.stderr if sys.stderr.isatty() else None).run()
    except Problem as problem:
        print(f"imagetrove-get: {problem}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"imagetrove-get: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nimagetrove-get: interrupted; give the command again, it goes on", file=sys.stderr)
        return 130
    print(f"{folder}: {count} files, {size / 1e6:,.1f} MB, every checksum is right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
