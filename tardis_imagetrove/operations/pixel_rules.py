"""Pixel rules are tried on an image before they are used."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageDraw
from pydicom import pixels

from ..deidentification import PixelRegions, black_out
from ..errors import PermanentError
from ..ingest.glance import CannotGlance, glance
from ..ingest.limited import within_limits
from ..models import Series
from ..spool import Spool

#: Series that are looked through for an image, the newest first, and files of each.
MOST_SERIES = 200
FILES_EACH = 3
#: Longest side of a picture, in pixels.
LONGEST_SIDE = 1280

_FIELDS = ("Modality", "Manufacturer", "ManufacturerModelName", "Rows", "Columns")


@dataclass(frozen=True)
class Trial:
    """A rule tried on an image.

    Attributes:
        before, after: the first frame as PNG; before, the regions are outlined.
        series_uid: where the image is from.
    """

    before: bytes
    after: bytes
    series_uid: str


def try_rule(rule: PixelRegions, spool: Spool) -> Trial | None:
    """Try a rule on an image that is held in the spool and that it fits; None if there is no such image.

    Raises:
        PermanentError: its pixels cannot be cleaned; the text says why.
        RetriableError: it cannot be read now.
    """
    held = Series.objects.filter(state=Series.State.HELD).order_by("-modified")
    for uid in held.values_list("series_uid", flat=True)[:MOST_SERIES]:
        for path in spool.files(uid)[:FILES_EACH]:
            try:
                fits = rule.fits(glance(path, _FIELDS))
            except (CannotGlance, OSError):
                continue
            if fits:
                before, after = within_limits(lambda path=path: _pictures(path, rule), [path], "the trial")
                return Trial(before, after, uid)
    return None


def _pictures(path: Path, rule: PixelRegions) -> tuple[bytes, bytes]:
    dataset = pydicom.dcmread(path)
    try:
        before = _picture(dataset)
        black_out(dataset, rule.regions)
        after = _picture(dataset)
    except ValueError as error:
        raise PermanentError(f"the image {error}") from None
    outlines = ImageDraw.Draw(before)
    for left, top, width, height in rule.regions:
        box = (left, top, min(left + width, rule.columns) - 1, min(top + height, rule.rows) - 1)
        outlines.rectangle(box, outline=(255, 64, 64), width=max(1, rule.columns // 300))
    return _png(before), _png(after)


def _picture(dataset: pydicom.Dataset) -> Image.Image:
    """The first frame as it is shown, its full range as grey values."""
    frame = pixels.pixel_array(dataset, index=0)
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        frame = pixels.apply_color_lut(frame, dataset)
    frame = frame.astype(float)
    low, high = (0.0, float(frame.max())) if frame.ndim == 3 else (float(frame.min()), float(frame.max()))
    grey = ((frame - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    return Image.fromarray(255 - grey if kind == "MONOCHROME1" else grey).convert("RGB")


def _png(picture: Image.Image) -> bytes:
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
