"""Prints the table of docs/fidelity.md from reports of ``benchmarks/fidelity.py --json``.

python benchmarks/fidelity_table.py REPORT.json ...
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

HEAD = (
    "| repository | series | same | differ, with a reason | no image on either side | same, and flagged as a problem"
    " | CPU, × dcm2niix |"
)


def line(name: str, rows: list[dict[str, object]]) -> str:
    """One line of the table; a difference without a reason is an error, which stands in it."""
    verdicts = Counter(str(row["verdict"]) for row in rows)
    differing = [row for row in rows if row["verdict"] in ("differs", "sidecar", "failed")]
    unexplained = sum(not row["reason"] for row in differing if row["verdict"] != "sidecar")
    flagged = sum(row["verdict"] in ("same", "sidecar") and row["state"] == "partial" for row in rows)
    ours, alone = (sum(float(str(row[key])) for row in rows) for key in ("cpu", "cpu_dcm2niix"))
    differ = f"{len(differing)}" + (f" ({unexplained} WITHOUT)" if unexplained else "")
    ratio = f"{ours / alone:.1f}" if alone else "-"
    cells = (name, len(rows), verdicts["same"], differ, verdicts["nothing"], flagged, ratio)
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path)
    rows = [row for path in parser.parse_args().reports for row in json.loads(path.read_text())["rows"]]
    by_repository: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        by_repository.setdefault(str(row["repository"]), []).append(row)
    print(HEAD, "|---" * 7 + "|", sep="\n")
    for name in sorted(by_repository):
        print(line(name, by_repository[name]))
    print(line("**all**", rows))
    slow = sorted(
        (row for row in rows if row["cpu_dcm2niix"] > 0.05), key=lambda row: -row["cpu"] / row["cpu_dcm2niix"]
    )
    if slow:
        worst = slow[0]
        print(
            f"\nmost of a series on which dcm2niix spends more than 0.05 s:"
            f" {worst['cpu'] / worst['cpu_dcm2niix']:.1f} × ({worst['repository']} {worst['series']})"
        )


if __name__ == "__main__":
    main()
