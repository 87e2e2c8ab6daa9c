"""The watcher: what is complete is taken once, what is archived is cleared, and no entry stops another."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tardis_imagetrove.folders.importing import units
from tardis_imagetrove.folders.source import Afterwards, Kind, Source
from tardis_imagetrove.folders.watcher import FolderWatcher
from tardis_imagetrove.phantom import oblique_mr_series
from tardis_imagetrove.spool import Spool


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Site:
    """A watched root with a spool and an archive that says what it has."""

    def __init__(self, folder: Path, **fields):
        self.root, self.moved = folder / "in", folder / "moved"
        self.root.mkdir()
        self.spool = Spool(folder / "spool", reserve_bytes=0)
        self.spool.prepare()
        self.source = Source("s", self.root, quiet_seconds=30, **fields)
        self.archived, self.told, self.clock = False, [], Clock()
        self.watcher = FolderWatcher(
            self.spool,
            lambda: [self.source],
            lambda key, uid: None,
            lambda taken: "" if self.archived else "not archived",
            self.told.append,
            self.clock,
        )

    def look(self, seconds: float = 100) -> None:
        self.clock.now += seconds
        self.watcher.tick()

    def spooled(self) -> int:
        return sum(len(self.spool.files(uid)) for uid in self.spool.series_uids())

    def study(self, name: str, slices: int = 3) -> list[Path]:
        folder = self.root / name
        folder.mkdir(parents=True)
        return oblique_mr_series(folder, slices=slices)


@pytest.fixture
def make(tmp_path):
    return lambda **fields: Site(tmp_path, **fields)


def test_an_entry_is_taken_once_it_is_quiet_and_late_files_follow(make, tmp_path):
    site = make()
    site.study("one")
    site.look()
    assert site.spooled() == 0
    site.look(20)
    assert site.spooled() == 0
    (site.root / "one" / "notes.txt").write_text("hello")  # it grows
    site.look(20)
    site.look(20)
    assert site.spooled() == 0
    site.look(40)
    assert site.spooled() == 3
    (uid,) = site.spool.series_uids()
    kept = {path.read_bytes() for path in site.spool.files(uid)}
    assert kept == {path.read_bytes() for path in (site.root / "one").rglob("*.dcm")}
    late = oblique_mr_series(tmp_path / "late", slices=2)
    (late[0]).rename(site.root / "one" / "late.dcm")
    site.look()
    site.look()
    assert site.spooled() == 4


def test_one_that_cannot_be_moved_stops_none_of_the_others(make, tmp_path, monkeypatch):
    site = make(afterwards=Afterwards.MOVE, move_to=tmp_path / "moved")
    site.archived = True
    for name in ("a", "b", "c"):
        site.study(name)
    rename = Path.rename

    def refuse(self, target):
        if self.name == "a":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    site.look()
    site.look()
    assert sorted(path.name for path in site.moved.iterdir()) == ["b", "c"]
    assert (site.root / "a").exists() and site.spooled() == 9
    assert [(one.unit, one.state) for one in site.told if one.state == "trouble"] == [("a", "trouble")]
    monkeypatch.undo()
    site.look()
    assert sorted(path.name for path in site.moved.iterdir()) == ["a", "b", "c"]
    assert [one.unit for one in site.told if one.state == "well"] == ["a"]


def test_nothing_is_moved_or_deleted_before_it_is_archived_and_an_empty_folder_never(make, tmp_path):
    site = make(afterwards=Afterwards.MOVE, move_to=tmp_path / "moved")
    site.study("one")
    (site.root / "empty").mkdir()
    site.look()
    site.look()
    site.look()
    assert site.spooled() == 3 and not site.moved.exists()
    site.archived = True
    site.look()
    assert [path.name for path in site.moved.iterdir()] == ["one"]
    assert (site.root / "empty").is_dir()


def test_what_is_written_while_an_entry_is_moved_is_not_left_behind(make, tmp_path, monkeypatch):
    site = make(afterwards=Afterwards.MOVE, move_to=tmp_path / "moved")
    site.archived = True
    site.study("one")
    rename = Path.rename

    def late(self, target):
        if self.parent == site.root:
            (self / "late.dcm").write_bytes(b"written at the last moment")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    site.look()
    site.look()
    monkeypatch.undo()
    assert (site.root / "one" / "late.dcm").exists()
    assert list(site.moved.iterdir()) == []
    site.look()
    site.look()  # it is looked at, found to be no DICOM, and goes along
    assert (site.moved / "one" / "late.dcm").exists()


def test_an_entry_that_is_made_again_while_it_is_moved_loses_nothing(make, tmp_path, monkeypatch):
    site = make(afterwards=Afterwards.MOVE, move_to=tmp_path / "moved")
    site.archived = True
    site.study("one")
    rename = Path.rename

    def late(self, target):
        if self.parent == site.root:
            (self / "late.dcm").write_bytes(b"written at the last moment")
            rename(self, target)
            self.mkdir()  # and the instrument goes on
            (self / "next.txt").write_text("more")
            return Path(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    site.look()
    site.look()
    monkeypatch.undo()
    assert (site.root / "one_2" / "late.dcm").exists() and (site.root / "one" / "next.txt").exists()
    assert list(site.moved.iterdir()) == []
    site.look()
    site.look()
    assert site.spooled() == 3


def test_a_folder_that_cannot_be_listed_hides_no_study_beside_it(tmp_path, monkeypatch):
    for name in ("closed", "open"):
        (tmp_path / name / "study" / "1" / "pdata").mkdir(parents=True)
    iterdir = Path.iterdir

    def refuse(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = [unit.name for unit in units(Source("s", tmp_path, Kind.PARAVISION))]
    assert found == ["open/study"]


def test_a_name_that_is_taken_is_never_overwritten(make, tmp_path):
    site = make(afterwards=Afterwards.MOVE, move_to=tmp_path / "moved")
    site.archived = True
    (file,) = oblique_mr_series(tmp_path / "x", slices=1)
    file.rename(site.root / "image.dcm")
    site.moved.mkdir()
    (site.moved / "image.dcm").write_text("another one")
    site.look()
    site.look()
    assert (site.moved / "image.dcm").read_text() == "another one"
    assert (site.moved / "image.dcm_2").exists() and not (site.root / "image.dcm").exists()


def test_where_units_are_moved_to_is_none_itself(make, tmp_path):
    site = make(afterwards=Afterwards.MOVE, move_to=tmp_path / "in" / "done")
    site.archived = True
    site.study("one")
    for _ in range(4):
        site.look()
    assert sorted(path.name for path in site.root.iterdir()) == ["done"]
    assert list(units(site.source)) == []


def test_deleting_leaves_what_was_not_taken(make):
    site = make(afterwards=Afterwards.DELETE)
    site.study("one")
    (site.root / "one" / "notes.txt").write_text("keep me")
    site.look()
    site.look()
    assert len(list((site.root / "one").rglob("*.dcm"))) == 3
    site.archived = True
    site.look()
    assert [path.name for path in (site.root / "one").rglob("*") if path.is_file()] == ["notes.txt"]


def test_patterns_leave_whole_folders_and_choose_files(make):
    site = make(take=("*.dcm",), leave=("trash", "two/*"))
    for name in ("one", "two", "trash"):
        site.study(name)
    assert [unit.name for unit in units(site.source)] == ["one", "two"]
    site.look()
    site.look()
    assert site.spooled() == 3


def test_a_marker_completes_an_entry_at_the_next_look(make):
    site = make(marker="MARKER_is_finished_{name}")
    site.source = replace(site.source, quiet_seconds=10_000)
    site.study("one")
    site.look()
    site.look()
    assert site.spooled() == 0
    (site.root / "MARKER_is_finished_one").touch()
    site.look()
    assert site.spooled() == 3
    assert [unit.name for unit in units(site.source)] == ["one"]


def test_a_mount_that_goes_away_is_told_once_and_taken_up_again(make, tmp_path):
    site = make()
    site.study("one")
    site.look()
    away = tmp_path / "away"
    site.root.rename(away)
    site.look()
    site.look()
    assert [one.state for one in site.told if one.state in ("trouble", "well")] == ["trouble"]
    away.rename(site.root)
    site.look()
    site.look()
    assert site.spooled() == 3


def test_a_folder_that_cannot_be_read_waits_and_its_trouble_goes_with_it(make, monkeypatch):
    site = make()
    site.study("one")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "one":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    site.look()
    site.look()
    assert site.spooled() == 0
    assert {one.text for one in site.told if one.unit == "one"} == {"one: Permission denied"}
    monkeypatch.undo()
    site.look()
    site.look()
    assert site.spooled() == 3


def test_trouble_of_an_entry_that_is_gone_is_over(make, tmp_path, monkeypatch):
    site = make(afterwards=Afterwards.MOVE, move_to=tmp_path / "moved")
    site.archived = True
    site.study("a")

    rename = Path.rename

    def refuse(self, target):
        if self.name == "a":
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    site.look()
    site.look()
    monkeypatch.undo()
    (site.root / "a").rename(tmp_path / "taken away")
    site.look()
    assert [one.state for one in site.told if one.unit == "a" and one.state in ("trouble", "well")] == [
        "trouble",
        "well",
    ]


def test_what_was_taken_is_not_read_again_after_a_restart(make, monkeypatch):
    site = make()
    site.study("one")
    site.look()
    site.look()
    assert site.spooled() == 3
    again = FolderWatcher(
        site.spool,
        lambda: [site.source],
        lambda key, uid: None,
        lambda taken: "",
        site.told.append,
        site.clock,
    )
    opened = []
    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *args, **more: (opened.append(self), original(self, *args, **more))[1]
    )
    again.tick()
    site.clock.now += 100
    again.tick()
    assert not [path for path in opened if site.root in path.parents]


def test_a_full_spool_stops_a_look_and_nothing_is_lost(make, monkeypatch):
    site = make()
    for name in ("a", "b"):
        site.study(name)
    site.look()
    site.spool.reserve_bytes = 2**62
    site.look()
    (trouble,) = [one for one in site.told if one.state == "trouble"]
    assert "reserve" in trouble.text and site.spooled() == 0
    site.spool.reserve_bytes = 0
    site.look()
    assert site.spooled() == 6


def test_a_mistake_of_ours_over_one_entry_stops_no_other(make, caplog):
    site = make()
    site.study("a-bad")
    site.study("b-good", slices=2)
    broken = iter([True])

    def announce(key, uid):
        if next(broken, False):
            raise RuntimeError("a mistake")

    site.watcher._announce = announce
    for _ in range(3):
        site.look()
    assert site.spooled() >= 2
    told = [status for status in site.told if status.state == "trouble"]
    assert [(status.unit, status.text) for status in told] == [
        ("a-bad", "unexpected error: RuntimeError: a mistake")
    ]
    assert "Traceback" in caplog.text
    site.look()
    assert site.spooled() == 5  # once the mistake is over, it goes on by itself
