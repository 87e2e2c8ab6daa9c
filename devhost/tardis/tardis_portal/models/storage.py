"""Storage boxes: where the bytes of files are, as a Django storage class and its options."""

import base64
import os
import pickle

from django.conf import settings
from django.db import models
from django.utils.module_loading import import_string


class StorageBox(models.Model):
    """One place for files."""

    DISK = 1
    TAPE = 2
    CACHE = 3
    TEMPORARY = 4
    TYPE_UNKNOWN = 5
    BUNDLE = 6
    TYPES = {"cache": CACHE, "receiving": TEMPORARY, "tape": TAPE, "disk": DISK, "bundle": BUNDLE}
    # A file that lies in several boxes is read from the first of these kinds.
    type_order = [CACHE, BUNDLE, DISK, TAPE, TEMPORARY, TYPE_UNKNOWN]

    django_storage_class = models.TextField(
        default="tardis.tardis_portal.storage.MyTardisLocalFileSystemStorage"
    )
    max_size = models.BigIntegerField(null=True, blank=True)
    status = models.CharField(max_length=100, default="online")
    name = models.CharField(max_length=255, default="default", unique=True)
    description = models.TextField(default="Default Storage")
    master_box = models.ForeignKey(
        "self", null=True, blank=True, related_name="child_boxes", on_delete=models.CASCADE
    )

    class Meta:
        app_label = "tardis_portal"
        ordering = ("name",)
        verbose_name_plural = "storage boxes"

    def __str__(self):
        return self.name or "anonymous Storage Box"

    @property
    def storage_type(self):
        return self.TYPES.get(self._attribute("type"), self.TYPE_UNKNOWN)

    @property
    def priority(self):
        """The priority of tasks about files of this box."""
        return int(self._attribute("priority") or settings.DEFAULT_TASK_PRIORITY)

    def _attribute(self, key):
        attribute = self.attributes.filter(key=key).first()
        return attribute.value if attribute else None

    def get_options_as_dict(self):
        return {option.key: option.unpickled_value for option in self.options.all()}

    def get_initialised_storage_instance(self):
        return import_string(self.django_storage_class)(**self.get_options_as_dict())

    @classmethod
    def get_default_storage(cls, location=None, user=None):
        """The box marked as default, else the one at the location, which is made if there is none.

        OSError if the folder does not exist; MultipleObjectsReturned if two boxes are marked.
        """
        if location is None:
            marked = cls.objects.filter(attributes__key="default", attributes__value="True")
            if marked.exists():
                return marked.get()
        location = location or settings.DEFAULT_STORAGE_BASE_DIR
        there = cls.objects.filter(options__key="location", options__value=location).first()
        return there or cls.create_local_box(location)

    @classmethod
    def create_local_box(cls, location=None):
        """A new box in a folder, which must exist (OSError); two at one place clash by their name."""
        disk = os.statvfs(location)
        box = cls.objects.create(
            name=f"local box at {location}", max_size=int(disk.f_frsize * disk.f_blocks * 0.9)
        )
        box.options.create(key="location", value=location)
        return box


class StorageBoxOption(models.Model):
    """An argument of the box's storage class."""

    STRING = "string"
    PICKLE = "pickle"

    storage_box = models.ForeignKey(StorageBox, related_name="options", on_delete=models.CASCADE)
    key = models.TextField()
    value = models.TextField()
    value_type = models.CharField(
        max_length=6, choices=((STRING, "String value"), (PICKLE, "Pickled value")), default=STRING
    )

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return f"{self.storage_box}-> {self.key}: {self.unpickled_value}"

    @property
    def unpickled_value(self):
        if not self.value:
            return None
        if self.value_type == self.STRING:
            return self.value
        return pickle.loads(base64.b64decode(self.value))

    @unpickled_value.setter
    def unpickled_value(self, value):
        if self.value_type == self.PICKLE:
            value = base64.b64encode(pickle.dumps(value)).decode()
        self.value = value


class StorageBoxAttribute(models.Model):
    """Something the host should know of a box: its `type`, its `priority`, whether it `can_delete`."""

    storage_box = models.ForeignKey(StorageBox, related_name="attributes", on_delete=models.CASCADE)
    key = models.TextField()
    value = models.TextField()

    class Meta:
        app_label = "tardis_portal"

    def __str__(self):
        return f"{self.storage_box}-> {self.key}: {self.value}"
