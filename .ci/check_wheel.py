"""Checks that a wheel holds what an installation needs, and nothing that belongs to the repository only."""

import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
needed = (
    "tardis_imagetrove/migrations/0001_initial.py",
    "tardis_imagetrove/templates/tardis_imagetrove/series_list.html",
    "tardis_imagetrove/management/commands/imagetrove_scp.py",
)
missing = [name for name in needed if name not in names]
strange = [name for name in names if not name.startswith("tardis_imagetrove")]
if missing or strange:
    sys.exit(f"the wheel lacks {missing} and holds {strange}")
print(f"{len(names)} files")
