"""De-identification by DICOM PS3.15 annex E: a copy of an instance that does not say whose it is.

``profile`` says what is done, ``rules`` what that means for each attribute, ``pseudonyms`` what
stands in place of what is removed, ``private`` which private elements stay, ``words`` which words
of a description stay, and ``copy`` does it. Nothing here knows Django.
"""

from .copy import Copy, NotDeidentifiable, deidentify
from .pixels import CannotClean, PixelRegions, Region, black_out
from .profile import Option, Profile
from .pseudonyms import Pseudonyms, new_secret
from .report import Report, report_json, report_of, rows_of

__all__ = [
    "CannotClean",
    "Copy",
    "NotDeidentifiable",
    "Option",
    "PixelRegions",
    "Profile",
    "Pseudonyms",
    "Region",
    "Report",
    "black_out",
    "deidentify",
    "new_secret",
    "report_json",
    "report_of",
    "rows_of",
]
