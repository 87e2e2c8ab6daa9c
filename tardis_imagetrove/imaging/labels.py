"""What names of a series' images say to tell them apart."""

from __future__ import annotations

import re
from dataclasses import replace

import nibabel
import numpy as np

from .image import Image


def tell_apart(images: list[Image]) -> list[Image]:
    """Labels that say what differs where dcm2niix's own only number the images."""
    labels = [re.sub(r"[^\w.-]+", "-", image.label) for image in images]
    planes = [plane_name(image.affine) for image in images]
    if all(re.fullmatch(r"i\d+", label) for label in labels) and len(set(planes)) > 1:
        # A localizer: its images differ by plane.
        labels = [
            plane if planes.count(plane) == 1 else f"{plane}_{label}"
            for plane, label in zip(planes, labels, strict=True)
        ]
    sizes = ["x".join(map(str, nibabel.load(image.path).shape[:2])) for image in images]
    # dcm2niix adds a letter to a name that it has used (x, xa, xb): often a matrix of another size.
    bases = [label[:-1] if label[-1:].isalpha() and label[:-1] in labels else label for label in labels]
    for base in {base for base in bases if bases.count(base) > 1}:
        group = [index for index, other in enumerate(bases) if other == base]
        if len({sizes[index] for index in group}) == len(group):
            for index in group:
                labels[index] = "_".join(part for part in (base, sizes[index]) if part)
    told = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        repeats = labels[:index].count(label)
        told.append(replace(image, label=f"{label}_{repeats + 1}".lstrip("_") if repeats else label))
    return told


def plane_name(affine: np.ndarray) -> str:
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]
