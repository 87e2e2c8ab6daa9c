"""Files and their stored copies: written through a storage box, verified, read, deleted."""

import hashlib
import logging
import mimetypes
import posixpath
import re
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from urllib.parse import quote

from django.conf import settings
from django.core.files import File
from django.db import models
from django.db.models import Q, Sum
from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django.urls import reverse
from django.utils import timezone

from .. import tasks
from ..flavour import TYPED
from .dataset import Dataset
from .experiment import PublicAccess
from .storage import StorageBox

logger = logging.getLogger(__name__)

IMAGE_FILTER = (Q(mimetype__startswith="image/") & ~Q(mimetype="image/x-icon")) | Q(
    datafileparameterset__datafileparameter__name__units__startswith="image"
)
VIEWABLE_MIMETYPES = re.compile("image/|text/|application/pdf")
SECONDS_BEFORE_VERIFYING = 5


class DataFile(PublicAccess, models.Model):
    """The record of a file; where its bytes are is said by its `file_objects`."""

    dataset = models.ForeignKey(Dataset, on_delete=models.CASCADE)
    filename = models.CharField(max_length=400)
    directory = models.CharField(blank=True, null=True, max_length=255)
    size = models.BigIntegerField(blank=True, null=True)
    created_time = models.DateTimeField(null=True, blank=True)
    modification_time = models.DateTimeField(null=True, blank=True)
    mimetype = models.CharField(db_index=True, blank=True, max_length=80)
    md5sum = models.CharField(blank=True, max_length=32)
    sha512sum = models.CharField(blank=True, max_length=128)
    if TYPED:
        public_access = models.PositiveSmallIntegerField(
            choices=PublicAccess.PUBLIC_ACCESS_CHOICES, default=PublicAccess.PUBLIC_ACCESS_NONE
        )
    deleted = models.BooleanField(default=False)
    deleted_time = models.DateTimeField(blank=True, null=True)
    version = models.IntegerField(default=1)

    class Meta:
        app_label = "tardis_portal"
        ordering = ["filename"]
        unique_together = ["dataset", "directory", "filename", "version"]

    def __str__(self):
        checksum = self.sha512sum[:32] or self.md5sum or "no checksum"
        return f"{checksum} {self.filename} # {self.mimetype}"

    def save(self, *args, **kwargs):
        """Refuses a file without size or checksum, and fills in the mimetype."""
        needs_checksum = kwargs.pop("require_checksums", True) and settings.REQUIRE_DATAFILE_CHECKSUMS
        if needs_checksum and not (self.md5sum or self.sha512sum):
            raise Exception("Every Datafile requires a checksum")
        if self.size is not None:
            self.size = int(self.size)
        if settings.REQUIRE_DATAFILE_SIZES and (self.size is None or self.size < 0):
            raise Exception(f"Invalid Datafile size (must be >= 0): {self.size}")
        self.update_mimetype(save=False)
        super().save(*args, **kwargs)

    @property
    def file_object(self):
        return self.get_file()

    @file_object.setter
    def file_object(self, file_object):
        """Writes into the box where the file is, or the default one of its dataset.

        As on the real host a second assignment clashes with the first copy (IntegrityError).
        """
        copies = list(self.file_objects.all())
        for box in [copy.storage_box for copy in copies] or [self.get_default_storage_box()]:
            new = DataFileObject.objects.create(datafile=self, storage_box=box)
            new.file_object = file_object
        for copy in copies:
            copy.delete()

    def get_default_storage_box(self):
        """The one box all files of the dataset are in, else the host's default."""
        if settings.REUSE_DATASET_STORAGE_BOX:
            boxes = list(self.dataset.get_all_storage_boxes_used()[:2])
            if len(boxes) == 1:
                return boxes[0]
        return StorageBox.get_default_storage()

    def get_preferred_dfo(self, verified_only=True):
        """The copy that is quickest to read, or None."""
        copies = self.file_objects.filter(verified=True) if verified_only else self.file_objects.all()
        order = StorageBox.type_order.index
        return min(copies, key=lambda copy: order(copy.storage_type), default=None)

    def get_file(self, verified_only=True):
        """An open binary file, or None when no copy is verified."""
        copy = self.get_preferred_dfo(verified_only)
        return copy.file_object if copy else None

    @contextmanager
    def get_as_temporary_file(self, directory=None):
        """A copy on the local disk that lives as long as the context."""
        with NamedTemporaryFile(dir=directory) as copy:
            with self.file_object as source:
                for chunk in source.chunks():
                    copy.write(chunk)
            copy.flush()
            copy.seek(0)
            yield copy

    def get_absolute_filepath(self):
        copy = self.file_objects.first()
        return copy.get_full_path() if copy else None

    @property
    def verified(self):
        """Whether any copy is verified."""
        return self.file_objects.filter(verified=True).exists()

    def verify(self, reverify=False):
        """Verifies the copies that are not (or all), and says whether those all hold."""
        return all([copy.verify() for copy in self.file_objects.all() if reverify or not copy.verified])

    def update_mimetype(self, mimetype=None, force=False, save=True):
        """Fills an empty mimetype from the file's name; the real host may also look at the content."""
        if self.mimetype and not force:
            return self.mimetype
        if mimetype is None:
            mimetype, encoding = mimetypes.guess_type(self.filename)
            if mimetype and encoding:
                mimetype = f"{mimetype}; {encoding}"
            mimetype = mimetype or "application/octet-stream"
        self.mimetype = mimetype
        if save:
            self.save()
        return mimetype

    def get_mimetype(self):
        return self.mimetype or mimetypes.guess_type(self.filename)[0] or "application/octet-stream"

    def is_image(self):
        mimetype = self.get_mimetype()
        return mimetype.startswith("image/") and mimetype not in ("image/x-icon", "image/img")

    @property
    def has_image(self):
        return self.is_image()

    def get_image_data(self):
        """The picture as an open binary file, or None if it is no picture or too large to show."""
        limit = settings.RENDER_IMAGE_SIZE_LIMIT
        if self.is_image() and (not limit or self.size <= limit):
            return self.get_file()
        return None

    @property
    def view_url(self):
        """Where a browser can show the file, or None."""
        limit = settings.RENDER_IMAGE_SIZE_LIMIT
        if (limit and self.size > limit) or not VIEWABLE_MIMETYPES.match(self.get_mimetype()):
            return None
        return reverse("tardis.tardis_portal.download.view_datafile", kwargs={"datafile_id": self.id})

    @property
    def download_url(self):
        return reverse(
            "api_download_file", kwargs={"pk": self.id, "api_name": "v1", "resource_name": "dataset_file"}
        )

    @classmethod
    def sum_sizes(cls, datafiles):
        """Bytes of a query's files together."""
        return datafiles.aggregate(total=Sum("size"))["total"] or 0

    def getParameterSets(self):
        from .parameters import Schema

        return self.datafileparameterset_set.filter(schema__type=Schema.DATAFILE)

    def _has_view_perm(self, user_obj):
        """Asked by 5.0 where objects have rights of their own."""
        return True if TYPED and self.public_access >= self.PUBLIC_ACCESS_METADATA else None

    def _has_download_perm(self, user_obj):
        return True if TYPED and self.public_download_allowed() else None


class DataFileObject(models.Model):
    """One stored copy of a file."""

    datafile = models.ForeignKey(DataFile, related_name="file_objects", on_delete=models.CASCADE)
    storage_box = models.ForeignKey(StorageBox, related_name="file_objects", on_delete=models.CASCADE)
    uri = models.TextField(blank=True, null=True)
    created_time = models.DateTimeField(auto_now_add=True)
    verified = models.BooleanField(default=False)
    last_verified_time = models.DateTimeField(blank=True, null=True)

    class Meta:
        app_label = "tardis_portal"
        unique_together = ["datafile", "storage_box"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._saved_identity = self._identity()
        self._storage_instance = None
        self._open_file = None

    def __str__(self):
        return f"Box: {self.storage_box}, URI: {self.uri}, verified: {self.verified}"

    def _identity(self):
        """All of the copy that verification does not change."""
        return (self.pk, self.datafile_id, self.storage_box_id, self.uri)

    def save(self, *args, **kwargs):
        """Saves, and at every change asks a worker to verify: at once, not when the transaction commits."""
        reverify = kwargs.pop("reverify", False)
        super().save(*args, **kwargs)
        changed = self._identity() != self._saved_identity
        self._saved_identity = self._identity()
        if not (changed or reverify):
            return
        try:
            tasks.dfo_verify.apply_async(
                args=[self.id],
                countdown=SECONDS_BEFORE_VERIFYING,
                priority=self.priority,
                shadow=f"dfo_verify location:{self.storage_box.name}",
            )
        except Exception:
            # As on the real host a broker that is away does not stop the save.
            logger.exception("Failed to submit verification task for DFO ID %s", self.id)

    @property
    def storage_type(self):
        return self.storage_box.storage_type

    @property
    def priority(self):
        return self.storage_box.priority

    @property
    def _storage(self):
        if self._storage_instance is None:
            self._storage_instance = self.storage_box.get_initialised_storage_instance()
        return self._storage_instance

    def _create_uri(self):
        """The path inside the box, unless the storage class has its own way to make one."""
        build = getattr(self._storage, "build_identifier", None)
        own = build(self) if build else None
        if own:
            return own
        dataset = self.datafile.dataset
        parts = [f"{quote(dataset.description, safe='') or 'untitled'}-{dataset.id}"]
        if self.datafile.directory is not None:
            parts.append(quote(self.datafile.directory))
        return posixpath.join(*parts, self.datafile.filename.strip())

    def create_set_uri(self, force=False, save=False):
        """Sets and returns the path inside the box; as on the real host also when there was one."""
        if force or self.uri is None or self.uri.strip():
            self.uri = self._create_uri()
            if save:
                self.save()
        return self.uri

    @property
    def file_object(self):
        """The stored bytes as an open binary file."""
        if self._open_file is None or self._open_file.closed:
            self._open_file = self._storage.open(self.uri or self._create_uri(), mode="rb")
        return self._open_file

    @file_object.setter
    def file_object(self, file_object):
        """Writes the file into the box under a name that is free there, and closes it."""
        if file_object.closed:
            file_object = File(file_object)
            file_object.open(mode="rb")
        file_object.seek(0)
        self.uri = self._storage.save(self.uri or self.create_set_uri(), file_object)
        file_object.close()
        self.verified = False
        self.save()

    def get_full_path(self):
        """The path on the local disk; NotImplementedError where a storage class has none."""
        return self._storage.path(self.uri)

    def delete_data(self):
        self._storage.delete(self.uri)

    def calculate_checksums(self, compute_md5=True, compute_sha512=False):
        """Hex digests of the stored bytes: {"md5sum": ..., "sha512sum": ...}, those asked for."""
        return compute_checksums(self.file_object, compute_md5, compute_sha512)

    def verify(self, add_checksums=True, add_size=True):
        """Compares size and checksums with what is recorded, and records the answer.

        What is recorded as empty is filled in, if nothing else differs.
        """
        record = self.datafile
        digests = [name for name, on in self._digests().items() if on]
        try:
            actual = {"size": self.file_object.size}
            if record.size in (None, actual["size"]):
                actual |= self.calculate_checksums(**{f"compute_{name[:-3]}": True for name in digests})
        except OSError as error:
            logger.debug("DataFileObject with id %s did not verify: %s", self.id, error)
            actual = {}
        recorded = {name: getattr(record, name) for name in ["size", *digests]}
        wrong = {
            name: value
            for name, value in recorded.items()
            if value not in (None, "") and actual.get(name) != value
        }
        missing = {
            name: actual[name]
            for name, value in recorded.items()
            if value in (None, "") and name in actual and (add_size if name == "size" else add_checksums)
        }
        result = not wrong
        if result and missing:
            for name, value in missing.items():
                setattr(record, name, value)
            record.save()
        if wrong:
            logger.debug("DataFileObject with id %s did not verify: %s is not %s", self.id, actual, wrong)
        self.verified = result
        self.last_verified_time = timezone.now()
        self.save(update_fields=["verified", "last_verified_time"])
        record.update_mimetype()
        return result

    @staticmethod
    def _digests():
        return {"md5sum": settings.COMPUTE_MD5, "sha512sum": settings.COMPUTE_SHA512}


def compute_checksums(file_object, compute_md5=True, compute_sha512=False, close_file=True):
    """Hex digests of an open binary file, read from its start: {"md5sum": ..., "sha512sum": ...}."""
    hashers = {}
    if compute_md5:
        hashers["md5sum"] = hashlib.md5()
    if compute_sha512:
        hashers["sha512sum"] = hashlib.sha512()
    file_object.seek(0)
    while chunk := file_object.read(1 << 20):
        for hasher in hashers.values():
            hasher.update(chunk)
    if close_file:
        file_object.close()
    else:
        file_object.seek(0)
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


@receiver(pre_delete, sender=DataFileObject, dispatch_uid="devhost_delete_stored_file")
def delete_the_stored_file(sender, instance, **kwargs):
    """The bytes go with the record, unless the box has the attribute `can_delete` other than true."""
    can_delete = instance.storage_box._attribute("can_delete") or "True"
    if instance.uri and can_delete.lower() == "true":
        instance.delete_data()
