"""Brings dcm2niix's images and the stacks that the headers make into agreement.

One stack is one image. Where dcm2niix has a stack in several images, several stacks in one, slices too few or
volumes in an order against the time, the images of those stacks are made from headers and pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from .checking import exact_scaling, owners_of
from .dcm2niix import STEM
from .frames import TRAITS
from .headers import Header
from .image import Image, Origin
from .sidecar import OF_ONE_VOLUME, PER_VOLUME, carried, load_sidecar, own_sidecar, save_sidecar, traits_in
from .stack import LPS_TO_RAS, Owner, Stack, affine_from, stack_times_differ, write_stack

TIME_LABEL = re.compile(r"_?t\d+(?=_|$)")
"""What dcm2niix adds to a name for a trigger time."""


def with_owners(images: Sequence[Image], headers: Sequence[Header]) -> list[Image]:
    """The scanner's images with the owners of their volumes, where places and pixels tell them."""
    return [
        replace(image, owners=owners_of(image, headers))
        if image.origin is Origin.SCANNER and image.placed and image.owners is None
        else image
        for image in images
    ]


def assembled(
    images: Sequence[Image], stacks: Sequence[Stack], folder: Path, lost: bool
) -> tuple[list[Image], list[str]]:
    """The images, those that disagree with the headers' stacks replaced, and words for what was replaced.

    Args:
        images: with owners.
        folder: for the files of new images.
        lost: slices of the series are in no image.
    """
    stack_of_owner = {
        _key(owner): number
        for number, stack in enumerate(stacks)
        for place in stack.owners
        for owner in place
    }
    links: dict[int, set[int]] = {}
    # One image that is wrong for unknown reasons leaves no trust in how the others were put together.
    unknown = any(image.wrong for image in images) and all(image.mirrored is None for image in images)
    for number, image in enumerate(images):
        if image.origin is not Origin.SCANNER or re.search(r"(^|_)ADC$", image.label):
            continue
        if image.owners is None:
            continue
        links[number] = {
            stack_of_owner[_key(owner)] for owner in image.owners if _key(owner) in stack_of_owner
        }
    groups = _connected(links, range(len(stacks)))
    if unknown:
        groups = [(sorted(links), list(range(len(stacks))))]
    result: list[Image | None] = list(images)
    words: list[str] = []
    replaced = False
    for members, numbers in groups:
        of_group = [images[member] for member in members]
        reason = "" if unknown else _disagreement(of_group, [stacks[number] for number in numbers], lost)
        if not (unknown or reason):
            continue
        held = sum(int(np.prod(image.stored().shape[2:])) for image in of_group)
        if reason.strip() and sum(int(np.prod(stacks[number].shape[2:])) for number in numbers) < held:
            continue
        made = [_image_of(stacks[number], of_group or images, folder, number) for number in numbers]
        if None in made:
            continue
        for member in members:
            result[member] = None
        result += made
        replaced = True
        if reason:
            words.append(reason)
    left = [image for image in result if image is not None]
    if replaced:
        left = [
            image
            for image in left
            if not image.wrong and image.origin not in (Origin.EVENED, Origin.STRAIGHTENED)
        ]
    return left, words


def _key(owner: Owner) -> tuple[Path, int]:
    return owner[0].path, owner[1]


def _connected(links: Mapping[int, set[int]], stacks: Iterable[int]) -> list[tuple[list[int], list[int]]]:
    """Images and stacks that hold the same slices: image numbers and stack numbers, a pair a group."""
    groups: list[tuple[set[int], set[int]]] = []
    for image, numbers in links.items():
        joined = ({image}, set(numbers))
        for other in [group for group in groups if group[1] & joined[1]]:
            groups.remove(other)
            joined = (joined[0] | other[0], joined[1] | other[1])
        groups.append(joined)
    taken = set().union(*(group[1] for group in groups)) if groups else set()
    groups += [(set(), {number}) for number in stacks if number not in taken]
    return [(sorted(images), sorted(numbers)) for images, numbers in groups]


def _disagreement(images: Sequence[Image], stacks: Sequence[Stack], lost: bool) -> str:
    """Why images do not stand for the stacks, in words; empty if they do, or if that is not known to be wrong."""
    if not images:
        return "Slices that dcm2niix left out are made into an image from headers and pixels" if lost else ""
    if any(image.mirrored is not None for image in images) or not stacks:
        return ""
    if len(images) == 1 and len(stacks) == 1:
        image, stack = images[0], stacks[0]
        if len(image.owners) > stack.shape[3]:
            return " "  # the copies of slices are told already
        shape = image.stored().shape
        if shape[2] != stack.shape[2] and (lost or image.uneven):
            return (
                f"dcm2niix put {shape[2]} of {stack.shape[2]} slices into an image; the image is made from headers"
                " and pixels instead"
            )
        order = [_key(owner) for owner in stack.middle]
        found = [_key(owner) for owner in image.owners]
        if len(found) == len(order) and found != order and stack_times_differ(stack) and not image.mended:
            return "dcm2niix has the volumes in another order than that of time; they follow the time instead"
        return ""
    if len(stacks) > 1:
        if all(len({_stack_of(owner, stacks) for owner in image.owners}) == 1 for image in images):
            return ""
        names = sorted({TRAITS[index].keyword for stack in stacks for index, _ in stack.traits})
        differing = " and ".join(names) if names else "AcquisitionNumber"
        return (
            f"dcm2niix put images that differ in {differing} into one; they are {len(stacks)} images instead"
        )
    stack = stacks[0]
    slices = {image.stored().shape[2] for image in images}
    if slices != {stack.shape[2]}:
        return (
            "dcm2niix took the slices of one stack apart; they are one image, made from headers and pixels"
            if lost or any(image.uneven or image.wrong for image in images)
            else ""
        )
    if stack_times_differ(stack) and _alike(images) and stack.shape[3] == sum(len(i.owners) for i in images):
        return f"dcm2niix made {len(images)} images of the volumes of one time series; they are one image instead"
    return ""


def _stack_of(owner: Owner, stacks: Sequence[Stack]) -> int:
    key = _key(owner)
    return next(
        (
            n
            for n, stack in enumerate(stacks)
            if any(_key(other) == key for place in stack.owners for other in place)
        ),
        -1,
    )


def _alike(images: Sequence[Image]) -> bool:
    """Whether dcm2niix knows nothing but time that tells images apart."""
    told = []
    for image in images:
        fields = load_sidecar(image.sidecar) if image.sidecar else {}
        told.append(
            {
                name: value
                for name, value in fields.items()
                if name not in OF_ONE_VOLUME | PER_VOLUME and name not in ("SliceTiming", "BidsGuess")
            }
        )
    return all(fields == told[0] for fields in told) and not any(image.bvec for image in images)


def own_images(stacks: Sequence[Stack], folder: Path) -> list[Image]:
    """An image of each stack, from headers and pixels alone; none if one cannot be made."""
    made = [_image_of(stack, (), folder, number) for number, stack in enumerate(stacks)]
    return [] if None in made else made


def _image_of(stack: Stack, templates: Sequence[Image], folder: Path, number: int) -> Image | None:
    """The image of a stack; ``None`` if its pixels cannot be decoded.

    Args:
        templates: images of dcm2niix that hold its slices, or else other images of the series: the most alike of
            them gives the NIfTI header's other fields and the sidecar.
    """
    own = {_key(owner) for place in stack.owners for owner in place}
    shared = [sum(_key(owner) in own for owner in image.owners or ()) for image in templates]
    template = templates[int(np.argmax(shared))] if templates else None
    same = template is not None and template.owners is not None and max(shared) > 0
    flips, header = (False, True), None
    if template is not None and same:
        lps = LPS_TO_RAS @ template.affine
        flips = (
            bool(stack.planes.per_column[0] @ lps[:3, 0] < 0),
            bool(stack.planes.per_row[0] @ lps[:3, 1] < 0),
        )
        between = stack.planes.positions[-1] - stack.planes.positions[0]
        if len(stack.planes) > 1 and between @ lps[:3, 2] < 0:
            stack = replace(stack, planes=stack.planes[::-1], owners=stack.owners[::-1])
        header = nibabel.load(template.path).header
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{STEM}_own{number + 1:04d}.nii"
    try:
        write_stack(path, stack, flips, header)
    except Exception:  # as many kinds of error as there are decoders
        return None
    beside = carried(template, template.owners, stack.middle, path) if template and same else None
    if beside is not None and beside.sidecar is not None:
        fields = load_sidecar(beside.sidecar)
        if template.stored().shape[2] != stack.shape[2]:
            fields.pop("SliceTiming", None)
    else:
        fields = own_sidecar(stack.middle[0][0].path)
    frames = [header_.facts_of(index) for header_, index in stack.middle]
    fields = traits_in(fields, frames, [index for index, _ in stack.traits])
    sidecar = path.with_suffix(".json")
    save_sidecar(sidecar, fields)
    nifti = nibabel.load(path)
    thickness = float(nifti.header["pixdim"][3])
    affine = LPS_TO_RAS @ affine_from(stack.planes, stack.columns, stack.rows, *flips, thickness=thickness)
    image = Image(
        path=path,
        label="",
        sidecar=sidecar,
        bval=beside.bval if beside else None,
        bvec=beside.bvec if beside else None,
        affine=affine,
        slope=float(nifti.dataobj.slope),
        intercept=float(nifti.dataobj.inter),
        placed=True,
        mended=True,
        owners=stack.middle,
    )
    slope, intercept = exact_scaling(image, [place[0] for place in stack.owners])
    named = tuple(index for index, _ in stack.traits)
    return replace(image, slope=slope, intercept=intercept, differs_in=named)
