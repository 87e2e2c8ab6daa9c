"""Words that are known to be about imaging; any other word of a description may be somebody's name.

For the Clean Descriptors Option (PS3.15 section E.3.5): the list names what is kept, not what is removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_WORDS = (
    # Planes, sides and places
    "ax axial tra transverse transversal cor coronal sag sagittal obl oblique iso isotropic left right lt rt l r"
    " ap pa lat lateral supine prone upper lower bilateral whole body wholebody wb head brain skull face neck"
    " cspine tspine lspine spine cervical thoracic lumbar sacral sacrum chest thorax lung lungs heart cardiac"
    " abdomen abdominal liver kidney kidneys pelvis pelvic prostate breast hip knee ankle foot shoulder elbow"
    " wrist hand femur tibia arm leg orbit orbits pituitary iac hippocampus hippo cerebellum cortex vessel carotid"
    # Contrasts and sequences
    " t1 t2 t2star t2s pd pdw t1w t2w t1rho flair dwi dti dki adc trace tracew tracew2 fa colfa ep ep2d ep3d epi"
    " epfid ep2dbold bold fmri rest resting restingstate task perf perfusion asl pasl pcasl dsc dce ncct swi"
    " swan swip qsm mag magnitude phase pha ph real imag imaginary localizer localiser loc scout survey topogram"
    " scanogram calibration ref reference sbref gre fgre spgr fspgr flash tfl tfe ffe bffe tse fse haste space"
    " cube vista blade propeller radial spiral stir spair fatsat fs fat water dixon vibe lava thrive medic merge"
    " mprage mp2rage mpr mprage3d mpnrage bravo fl2d fl3d se ir inv inv1 inv2 uni den tof tof3d mra mrv angio"
    " pc ce post pre gd gado contrast dynamic dyn delay delayed arterial venous portal early late fid spec"
    " spectroscopy svs csi press steam mrs field map fieldmap b0 b1 b1map topup revpe fieldmapping mt mtr on off"
    " nav navigator moco mocoseries mean std sub subtraction mip minip mpr 2d 3d 4d hires lowres res resolution"
    " fast quick thin thick slab vol volume axials multi echo multiecho me mb sms grappa sense ipat cs p pat"
    " noise fov fullfov zoom zoomit resolve ss sshot ssh msh sh dir dirs diff diffusion bvalue bval revpolarity"
    " polarity reverse rev run scan series test phantom qa qc"
    # CT, PET, X-ray
    " ct cta cta3d pet pt nm spect suv ac nac attn attenuation corrected uncorrected ctac mrac umap fdg florbetapir"
    " amyloid tau psma dotatate gated static listmode osem psf bone soft tissue standard sharp smooth kernel low"
    " dose hr hrct wo w with without"
    " xr xa rf mg cr dx us"
    # What is drawn
    " report phoenix phoenixzipreport zip results screen save map maps colour color gray grey invert"
)
KNOWN = frozenset(_WORDS.split())

#: With numbers: b-values, times, angles, factors, directions, runs, kernels. A bare number of more than
#: one digit may be an age, a year or part of a date.
_PATTERNS = re.compile(
    r"(?:\d|\d{1,2}(?:ch|mm|cm|deg|vol|vols|echo|echoes|d|x|iso)|\d{1,3}(?:dir|dirs)|\d{1,4}ms"
    r"|(?:b|te|tr|ti)\d{1,4}|dirs?\d{1,3}"
    r"|(?:fa|p|mb|sms|run|r|echo|e|acq|avg|iso|grappa|res|fov|vol|scan|task|rest|series|part)\d{1,2}"
    r"|\d{1,2}p\d{1,2}(?:mm|iso)?|[bfhij]\d{2}[fhs]?)\Z"
)
_SPLIT = re.compile(r"([^0-9A-Za-z]+)")


def cleaned(text: str, identifies: Callable[[str], bool]) -> str:
    """``text`` with the known words alone, an underscore where others were left out between them.

    Args:
        identifies: whether a word is a name or number of the patient; such a word is left out even if it is
            known.
    """
    kept, gap = [], False
    for word in _SPLIT.split(text):
        if not word or _SPLIT.fullmatch(word):
            continue
        small = word.lower()
        if (small in KNOWN or _PATTERNS.match(small)) and not identifies(word):
            kept.append(word)
        else:
            gap = True
    separator = "_" if gap or "_" in text or not kept else " "
    return separator.join(kept)
