"""File name parts that tell a series' images apart, in a fixed order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import nibabel
import numpy as np

from .frames import TRAITS, Value
from .image import Image
from .sidecar import load_sidecar

ECHO = next(index for index, trait in enumerate(TRAITS) if trait.keyword == "EchoTime")
IMAGE_TYPE = next(index for index, trait in enumerate(TRAITS) if trait.keyword == "ImageType")

COMPONENT_LABELS = {"M": "", "P": "ph", "R": "real", "I": "imaginary"}
"""As dcm2niix names them."""


def tell_apart(images: Sequence[Image]) -> list[Image]:
    """The images with labels of which no two are the same.

    dcm2niix's own labels stay, but for letters and numbers that only follow the order of files: such images are
    named by the traits, the plane, the matrix or the acquisition in which they differ, or else numbered in the order
    of their instances.
    """
    labels = [re.sub(r"[^\w.-]+", "-", image.label) for image in images]
    planes = [plane_name(image.affine) for image in images]
    if all(re.fullmatch(r"i\d+", label) for label in labels) and len(set(planes)) > 1:
        # A localizer: its images differ by plane.
        labels = [
            plane if planes.count(plane) == 1 else f"{plane}_{label}"
            for plane, label in zip(planes, labels, strict=True)
        ]
    # dcm2niix adds a letter to a name that it has used (x, xa, xb).
    bases = [label[:-1].rstrip("_") if _is_lettered(label, labels) else label for label in labels]
    for base in dict.fromkeys(bases):
        group = [index for index, other in enumerate(bases) if other == base]
        if len(group) > 1:
            for index, part in zip(group, _parts([images[index] for index in group]), strict=True):
                labels[index] = "_".join(text for text in (base, part) if text)
    return _numbered([replace(image, label=label) for image, label in zip(images, labels, strict=True)])


def _is_lettered(label: str, labels: Sequence[str]) -> bool:
    return bool(re.search(r"[a-z]$", label)) and label[:-1] in labels


def _numbered(images: Sequence[Image]) -> list[Image]:
    """Images whose labels are the same with numbers, in the order of their instances."""
    told = list(images)
    for label in {image.label for image in images}:
        same = [index for index, image in enumerate(images) if image.label == label]
        if len(same) > 1:
            same.sort(key=lambda index: _order(images[index]))
            for number, index in enumerate(same, 1):
                told[index] = replace(images[index], label=f"{label}_{number}".lstrip("_"))
    return told


def _order(image: Image) -> tuple[int, str]:
    if not image.owners:
        return 0, image.label
    header = min((owner[0] for owner in image.owners), key=lambda header: header.instance_number)
    return header.instance_number, header.sop_instance_uid


def _parts(images: Sequence[Image]) -> list[str]:
    """What tells images of one label apart: as few parts as do."""
    parts = [""] * len(images)
    for differing in (_by_traits, _by_plane, _by_matrix, _by_acquisition, _by_polarity):
        if len(set(parts)) == len(parts):
            break
        found = differing(images)
        if len(set(found)) > 1:
            parts = ["_".join(text for text in pair if text) for pair in zip(parts, found, strict=True)]
    return parts


def _by_traits(images: Sequence[Image]) -> list[str]:
    if any(not image.owners for image in images):
        return [""] * len(images)
    texts: list[list[str]] = [[] for _ in images]
    # The component stands last, as in dcm2niix's names.
    for index in (ECHO, *(n for n in range(len(TRAITS)) if n not in (ECHO, IMAGE_TYPE)), IMAGE_TYPE):
        values = [_common(image, index) for image in images]
        if len(set(values)) > 1:
            for text, label in zip(texts, _trait_labels(index, values), strict=True):
                text.append(label)
    return ["_".join(part for part in text if part) for text in texts]


def _common(image: Image, trait: int) -> Value:
    values = {header.facts_of(index).traits[trait] for header, index in image.owners or ()}
    return values.pop() if len(values) == 1 else None


def _trait_labels(index: int, values: Sequence[Value]) -> list[str]:
    trait = TRAITS[index]
    if index == ECHO:
        echoes = sorted({value for value in values if value is not None})
        return ["" if value is None else f"e{echoes.index(value) + 1}" for value in values]
    if trait.label:
        return ["" if value is None else _safe(trait.label.format(value)) for value in values]
    lists = [str(value).split("\\") if value else [] for value in values]
    everywhere = set(lists[0]).intersection(*lists)
    own = [[text for text in texts if text not in everywhere] for texts in lists]
    if all(len(texts) <= 1 and set(texts) <= COMPONENT_LABELS.keys() for texts in own):
        return [COMPONENT_LABELS[texts[0]] if texts else "" for texts in own]
    return [_safe("-".join(COMPONENT_LABELS.get(text, text) for text in texts).strip("-")) for texts in own]


def _by_plane(images: Sequence[Image]) -> list[str]:
    return [plane_name(image.affine) for image in images]


def _by_matrix(images: Sequence[Image]) -> list[str]:
    return ["x".join(map(str, nibabel.load(image.path).shape[:2])) for image in images]


def _by_acquisition(images: Sequence[Image]) -> list[str]:
    numbers = [image.owners[0][0].acquisition_number if image.owners else 0 for image in images]
    return [f"acq{number}" for number in numbers] if len(set(numbers)) == len(numbers) else [""] * len(images)


def _by_polarity(images: Sequence[Image]) -> list[str]:
    """By the sidecar's PhaseEncodingPolarityGE."""
    fields = [load_sidecar(image.sidecar) if image.sidecar else {} for image in images]
    return [str(told.get("PhaseEncodingPolarityGE", "")).lower() for told in fields]


def _safe(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def plane_name(affine: np.ndarray) -> str:
    """The anatomical plane that an image's slices lie nearest to."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]
