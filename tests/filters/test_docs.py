"""The example of docs/filters.md does what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom

PAGE = Path(__file__).parents[2] / "docs" / "filters.md"


def test_the_histogram_filter_of_the_documentation_runs(phantom, tmp_path):
    files = phantom()
    module, trial = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "histogram.py").write_text(module)
    done = subprocess.run([sys.executable, "-c", trial], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = np.loadtxt(tmp_path / "out" / "0003_t1_histogram.csv", delimiter=",")
    pixels = np.concatenate([pydicom.dcmread(path).pixel_array.ravel() for path in files])
    assert table.shape == (64, 2)
    assert table[:, 1].sum() == pixels.size
    assert f"value={float(pixels.mean())!r}" in done.stdout


def test_it_can_be_listed_as_a_filter(tmp_path, monkeypatch):
    from tardis_imagetrove.conversion.registry import load

    module, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "histogram.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    filters = load(["tardis_imagetrove.filters.nifti.NiftiFilter", "histogram.HistogramFilter"])
    assert list(filters) == ["nifti", "histogram"]
