"""Pictures of a dataset in the size a page asks for."""

from io import BytesIO

from django.http import HttpResponse, HttpResponseBadRequest
from django.utils.cache import patch_cache_control
from PIL import Image, UnidentifiedImageError

from .auth.decorators import may_download
from .models import DataFile

FORMATS = {"jpg": "JPEG", "png": "PNG"}
MAX_AGE = 7 * 24 * 3600


def _scale(size, width, height):
    """Scale factor for `full`, `W,`, `,H` or `!W,H` (the largest that fits); ValueError for others."""
    if size == "full":
        return 1.0
    wide, comma, high = size.lstrip("!").partition(",")
    if not comma or (wide and high and not size.startswith("!")):
        raise ValueError(f"Invalid size argument: {size}")
    return min(float(wide) / width if wide else float("inf"), float(high) / height if high else float("inf"))


def download_image(request, datafile_id, region, size, rotation, quality, format="png"):
    """The picture; nothing at all (an empty 200, as on the real host) for those who may not have it."""
    datafile = DataFile.objects.filter(pk=datafile_id).first()
    if datafile is None or not may_download(request, datafile_id, "datafile"):
        return HttpResponse("")
    source = datafile.get_image_data()
    if source is None:
        return HttpResponse("")
    if region != "full" or float(rotation) or format not in FORMATS:
        return HttpResponseBadRequest("Only whole, upright JPEG and PNG pictures are served here.")
    try:
        with source, Image.open(source) as stored:
            picture = stored.convert("L" if stored.mode in ("1", "L") else "RGB")
    except (OSError, UnidentifiedImageError):
        return HttpResponse("")
    try:
        scale = _scale(size, *picture.size)
    except ValueError as error:
        return HttpResponseBadRequest(str(error))
    picture = picture.resize([max(1, round(length * scale)) for length in picture.size])
    buffer = BytesIO()
    picture.save(buffer, FORMATS[format])
    response = HttpResponse(buffer.getvalue(), content_type=Image.MIME[FORMATS[format]])
    patch_cache_control(response, private=True, max_age=MAX_AGE)
    return response
