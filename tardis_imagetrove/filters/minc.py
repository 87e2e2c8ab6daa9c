"""MINC2 images of a series, from the same volumes as its NIfTI."""

from __future__ import annotations

import shlex
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from .. import __version__
from ..formats.base import DICOM, PARAVISION
from ..imaging import dcm2niix, volume
from ..imaging.gradients import read_table, world_directions
from ..imaging.image import Image
from ..imaging.minc2 import Attributes, Minc2Header, write_minc2
from ..imaging.sidecar import load_sidecar
from .base import DicomSeries, Filter, FilterResult, Makes, Takes
from .shared import conversion_of

IMAGE = Makes("MINC", "application/x-hdf5", expected=True)


class MincFilter(Filter):
    """One MINC2 file an image, voxels as the scanner stored them, places from the DICOM headers."""

    name = "minc"
    title = "MINC"
    version = "2"
    takes = Takes(pixels=True, formats=frozenset({DICOM, PARAVISION}))
    makes = (IMAGE,)

    def problems(self) -> list[str]:
        return dcm2niix.problems()

    def run(self, series: DicomSeries, out: Path) -> FilterResult:
        with tempfile.TemporaryDirectory(prefix="minc-", dir=out) as scratch:
            conversion = conversion_of(series, Path(scratch))
            outputs, warnings = [], list(conversion.warnings)
            for image in conversion.images:
                stem = "_".join(part for part in (series.name, image.label) if part)
                target = out / f"{stem}.mnc"
                step = image.time_step()
                if step <= 0 and image.stored().ndim > 3:
                    warnings.append(
                        f"{stem}: the time between its volumes is not known; its time axis has steps of 1"
                    )
                header = Minc2Header(
                    history=history(series, conversion),
                    ident=f"tardis_imagetrove:{__version__}:{stem}",
                    attributes=attributes_of(image),
                    time_step=step if step > 0 else 1.0,
                )
                try:
                    write_minc2(
                        target,
                        image.stored(),
                        image.affine,
                        slope=image.slope,
                        intercept=image.intercept,
                        header=header,
                    )
                except ValueError as error:
                    target.unlink(missing_ok=True)
                    warnings.append(f"Image {image.label or stem} has no MINC: {error}")
                    continue
                outputs.append(IMAGE.output(target))
        return FilterResult(
            outputs=tuple(outputs),
            warnings=tuple(warnings),
            notes=conversion.notes,
            converter=conversion.converter,
            skipped=conversion.skipped,
        )


def history(series: DicomSeries, conversion: volume.Conversion) -> str:
    """MINC's record of how a file came to be: a line with the time and the command."""
    now = datetime.now(timezone.utc).strftime("%a %b %d %H:%M:%S %Y")
    return (
        f"{now}>>> tardis_imagetrove {__version__} minc"
        f" ({conversion.converter} {shlex.join(conversion.arguments)}) {series.name},"
        f" {f'{len(conversion.headers)} DICOM instances' if series.format == DICOM else 'a ParaVision study'}\n"
    )


ACQUISITION = {
    "SeriesDescription": "series_description",
    "ProtocolName": "protocol",
    "ScanningSequence": "scanning_sequence",
    "SequenceVariant": "sequence_variant",
    "SequenceName": "sequence_name",
    "MRAcquisitionType": "mr_acq_type",
    "RepetitionTime": "repetition_time",
    "EchoTime": "echo_time",
    "InversionTime": "inversion_time",
    "EchoNumber": "echo_number",
    "EchoTrainLength": "echo_train_length",
    "FlipAngle": "flip_angle",
    "SliceThickness": "slice_thickness",
    "SpacingBetweenSlices": "slice_spacing",
    "NumberOfAverages": "num_averages",
    "ImagedNucleus": "imaged_nucleus",
    "PhaseEncodingSteps": "num_phase_enc_steps",
    "PercentSampling": "percent_sampling",
    "PercentPhaseFOV": "percent_phase_fov",
    "PixelBandwidth": "pixel_bandwidth",
    "InPlanePhaseEncodingDirectionDICOM": "phase_enc_dir",
    "SAR": "SAR",
    "ReceiveCoilName": "receive_coil",
    "AcquisitionTime": "acquisition_time",
    "SeriesNumber": "acquisition_id",
    "FrameTimesStart": "frame_times",
    "FrameDuration": "frame_lengths",
}
"""A sidecar's field to the name of MINC's acquisition variable, as dcm2mnc wrote it."""

STUDY = {
    "Modality": "modality",
    "Manufacturer": "manufacturer",
    "ManufacturersModelName": "device_model",
    "MagneticFieldStrength": "field_value",
    "SoftwareVersions": "software_version",
    "DeviceSerialNumber": "serial_no",
    "StationName": "station_id",
    "InstitutionName": "institution",
    "StudyDescription": "procedure",
}

MODALITIES = {"MR": "MRI__", "CT": "CT___", "PT": "PET__", "NM": "SPECT", "XA": "DSA__", "DX": "DR___"}
"""DICOM's modalities in MINC's five letters."""


def attributes_of(image: Image) -> Attributes:
    """MINC's attributes from an image's BIDS sidecar, which has no identifying fields."""
    fields = {}
    if image.sidecar:
        fields = load_sidecar(image.sidecar)
    acquisition = {minc: _value(fields[name]) for name, minc in ACQUISITION.items() if name in fields}
    if frequency := fields.get("ImagingFrequency"):
        acquisition["imaging_frequency"] = float(frequency) * 1e6
    if image_type := fields.get("ImageType"):
        acquisition["image_type"] = "\\".join(map(str, image_type))
    if "acquisition_id" in acquisition:
        acquisition["acquisition_id"] = str(fields["SeriesNumber"])
    table = read_table(image.bval, image.bvec) if image.bval and image.bvec else None
    if table is not None:
        acquisition["bvalues"] = tuple(map(float, table[0]))
        # MINC's directions are those of its world, FSL's those of the image's axes.
        for axis, values in zip("xyz", world_directions(table[1], image.affine), strict=True):
            acquisition[f"direction_{axis}"] = tuple(map(float, values))
    study = {minc: _value(fields[name]) for name, minc in STUDY.items() if name in fields}
    if "modality" in study:
        study["modality"] = MODALITIES.get(str(study["modality"]), str(study["modality"]))
    patient = {"position": str(fields["PatientPosition"])} if "PatientPosition" in fields else {}
    return {"acquisition": acquisition, "study": study, "patient": patient}


def _value(value: object) -> str | float | tuple[float, ...]:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, list) and all(isinstance(item, (int, float)) for item in value):
        return tuple(float(item) for item in value)
    return "\\".join(map(str, value)) if isinstance(value, list) else str(value)
