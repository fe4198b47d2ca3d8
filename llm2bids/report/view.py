"""A statistical map on the anatomy in NiiVue: one HTML page that needs nothing from outside."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from llm2bids.dataset.layout import template_file
from llm2bids.dataset.locate import space_of
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.options import checked
from llm2bids.report.draw.color import full_color, map_colors
from llm2bids.report.draw.mosaic import pack_sites
from llm2bids.report.flatmap import check_vmax, stat_label
from llm2bids.report.section import encoded, page_script, read_asset, script_json, write_page
from llm2bids.space.atlas import role_colors
from llm2bids.space.grid import open_image
from llm2bids.space.space import Space
from llm2bids.space.stat_map import unit_values

_DARKEST = 40  # colours of an arm that are left out: on the anatomy they would be black
SHARE = 5.0  # per cent of the units that are shown at first, where a map has values in most units


@checked
def view(
    stat_img: Any,
    dataset: Any,
    *,
    output_file: str | Path,
    title: str | None = None,
    vmax: float | None = None,
) -> Path:
    """Write a page on which NiiVue shows a map on the model's anatomy and names every unit.

    The page is one file that opens without a network: NiiVue, anatomy, map and atlas of sites are
    in it. Pointer and crosshair name the unit below them with its value, an address that is typed
    moves the crosshair.

    Parameters
    ----------
    stat_img : nibabel image, path, or ndarray of shape (n_units,) or the space's
        One value for each unit; NaN and 0 are not shown.
    dataset : Dataset, path of a dataset, or Space
        Where each unit lies, and the anatomy; a Space shows its units as anatomy. With a dataset,
        an image that carries another fingerprint is refused.
    output_file : str or Path
        The page.
    title : str, optional
        Heading; the image's name by default.
    vmax : float, optional
        Absolute value of full colour; the 99.5th percentile by default.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    SpaceError
        If the image is on another grid, or from another dataset.
    UsageError
        If `dataset` is no dataset, or `vmax` no finite number above 0.
    """
    check_vmax(vmax)
    opened = open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
    space, fingerprints = space_of(opened)
    values = unit_values(stat_img, space, fingerprint=fingerprints).astype(np.float32)
    name = Path(stat_img).name if isinstance(stat_img, str | Path) else ""
    unit = stat_label(stat_img)
    path = Path(output_file)
    write_page(
        path,
        "view.html",
        scripts=[read_asset("niivue.umd.js", "niivue"), page_script("view.js")],
        styles=("style.css", "view.css"),
        title=title or name.removesuffix(".gz").removesuffix(".nii") or "Statistical map",
        model=space.model_name,
        unit=unit,
        data=script_json(_data(space, values, _anatomy(opened, space), vmax=vmax, unit=unit)),
    )
    return path


def _anatomy(dataset: Any, space: Space) -> npt.NDArray[np.float32]:
    """Read the template's T1w, (n_x, n_y, n_z); a space alone shows where units are."""
    if isinstance(dataset, Dataset):
        image = open_image(dataset.path / template_file(space.label, "T1w"), space)
        return np.asarray(image.volume(), dtype=np.float32)
    return space.grey.astype(np.float32)


def _data(
    space: Space,
    values: npt.NDArray[np.float32],
    anatomy: npt.NDArray[np.float32],
    *,
    vmax: float | None,
    unit: str,
) -> dict[str, Any]:
    """Gather what the page's script reads; images and arrays are gzip in base64."""
    shown = np.nan_to_num(values)
    colors = np.rint(255 * map_colors("llm2bids_dark")).astype(int)
    middle = len(colors) // 2
    dense = np.count_nonzero(shown) > 0.2 * space.n_units
    return {
        "shape": list(space.shape),
        "toWorld": space.affine.tolist(),
        "toVoxel": np.linalg.inv(space.affine).tolist(),
        "sites": pack_sites(space),
        "units": encoded(space.unit_of_voxel.astype("<i4").tobytes(order="F")),
        "values": encoded(values.astype("<f4").tobytes()),
        "map": _image(space.to_grid(shown), space),
        **_atlas(space),
        "anatomy": _image(anatomy, space),
        "window": _window(anatomy[space.grey]),
        "colors": {
            "above": colors[middle + _DARKEST :].T.tolist(),
            "below": colors[middle - _DARKEST :: -1].T.tolist(),
        },
        "show": full_color(shown[shown != 0]) if vmax is None else float(vmax),
        "share": SHARE if dense else 100,
        "signed": bool((shown < 0).any()),
        "unit": unit.partition("(")[2].rstrip(")") or unit,
    }


def _atlas(space: Space) -> dict[str, Any]:
    """Colour the panels by role: of more than 128 labels NiiVue takes the background for one."""
    colors = role_colors(site.role for site in space.sites)
    number = {role: index for index, role in enumerate(colors, start=1)}
    of_site = np.array([number[site.role] for site in space.sites], dtype=np.int16)
    rgb = [[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in colors.values()]
    red, green, blue = ([0, *channel] for channel in zip(*rgb, strict=True))
    table = {"R": red, "G": green, "B": blue, "I": list(range(len(red))), "labels": ["", *colors]}
    return {"atlas": _image(space.to_grid(of_site[space.site_of_unit]), space), "labels": table}


def _window(anatomy: npt.NDArray[np.float32]) -> list[float]:
    """Choose the values shown black and white, so that units with weak weights are not lost."""
    low, high = np.percentile(anatomy, [2, 98]).tolist()
    return [low - 0.1 * (high - low), high] if high > low else [0.0, high or 1.0]


def _image(volume: npt.NDArray[Any], space: Space) -> str:
    """Write (n_x, n_y, n_z) as a NIfTI image, gzip in base64."""
    return encoded(nib.Nifti1Image(volume, space.affine).to_bytes())
