"""NIfTI headers of images in a space: units, orientation, and the fingerprint."""

import re
from typing import Any, Final

import nibabel as nib
import numpy as np

from llm2bids.recording.calibration import Calibration
from llm2bids.space.image import BASELINE
from llm2bids.space.space import Space

# Code of qform and sform: scanner coordinates. Ours are those of no human template, and codes for
# templates make viewers draw coordinates and labels of the human brain.
XFORM_CODE: Final = 1

_MASK_WINDOW: Final = (0.0, 1.0)  # values from black to white of a mask

FINGERPRINT_DIGITS: Final = 16  # hexadecimal digits of the fingerprint that a header has room for

_LABEL_LENGTH = 79 - len("llm2bids  ") - FINGERPRINT_DIGITS
_DESCRIPTION = re.compile(r"llm2bids ([0-9A-Za-z]+) ([0-9a-f]{16})")


def bold_window(calibration: Calibration) -> tuple[float, float]:
    """Give the counts that a viewer shows as black and white: three sd around the mean."""
    return BASELINE - 3 * calibration.counts_per_sd, BASELINE + 3 * calibration.counts_per_sd


def image_header(
    space: Space,
    *,
    fingerprint: str,
    dtype: str,
    n_volumes: int | None = None,
    t_r: float | None = None,
    window: tuple[float, float] | None = None,
) -> nib.Nifti1Header:
    """Make the header of a single-file NIfTI-1 image in a space; a series with n_volumes and t_r.

    `window` is what viewers show as black and white: 0 and 1 for masks (uint8), else theirs to
    choose.
    """
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(np.dtype(dtype).newbyteorder("<"))
    header.set_data_shape(space.shape if n_volumes is None else (*space.shape, n_volumes))
    header.set_qform(space.affine, code=XFORM_CODE)
    header.set_sform(space.affine, code=XFORM_CODE)
    header.set_xyzt_units("mm", "sec")
    if t_r is not None:
        header["pixdim"][4] = t_r
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    if window is None and header.get_data_dtype() == np.uint8:
        window = _MASK_WINDOW
    if window is not None:
        header["cal_min"], header["cal_max"] = window
    label = space.label[:_LABEL_LENGTH]
    header["descrip"] = f"llm2bids {label} {fingerprint[:FINGERPRINT_DIGITS]}".encode()
    return header


def read_fingerprint(header: Any) -> str | None:
    """Read the 16 digits of the fingerprint in a header; None where tools dropped them."""
    try:
        text = bytes(np.asarray(header["descrip"]).item()).decode("ascii", errors="ignore")
    except (KeyError, ValueError, TypeError):
        return None
    match = _DESCRIPTION.fullmatch(text.rstrip("\0 "))
    return match[2] if match else None


def fingerprint_differs(header: Any, *fingerprints: str) -> str | None:
    """Give the fingerprint that a header carries if it is none of these; None otherwise."""
    carried = read_fingerprint(header)
    if carried is None or carried in {f[:FINGERPRINT_DIGITS] for f in fingerprints}:
        return None
    return carried
