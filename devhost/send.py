"""Send files by C-STORE, as an instrument's console does: ``send.py [--port N] PATH ...``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tardis_imagetrove import scu


def send(paths: list[Path], host: str, port: int) -> int:
    """Send what is DICOM under ``paths``; returns how many instances were acknowledged.

    Raises:
        ConnectionError: nobody listens, or the receiver refuses.
    """
    count = 0
    for datasets, problems in scu.read_all(paths):
        for problem in problems:
            print(f"not sent: {problem}", file=sys.stderr)
        if not datasets:
            continue
        try:
            sent = scu.send(datasets, scu.Peer(host, port, calling="DEMO"))
        except scu.CannotSend as error:
            raise ConnectionError(f"{error}: is the receiver running?") from error
        for refusal in sent.refused:
            print(f"refused: {refusal.sop_instance_uid}: {refusal.words}", file=sys.stderr)
        count += len(sent.acknowledged)
    return count


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
    print(f"{count} instance{' was' if count == 1 else 's were'} acknowledged.")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main())
