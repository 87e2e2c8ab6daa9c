"""Studies of other formats, packed: the files of a folder in one ZIP file, with a manifest that describes them.

A folder is packed when it is taken into the spool (``folders/``), so that it arrives there complete or not at all.
The manifest holds the fields of the study, which were read from the folder, and for each file its path below the
study's folder, size and SHA-256.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import PermanentError
from .base import Acquisition, Fields, Item

MANIFEST = "manifest.json"


def fields_in(path: Path) -> Fields:
    """The fields of a pack.

    Raises:
        PermanentError: it is none.
    """
    try:
        with zipfile.ZipFile(path) as pack:
            fields: Fields = json.loads(pack.read(MANIFEST))["fields"]
            return fields
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise PermanentError(f"{path.name}: not a packed folder ({error})") from error


class PackedFormat:
    """Packed folders of any format but DICOM."""

    name = "folder"
    suffix = ".zip"

    def read(self, uid: str, paths: Iterable[Path], names: Iterable[str]) -> Acquisition:
        """The files of all packs of the study ``uid``, and the fields of each pack."""
        kind = self.name
        items: list[Item] = []
        read: list[Path] = []
        unreadable: list[str] = []
        groups: dict[tuple[str, ...], Fields] = {}
        asked = sorted(names)
        for path in paths:
            try:
                with zipfile.ZipFile(path) as pack:
                    manifest = json.loads(pack.read(MANIFEST))
                if manifest["uid"] != uid:
                    raise ValueError(f"belongs to study {manifest['uid']}")
                found = [
                    Item(
                        path,
                        file["uid"],
                        manifest["format"],
                        "",
                        file["size"],
                        file["sha256"],
                        file["file"],
                        file["path"],
                    )
                    for file in manifest["files"]
                ]
            except (zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
                unreadable.append(f"{path.name}: not a packed folder ({error})")
                continue
            kind = manifest["format"]
            items += found
            read.append(path)
            fields: dict[str, str] = manifest["fields"]
            groups.setdefault(tuple(fields.get(name, "") for name in asked), fields)
        return Acquisition(kind, uid, tuple(items), tuple(groups.values()), tuple(unreadable), tuple(read))

    def member_name(self, item: Item) -> str:
        return item.name
