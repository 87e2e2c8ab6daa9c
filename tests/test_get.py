"""The command that fetches a download: complete, however often it is cut; and what it says when it cannot be."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tardis_imagetrove import get
from tardis_imagetrove.tar import Member, Tar

FILES = {
    "One/0001_a/a.zip": bytes(range(256)) * 3000,
    "One/0001_a/empty.json": b"",
    "Zwei/Ärger.nii.gz": b"nifti" * 60_000,
    "Zwei/" + "lang" * 24 + ".png": b"picture",
}


class Site:
    """A server of one TAR, which can be made to fail.

    Attributes:
        cuts: lengths after which the next answers break off.
        refuses: status and text of all answers, if any.
        asked: the Range of each request.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.cuts, self.asked, self.etag = files, [], [], '"1"'
        self.refuses: tuple[int, str, str] | None = None
        self.wrong: set[str] = set()
        self.folder = "scans-1"
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/downloads/x/"

    def whole(self) -> bytes:
        members = [Member(f"{self.folder}/{name}", len(data), 0) for name, data in self.files.items()]
        alone = Tar(members)
        listed = [
            {
                "name": name,
                "size": len(data),
                "sha512": hashlib.sha512(data).hexdigest(),
                "at": alone.content_at(index),
            }
            for index, (name, data) in enumerate(self.files.items())
        ]
        contents = [json.dumps({"files": listed}).encode(), b"sums\n", *self.files.values()]
        first = [
            Member(f"{self.folder}/manifest.json", len(contents[0]), 0),
            Member(f"{self.folder}/SHA512SUMS", len(contents[1]), 0),
        ]
        tar = Tar([*first, *members])
        return b"".join(tar.read(0, tar.size, lambda index, start, stop: [contents[index][start:stop]]))

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.headers["Range"])
        if self.refuses or handler.headers["Authorization"] != "ApiKey ada:key":
            status, kind, text = self.refuses or (401, "text/plain", "The API key or password is wrong.\n")
            handler.send_response(status)
            handler.send_header("Content-Type", kind)
            if status == 302:
                handler.send_header("Location", text)
            handler.end_headers()
            handler.wfile.write(text.encode())
            return
        whole = self.whole()
        for name in self.wrong & self.files.keys():
            whole = whole.replace(self.files[name], bytes(len(self.files[name])))
        same = handler.headers.get("If-Range", self.etag) == self.etag
        start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-")) if same else 0
        handler.send_response(206 if same else 200)
        for name, value in (
            ("Content-Type", "application/x-tar"),
            ("ETag", self.etag),
            ("Content-Length", str(len(whole) - start)),
        ):
            handler.send_header(name, value)
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts else len(whole)
        with contextlib.suppress(OSError):
            handler.wfile.write(whole[start : start + cut])
        handler.close_connection = True


@pytest.fixture
def site(monkeypatch) -> Iterator[Site]:
    monkeypatch.setenv("IMAGETROVE_KEY", "ada:key")
    monkeypatch.setattr(get.time, "sleep", lambda seconds: None)
    site = Site(dict(FILES))
    yield site
    site.server.shutdown()
    site.server.server_close()


def run(site: Site, out: Path, *options: str) -> int:
    return get.main([site.address, "--out", str(out), *options])


def there(out: Path) -> dict[str, bytes]:
    folder = out / "scans-1"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "SHA512SUMS")
    }


def test_every_file_is_there_and_is_not_fetched_twice(site, tmp_path, capsys):
    assert run(site, tmp_path) == 0
    assert there(tmp_path) == FILES
    assert "4 files" in capsys.readouterr().out
    assert len(site.asked) == 2  # the manifest, and all of the rest at once
    site.asked.clear()
    assert run(site, tmp_path) == 0
    assert site.asked == ["bytes=0-"]


def test_cut_again_and_again_it_goes_on_where_it_was(site, tmp_path):
    site.cuts = [10, 3000, 100_000, 1, 0, 400_000, 0, 0, 5000, 200_000]
    assert run(site, tmp_path) == 0
    assert there(tmp_path) == FILES
    starts = [int(asked[6:-1]) for asked in site.asked]
    assert len(starts) > 10 and starts[-1] > 400_000


def test_one_that_was_killed_goes_on_where_it_was(site, tmp_path, capsys):
    site.cuts = [100_000, 300_000, *[0] * 20]
    assert run(site, tmp_path) == 1
    assert "8 times in a row; run the command again later to resume" in capsys.readouterr().err
    (part,) = tmp_path.rglob("*.part")
    assert part.stat().st_size > 200_000
    site.cuts, site.asked = [], []
    assert run(site, tmp_path) == 0
    assert there(tmp_path) == FILES and int(site.asked[1][6:-1]) > 200_000


def test_a_file_that_was_damaged_on_the_disk_is_fetched_anew(site, tmp_path):
    assert run(site, tmp_path) == 0
    damaged = tmp_path / "scans-1" / "Zwei" / "Ärger.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert run(site, tmp_path) == 0
    assert there(tmp_path) == FILES


def test_one_that_comes_wrong_twice_is_named_and_the_next_run_has_it(site, tmp_path, capsys):
    site.wrong = {"Zwei/Ärger.nii.gz"}
    assert run(site, tmp_path) == 1
    assert "Zwei/Ärger.nii.gz came with another checksum" in capsys.readouterr().err
    site.wrong = set()
    assert run(site, tmp_path) == 0
    assert there(tmp_path) == FILES


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        (
            (409, "text/plain", "a.zip has been deleted.\nSelect the scans again.\n"),
            "a.zip has been deleted.",
        ),
        ((404, "text/html", "<html>"), "no such download of yours"),
        ((403, "text/html", "<html>"), "refuses with status 403"),
        ((302, "text/html", "https://elsewhere.example.edu/"), "sends us to https://elsewhere.example.edu/"),
        ((200, "text/html", "<html>"), "this is no address of a download"),
        ((500, "text/html", "<html>"), "the server answers 500, 8 times in a row"),
        ((206, "application/x-tar", "no tar at all"), "in a row"),
    ],
)
def test_what_the_server_refuses_is_told_in_words(site, tmp_path, capsys, refuses, words):
    site.refuses = refuses
    assert run(site, tmp_path) == 1
    said = capsys.readouterr().err
    assert words in said and "<html>" not in said and "Traceback" not in said


def test_what_has_changed_meanwhile_is_not_mixed(site, tmp_path, capsys):
    site.cuts = [100_000, 300_000]
    answer = site.answer

    def changing(handler):
        if len(site.asked) == 2:
            site.etag = '"2"'
        answer(handler)

    site.answer = changing
    assert run(site, tmp_path) == 1
    assert "has changed since it was begun" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../b", "a\\b", ""])
def test_names_that_would_leave_the_folder_are_refused(site, tmp_path, capsys, name):
    site.files = {name: b"x"}
    assert run(site, tmp_path / "here") == 1
    assert capsys.readouterr().err
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("address", "key", "words"),
    [
        ("ftp://x/y", "ada:key", "is not a web address"),
        ("http://mytardis.example.edu/x", "ada:key", "anybody on the way can read your key"),
        ("https://localhost/x", "", "set IMAGETROVE_KEY"),
        ("http://localhost:1/x", "ada:key", "in a row"),
    ],
)
def test_a_wrong_call_is_told(site, tmp_path, capsys, monkeypatch, address, key, words):
    monkeypatch.setenv("IMAGETROVE_KEY", key)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert get.main([address, "--out", str(tmp_path)]) == 1
    assert words in capsys.readouterr().err


def test_a_wrong_key_is_told(site, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("IMAGETROVE_KEY", "ada:other")
    assert run(site, tmp_path) == 1
    assert "The API key or password is wrong." in capsys.readouterr().err


def test_it_needs_python_alone(site, tmp_path):
    """A copy of the file, without the package and its requirements."""
    copy = tmp_path / "imagetrove_get.py"
    copy.write_bytes(Path(get.__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(copy), site.address, "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert there(tmp_path / "out") == FILES


def test_tar_has_the_same_files(site):
    with tarfile.open(fileobj=io.BytesIO(site.whole())) as opened:
        names = [one.name.partition("/")[2] for one in opened]
    assert names == ["manifest.json", "SHA512SUMS", *FILES]
