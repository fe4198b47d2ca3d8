"""Sections: what was recorded, and which units the analysis covers, over the anatomy."""

from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from llm2bids.dataset.first_files import EXACTNESS
from llm2bids.dataset.layout import template_file
from llm2bids.report.draw.color import LEVELS
from llm2bids.report.draw.mosaic import mosaic_figure
from llm2bids.report.layers import roles_of
from llm2bids.report.section import render
from llm2bids.report.sources import Sources, read_object
from llm2bids.space.atlas import role_colors
from llm2bids.space.grid import open_image
from llm2bids.space.space import Space

_OUTSIDE = 0  # index of the palette's colour of units outside the mask


def recorded_body(sources: Sources) -> Markup:
    """Describe model, space and recording, and list the sites by role."""
    dataset = sources.dataset
    metadata = dataset.sidecar(sources.first_runs()[0])
    lowest, highest = (
        (bound - metadata["Baseline"]) / metadata["CountsPerSD"] for bound in (-32768, 32767)
    )
    return render(
        "recorded.html",
        sources=sources,
        metadata=metadata,
        roles=_role_table(dataset.space),
        lowest=lowest,
        highest=highest,
        exactness=read_object(dataset.path / EXACTNESS),
    )


def _role_table(space: Space) -> list[dict[str, Any]]:
    """Sum the sites up by role, in recording order; modules outside the layers come one by one."""
    colors = role_colors(site.role for site in space.sites)
    rows = []
    for role in dict.fromkeys(site.role for site in space.sites):
        sites = [site for site in space.sites if site.role == role]
        widths = [site.width for site in sites]
        heads = sorted({f"{site.n_heads} × {site.head_size}" for site in sites if site.n_heads})
        rows.append(
            {
                "role": role,
                "color": colors[role],
                "n_sites": len(sites),
                "width": "–".join(f"{n:,}" for n in dict.fromkeys((min(widths), max(widths)))),
                "heads": ", ".join(heads),
                "n_units": sum(widths),
                "share": sum(widths) / space.n_units,
            }
        )
    return rows


def coverage_body(sources: Sources) -> Markup:
    """Show the mask of the analysis over the anatomy, and count its units by role."""
    space = sources.dataset.space
    path = sources.dataset.path / template_file(space.label, "T1w")
    anatomy = space.to_units(open_image(path, space).volume())
    units = sources.dataset.path / template_file(space.label, "mask", label="GM")
    brain = sources.dataset.path / template_file(space.label, "mask", desc="brain")
    inside = sources.analysed
    n_inside = int(inside.sum())
    alt = (
        f"Mosaic of the anatomy in all layers; {n_inside:,} of {space.n_units:,} units are covered."
    )
    indices = np.where(inside, 2 + np.rint((2 * LEVELS - 2) * _shade(anatomy)), _OUTSIDE)
    roles = np.array([site.role for site in space.sites])[space.site_of_unit]
    missed = [
        (role, int(np.count_nonzero(~inside[roles == role])), int((roles == role).sum()))
        for role in roles_of(space)
        if not inside[roles == role].all()
    ]
    return render(
        "coverage.html",
        picture=mosaic_figure(space, indices.astype(np.uint8), palette=_palette(), alt=alt),
        n_inside=n_inside,
        n_units=space.n_units,
        share=n_inside / space.n_units,
        missed=missed,
        analysis=sources.analysis,
        files=[(file.name, sources.link(file)) for file in (path, units, brain)],
    )


def _shade(anatomy: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Scale anatomy, (n_units,), from its 2nd to its 98th percentile, to 0.12 and 1."""
    low, high = np.percentile(anatomy, [2, 98])
    scaled = np.clip((anatomy - low) / ((high - low) or 1), 0, 1)
    return np.asarray(0.12 + 0.88 * scaled)


def _palette() -> npt.NDArray[np.uint8]:
    """Give vermilion, then nothing, then greys from black to white: (255, 4)."""
    palette = np.empty((2 * LEVELS + 1, 4), dtype=np.uint8)
    palette[:, :3] = np.rint(np.linspace(0, 255, len(palette)))[:, np.newaxis]
    palette[:, 3] = 255
    palette[_OUTSIDE] = (221, 92, 20, 255)
    palette[1] = 0
    return palette
