"""Flat maps: the whole model as one picture, layers by panels, with a statistical map on it."""

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.locate import space_of
from llm2bids.exceptions import UsageError
from llm2bids.options import fits
from llm2bids.report.draw.color import Theme, flat_limit, register_colormaps
from llm2bids.report.draw.flat_figure import PALETTES, ColorScale, FlatMap, flat_figure, shown_units
from llm2bids.report.section import counted
from llm2bids.space.stat_map import unit_values
from llm2bids.store.commit import replace_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")  # file formats of `plot_flatmap`, by the end of the file's name

# What the statistics of ``llm2bids analyze`` are called on a colour bar, by ``stat`` entity
UNITS = {
    "effect": "effect (rest sd)",
    "cohensd": "Cohen's d",
    "z": "z",
    "t": "t",
    "variance": "variance (rest sd²)",
    "p": "p",
    "pfdr": "p (FDR)",
}


def plot_flatmap(
    stat_img: Any,
    dataset: Any,
    *,
    threshold: float | None = None,
    title: str | None = None,
    labels: Sequence[str] | None = None,
    cmap: Any = None,
    vmax: float | None = None,
    symmetric_cbar: bool | Literal["auto"] = "auto",
    cbar_label: str | None = None,
    theme: Theme = "light",
    output_file: str | Path | None = None,
) -> "Figure":
    """Draw a statistical map on the model laid flat: layers from left to right, a row a role.

    The residual stream is the midline, with the modules before and after the layers at its ends;
    attention stands above it, the MLP below. Every unit has the same area, and lies in its panel
    where the space has it.

    Parameters
    ----------
    stat_img : nibabel image, path, or ndarray of shape (n_units,) or the space's; or a sequence
        One value for each unit. Several are drawn below one another on one colour scale; a single
        one with several spaces is drawn in each of them. An array of shape ``(n_units,)`` is in
        recording order, so it can be shown in every arrangement of the same units.
    dataset : Dataset, path of a dataset, or Space; or a sequence
        Where each unit lies. With a dataset, an image that carries another fingerprint is refused.
    threshold : float, optional
        Units up to this absolute value are not shown.
    title : str, optional
        Heading.
    labels : sequence of str, optional
        What stands above each map.
    cmap : str or matplotlib Colormap, optional
        By default the project's own for the theme: ``"llm2bids"`` (diverging), or
        ``"llm2bids_sequential"`` where no value is negative.
    vmax : float, optional
        Absolute value of full colour; by default the 98th percentile of the absolute values
        that are shown, to two digits. The colour bar says where values go beyond it.
    symmetric_cbar : bool or "auto"
        Whether the colour bar goes from ``-vmax`` to `vmax`, or over the values that are there;
        ``"auto"``: if there are negative and positive values.
    cbar_label : str, optional
        What the values are; by default the ``stat`` entity of the image's name.
    theme : {"light", "dark"}
        The page.
    output_file : str or Path, optional
        Write the figure here: ``.png`` (a unit fills whole pixels), ``.svg`` or ``.pdf``.

    Returns
    -------
    Figure
        Not known to pyplot: nothing has to be closed.

    Raises
    ------
    UsageError
        If numbers of images, spaces and labels do not fit, an option makes no sense, or the file
        has another ending.
    SpaceError
        If an image is on another grid, cannot be read, has more than one volume or carries another
        fingerprint, or an array has another shape.
    DatasetError
        If there is no dataset at a path.
    """
    register_colormaps()
    _check_options(threshold, vmax, theme, symmetric_cbar, cmap, output_file)
    maps = _maps(_listed(stat_img), _listed(dataset), labels)
    scale = color_scale(
        [flat.values for flat in maps],
        threshold=threshold,
        cmap=cmap,
        vmax=vmax,
        symmetric_cbar=symmetric_cbar,
        label=stat_label(stat_img) if cbar_label is None else cbar_label,
        theme=theme,
    )
    figure = flat_figure(maps, scale, title=title or "", note=_note(maps, threshold), theme=theme)
    if output_file is not None:
        _save_figure(figure, Path(output_file))
    return figure


def color_scale(
    values: Sequence[npt.NDArray[np.float64]],
    *,
    threshold: float | None,
    cmap: Any,
    vmax: float | None,
    symmetric_cbar: bool | Literal["auto"],
    label: str,
    theme: Theme,
) -> ColorScale:
    """Choose how the values of all maps of a figure, each (n_units,), become colours."""
    together = np.concatenate(values)
    shown = together[shown_units(together, threshold)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 0.0)
    limit = flat_limit(shown) if vmax is None else float(vmax)
    if threshold is not None and limit <= threshold:  # rounded down to it
        limit = max(abs(low), abs(high), 1.1 * threshold)
    symmetric = low < 0 < high if symmetric_cbar == "auto" else symmetric_cbar
    diverging = symmetric or low < 0
    bar = (-limit, limit) if symmetric else (max(-limit, min(low, 0.0)), min(limit, max(high, 0.0)))
    if bar[0] == bar[1]:
        bar = (0.0, limit)
    name = "llm2bids" if diverging else "llm2bids_sequential"
    return ColorScale(
        cmap=cmap if cmap is not None else name + ("_dark" if theme == "dark" else ""),
        vmin=-limit if diverging else 0.0,
        vmax=limit,
        bar=bar,
        threshold=threshold,
        clipped=(low < bar[0], high > bar[1]),
        label=label,
    )


def _save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure, whole or not at all, in a format of `FORMATS`; its folder is made."""
    from matplotlib import rc_context

    # neither date nor random names: the same map gives the same bytes
    empty: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    kind, drawn = path.suffix.lower(), BytesIO()
    with rc_context({"svg.hashsalt": "llm2bids", "image.composite_image": False}):
        figure.savefig(
            drawn,
            format=kind[1:],
            dpi=figure.dpi,
            facecolor=figure.get_facecolor(),
            metadata=empty.get(kind),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, drawn.getvalue())


def check_vmax(vmax: float | None) -> None:
    """Refuse values of full colour that are none."""
    if vmax is not None and not (fits(vmax, float) and vmax > 0):
        raise UsageError(f"vmax is {vmax!r}; expected a finite number above 0, or None")


def _check_options(
    threshold: float | None,
    vmax: float | None,
    theme: str,
    symmetric_cbar: object,
    cmap: object,
    output_file: str | Path | None,
) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import Colormap

    if threshold is not None and not (fits(threshold, float) and threshold >= 0):
        raise UsageError(f"threshold is {threshold!r}; expected a finite number from 0, or None")
    check_vmax(vmax)
    if vmax is not None and threshold is not None and threshold >= vmax:
        raise UsageError(
            f"threshold {threshold} is not below vmax {vmax}; no value between them has a colour: "
            "lower the threshold or raise vmax"
        )
    if theme not in PALETTES:
        raise UsageError(f"theme is {theme!r}; expected one of {', '.join(PALETTES)}")
    if symmetric_cbar not in (True, False, "auto"):
        raise UsageError(f"symmetric_cbar is {symmetric_cbar!r}; expected True, False or 'auto'")
    if output_file is not None and Path(output_file).suffix.lower() not in FORMATS:
        raise UsageError(f"{output_file}: expected a file that ends with {', '.join(FORMATS)}")
    if not (cmap is None or isinstance(cmap, Colormap) or cmap in list(colormaps)):
        raise UsageError(
            f"cmap is {cmap!r}; expected the name of a colour map of matplotlib, e.g. 'llm2bids' "
            "or 'coolwarm', or a Colormap"
        )


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


def _maps(images: list[Any], spaces: list[Any], labels: Sequence[str] | None) -> list[FlatMap]:
    """Pair images with spaces and labels."""
    count = max(len(images), len(spaces))
    for name, given in (("images", images), ("spaces", spaces)):
        if len(given) not in (1, count) or not given:
            raise UsageError(
                f"{len(images)} images and {len(spaces)} spaces; expected one {name[:-1]}, or one "
                "for each map"
            )
    if labels is not None and not fits(labels, Sequence[Any]):
        raise UsageError(f"labels is {labels!r}; expected a list, with one for each map")
    if labels is not None and len(labels) != count:
        raise UsageError(f"{len(labels)} labels for {counted(count, 'map')}; expected one for each")
    images, spaces = (given * (count // len(given)) for given in (images, spaces))
    maps = []
    for image, dataset, label in zip(
        images, spaces, [""] * count if labels is None else labels, strict=True
    ):
        space, fingerprints = space_of(dataset)
        values = unit_values(image, space, fingerprint=fingerprints)
        maps.append(FlatMap(space=space, values=values, label=label))
    return maps


def stat_label(stat_img: Any) -> str:
    """Tell from the ``stat`` entity of a file's name what its values are; empty without one."""
    first = next(iter(_listed(stat_img)), None)
    path = first if isinstance(first, str | Path) else getattr(first, "get_filename", str)()
    stat = re.search(r"(?:^|_)stat-([^_]*)", Path(path or "").name)
    return UNITS.get(stat[1], stat[1]) if stat else ""


def _note(maps: Sequence[FlatMap], threshold: float | None) -> str:
    """Say of which model the map is, and how much of it is shown."""
    first = maps[0]
    model = first.space.model_name.rpartition("/")[2]
    parts = [model, f"{first.space.n_units:,} units"]
    if threshold is not None:
        counts = [int(np.count_nonzero(shown_units(flat.values, threshold))) for flat in maps]
        if len(set(counts)) == 1:
            parts.append(f"{counts[0]:,} " + (f"beyond ±{threshold:g}" if threshold else "not 0"))
    return "  ·  ".join(parts)
