"""TARs of members of known sizes: any part is what the whole has there, and what is short is never filled up."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardis_imagetrove.tar import Member, ShortContent, Tar

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=130
)
FILES = st.lists(
    st.tuples(NAMES.filter(lambda name: name.strip(".")), st.binary(max_size=1500)),
    max_size=5,
    unique_by=lambda one: one[0],
)


def tar_of(files: list[tuple[str, bytes]]) -> Tar:
    return Tar([Member(f"a/{name}", len(content), 1_700_000_000) for name, content in files])


def read(tar: Tar, files: list[tuple[str, bytes]], start: int = 0, stop: int | None = None) -> bytes:
    def content(index: int, first: int, last: int):
        for at in range(first, last, 700):
            yield files[index][1][at : min(at + 700, last)]

    return b"".join(tar.read(start, tar.size if stop is None else stop, content))


@given(FILES, st.data())
def test_pythons_tarfile_reads_it_and_any_part_is_a_part_of_it(files, data):
    tar = tar_of(files)
    whole = read(tar, files)
    assert len(whole) == tar.size
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        found = [(one.name, opened.extractfile(one).read()) for one in opened]
    assert found == [(f"a/{name}", content) for name, content in files]
    start = data.draw(st.integers(0, tar.size))
    stop = data.draw(st.integers(start, tar.size))
    assert read(tar, files, start, stop) == whole[start:stop]


def test_a_member_of_more_than_eight_gibibytes_has_its_size(tmp_path):
    tar = Tar([Member("a/big", 9 * 1024**3, 0), Member("a/small", 3, 0)])
    at = 9 * 1024**3

    def content(index: int, first: int, last: int):
        assert index == 1, "nothing of the big one is asked for"
        yield b"abc"[first:last]

    end = b"".join(tar.read(at, tar.size, lambda *a: [bytes(a[2] - a[1])] if a[0] == 0 else content(*a)))
    assert b"abc" in end and at + len(end) == tar.size
    header = b"".join(tar.read(0, 1536, content))
    with tarfile.open(fileobj=io.BytesIO(header)) as opened:
        assert opened.next().size == at


@pytest.mark.parametrize(
    ("given", "words"), [(b"abcd", "longer than the 3"), (b"ab", "ended 1 bytes too early")]
)
def test_content_of_another_length_ends_it(given, words):
    tar = Tar([Member("a/one", 3, 0)])
    got = []
    with pytest.raises(ShortContent, match=words):
        got.extend(tar.read(0, tar.size, lambda *_: [given]))
    assert len(b"".join(got)) <= 512 + 3
