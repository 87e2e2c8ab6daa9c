"""Files in the host's own folder."""

from django.conf import settings
from django.core.files.storage import FileSystemStorage


class MyTardisLocalFileSystemStorage(FileSystemStorage):
    """Django's file system storage, at DEFAULT_STORAGE_BASE_DIR unless the box has a location."""

    def __init__(self, location=None, base_url=None):
        super().__init__(location or settings.DEFAULT_STORAGE_BASE_DIR, base_url)
