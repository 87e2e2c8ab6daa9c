"""Checks that a wheel holds every file of the package, as the repository has it, and nothing else."""

import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

names = set(zipfile.ZipFile(sys.argv[1]).namelist())
needed = {
    str(path.relative_to(REPOSITORY))
    for path in (REPOSITORY / "tardis_imagetrove").rglob("*")
    if path.is_file() and path.suffix not in (".pyc", ".pyo")
}
missing = sorted(needed - names)
strange = sorted(name for name in names - needed if ".dist-info/" not in name)
if missing or strange:
    sys.exit(f"the wheel lacks {missing} and holds {strange}")
print(f"{len(names)} files")
