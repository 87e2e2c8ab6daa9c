"""Files to take away: one, or all verified ones of a dataset as a tar archive made while it is sent."""

import tarfile
import time
from urllib.parse import quote

from django.http import FileResponse, StreamingHttpResponse

from .auth.decorators import dataset_download_required, may_download
from .iiif import download_image
from .models import DataFile, Dataset
from .shortcuts import render_error_message, return_response_error, return_response_not_found

WEB_PICTURES = ("image/gif", "image/jpeg", "image/png")


def _one_file(request, datafile_id, as_attachment):
    datafile = DataFile.objects.filter(pk=datafile_id).first()
    if datafile is None:
        return return_response_not_found(request)
    if not may_download(request, datafile_id, "datafile"):
        return return_response_error(request)
    if not as_attachment and datafile.is_image():
        return download_image(request, datafile.id, "full", "full", "0", "native")
    try:
        stored = datafile.get_file()
    except OSError:
        return return_response_not_found(request)
    if stored is None:
        return render_error_message(request, "File is unverified, please try again later.", status=503)
    return FileResponse(
        stored,
        as_attachment=as_attachment,
        filename=datafile.filename,
        content_type=datafile.get_mimetype(),
    )


def download_datafile(request, datafile_id):
    return _one_file(request, datafile_id, as_attachment=True)


def view_datafile(request, datafile_id):
    return _one_file(request, datafile_id, as_attachment=False)


def _tar(datafiles, root):
    """The bytes of a tar archive, file after file, without ever holding one whole."""
    for datafile in datafiles:
        parts = [*root, datafile.directory, datafile.filename]
        entry = tarfile.TarInfo("/".join(part for part in parts if part))
        entry.size = datafile.size
        moment = datafile.modification_time or datafile.created_time
        entry.mtime = moment.timestamp() if moment else time.time()
        yield entry.tobuf()
        with datafile.get_file() as stored:
            yield from stored.chunks()
        yield b"\0" * (-entry.size % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


@dataset_download_required
def streaming_download_dataset(request, dataset_id, comptype="tgz"):
    """All verified files of the dataset; as on the real host only `tar` works."""
    if comptype != "tar":
        return render_error_message(request, "Only tar archives are made here.")
    dataset = Dataset.objects.get(pk=dataset_id)
    name = quote(dataset.description.replace(" ", "_"), safe="")
    files = dataset.datafile_set.filter(file_objects__verified=True).distinct()
    archive = _tar(
        files.order_by("directory", "filename"),
        [name, dataset.directory, quote(dataset.description, safe="")],
    )
    response = StreamingHttpResponse(archive, content_type="application/x-tar")
    response["Content-Disposition"] = f'attachment; filename="{name}-complete.tar"'
    return response
