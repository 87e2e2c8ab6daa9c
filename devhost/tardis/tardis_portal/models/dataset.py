"""A dataset: files of one or more experiments, made by an instrument."""

from django.conf import settings
from django.db import models
from django.urls import reverse
from django.utils import timezone

from ..flavour import TYPED
from .experiment import Experiment, PublicAccess
from .instrument import Instrument
from .storage import StorageBox


class Dataset(PublicAccess, models.Model):
    """Who may see it is said by the rules of its experiments."""

    experiments = models.ManyToManyField(Experiment, related_name="datasets")
    description = models.TextField(blank=True)
    directory = models.CharField(blank=True, null=True, max_length=255)
    created_time = models.DateTimeField(null=True, blank=True, default=timezone.now)
    modified_time = models.DateTimeField(null=True, blank=True)
    if TYPED:
        public_access = models.PositiveSmallIntegerField(
            choices=PublicAccess.PUBLIC_ACCESS_CHOICES, default=PublicAccess.PUBLIC_ACCESS_NONE
        )
    immutable = models.BooleanField(default=False)
    instrument = models.ForeignKey(Instrument, null=True, blank=True, on_delete=models.CASCADE)

    class Meta:
        app_label = "tardis_portal"
        ordering = ["-id"]

    def __str__(self):
        return self.description

    def save(self, *args, **kwargs):
        self.modified_time = timezone.now()
        super().save(*args, **kwargs)

    def get_first_experiment(self):
        """The oldest of its experiments; DoesNotExist if it has none."""
        return self.experiments.order_by("created_time")[:1].get()

    def get_datafiles(self):
        return self.datafile_set.all()

    def getParameterSets(self):
        from .parameters import Schema

        return self.datasetparameterset_set.filter(schema__type=Schema.DATASET)

    def get_absolute_url(self):
        return reverse("tardis_portal.view_dataset", kwargs={"dataset_id": self.id})

    def get_download_urls(self):
        """The address of the whole dataset for each kind of archive."""
        view = "tardis.tardis_portal.download.streaming_download_dataset"
        return {
            kind: reverse(view, kwargs={"dataset_id": self.id, "comptype": kind})
            for kind in settings.DEFAULT_ARCHIVE_FORMATS
        }

    def get_images(self):
        """Its verified pictures, by name."""
        from .datafile import IMAGE_FILTER, DataFile

        limit = settings.RENDER_IMAGE_DATASET_SIZE_LIMIT
        if limit and self.datafile_set.count() > limit:
            return DataFile.objects.none()
        shown = self.datafile_set.filter(IMAGE_FILTER).filter(file_objects__verified=True)
        return shown.order_by("filename").distinct()

    @property
    def image(self):
        return self.get_images().first()

    def get_thumbnail_url(self):
        """The address of its first picture, 100 pixels wide, or None."""
        image = self.image
        if image is None:
            return None
        return reverse(
            "tardis.tardis_portal.iiif.download_image",
            kwargs={
                "datafile_id": image.id,
                "region": "full",
                "size": "100,",
                "rotation": 0,
                "quality": "native",
                "format": "jpg",
            },
        )

    def get_size(self):
        """The bytes of all its files together."""
        from .datafile import DataFile

        return DataFile.sum_sizes(self.datafile_set)

    def get_all_storage_boxes_used(self):
        return StorageBox.objects.filter(file_objects__datafile__dataset=self).distinct()

    def _has_change_perm(self, user_obj):
        return False if self.immutable else None

    def _has_delete_perm(self, user_obj):
        return False if self.immutable else None

    def _has_view_perm(self, user_obj):
        """Asked by 5.0 where objects have rights of their own."""
        return True if TYPED and self.public_access >= self.PUBLIC_ACCESS_METADATA else None

    def _has_download_perm(self, user_obj):
        return True if TYPED and self.public_download_allowed() else None
