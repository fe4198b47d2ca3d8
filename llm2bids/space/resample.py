"""Move images between spaces of one model: each unit's value to its voxel there, exact."""

from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import SpaceError
from llm2bids.recording.calibration import Calibration
from llm2bids.space.grid import grid_difference, open_image
from llm2bids.space.header import XFORM_CODE, fingerprint_differs, image_header, read_fingerprint
from llm2bids.space.space import OUTSIDE, WHITE, Space


def resample(
    img: Any, source: Space, target: Space, *, calibration: Calibration | None = None
) -> nib.Nifti1Image:
    """Move an image from one arrangement or grid of a model's units to another: exact for units.

    On one grid voxels without a unit keep what they have, and moving back gives the same image. On
    another, as of a dataset of an earlier version, white matter takes the values of white matter in
    their order, again from the first one where it is larger. Data type and scale stay, so nothing
    is rounded. With the fingerprint of the target, if it had the source's.
    """
    image = open_image(img, source)
    _check_spaces(source, target)
    plain = source.fingerprint()
    scaled = plain if calibration is None else source.fingerprint(calibration)
    foreign = fingerprint_differs(image.header, plain, scaled)
    if foreign is not None:
        raise SpaceError(
            f"{image.label} has the fingerprint {foreign}, but space {source.label} in "
            f"{source.arrangement} arrangement has {plain[:16]} or {scaled[:16]}; name the "
            "dataset that the image was made from with --dataset"
        )
    data = image.read(scaled=False)
    same = not grid_difference(source, target) and np.array_equal(source.tissue, target.tissue)
    moved = data.copy(order="F") if same else _elsewhere(data, source, target)
    moved[tuple(target.voxels.T)] = data[tuple(source.voxels.T)]
    header = image.header.copy()
    carried = read_fingerprint(header)
    if carried is not None:
        new = target.fingerprint(None if carried == plain[: len(carried)] else calibration)
        header["descrip"] = image_header(target, fingerprint=new, dtype="uint8")["descrip"]
    if image.turned or not same:  # both forms say the axes of the target, whatever the file had
        header.set_qform(target.affine, code=XFORM_CODE)
        header.set_sform(target.affine, code=XFORM_CODE)
    made = nib.Nifti1Image(moved, image.affine if same else target.affine, header)
    if image.scale != (1.0, 0.0):
        made.header.set_slope_inter(*image.scale)
    return made


def _check_spaces(source: Space, target: Space) -> None:
    if source.weights_sha256 != target.weights_sha256:
        raise SpaceError(
            f"space {source.label} is of {source.model_name} with the weights "
            f"{source.weights_sha256[:16]}, space {target.label} of {target.model_name} with "
            f"{target.weights_sha256[:16]}; units of different weights have nothing to do with "
            "each other"
        )
    if source.sites != target.sites:
        ours, theirs = ({site.name for site in space.sites} for space in (source, target))
        only = sorted(ours ^ theirs)
        raise SpaceError(
            f"spaces {source.label} and {target.label} have different sites"
            f"{f', among them {only[0]}' if only else ', or the same in another order'}; expected "
            "the same sites"
        )


def _elsewhere(data: npt.NDArray[Any], source: Space, target: Space) -> npt.NDArray[Any]:
    """Fill another grid with (n_x, n_y, n_z, ...): white from white, outside from outside."""
    moved = np.empty((*target.shape, *data.shape[3:]), dtype=data.dtype, order="F")
    for tissue in (OUTSIDE, WHITE):
        values = data[source.tissue == tissue]
        there = target.tissue == tissue
        moved[there] = values[np.arange(np.count_nonzero(there)) % len(values)]
    return moved
