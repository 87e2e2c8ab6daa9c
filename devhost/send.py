"""Send files by C-STORE, as an instrument's console does: ``send.py [--port N] PATH ...``."""

from __future__ import annotations

import argparse
import gzip
import io
import sys
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError
from pynetdicom import AE


def read(path: Path):
    """A DICOM file, gzipped or not; None if it is something else."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return pydicom.dcmread(io.BytesIO(content))
    except (InvalidDicomError, OSError) as error:
        print(f"not sent: {path}: {error}", file=sys.stderr)
        return None


def files_in(paths: list[Path]) -> list[Path]:
    return [
        file
        for path in paths
        for file in (
            sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]
        )
    ]


def send(paths: list[Path], host: str, port: int, called: str = "IMAGETROVE", calling: str = "DEMO") -> int:
    """Send what is DICOM under ``paths`` on one association; returns how many were acknowledged.

    Raises:
        ConnectionError: nobody listens, or the receiver refuses.
    """
    datasets = [dataset for path in files_in(paths) if (dataset := read(path)) is not None]
    if not datasets:
        return 0
    entity = AE(ae_title=calling)
    kinds = dict.fromkeys((ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets)
    for sop_class, syntax in list(kinds)[:128]:  # as many as an association has room for
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate(host, port, ae_title=called)
    if not association.is_established:
        raise ConnectionError(f"no association with {called} at {host}:{port}: is the receiver running?")
    acknowledged = 0
    for dataset in datasets:
        status = association.send_c_store(dataset)
        if status and status.Status == 0x0000:
            acknowledged += 1
        else:
            words = f"0x{status.Status:04X} {status.get('ErrorComment', '')}" if status else "no answer"
            print(f"refused: {dataset.SOPInstanceUID}: {words}", file=sys.stderr)
    association.release()
    return acknowledged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4242)
    parser.add_argument("paths", nargs="+", type=Path)
    options = parser.parse_args()
    missing = [str(path) for path in options.paths if not path.exists()]
    if missing or str(options.paths[0]) in ("", "."):
        print("Name a folder of DICOM files: make send DIR=/path/to/files", file=sys.stderr)
        return 2
    try:
        count = send(options.paths, options.host, options.port)
    except ConnectionError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} instances were acknowledged.")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
