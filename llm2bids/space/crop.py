"""A part of a space: chosen sites, on the smallest grid that holds them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llm2bids.model.units import Site
from llm2bids.space.space import GREY, OUTSIDE, WHITE, Space


def chosen_sites(space: Space, patterns: Sequence[str]) -> tuple[Site, ...]:
    """Choose sites of a space by presets and patterns, as ``--sites`` does."""
    from llm2bids.model.sites import SiteTable, select_sites

    return select_sites(SiteTable(sites=space.sites, skipped=()), patterns)


def cropped(space: Space, patterns: Sequence[str]) -> Space:
    """Cut a space down to some sites; voxels of other sites are white matter there."""
    sites = chosen_sites(space, patterns)
    voxels = np.concatenate([space.voxels[space.site_slices[site.name]] for site in sites])
    first, last = voxels.min(axis=0), voxels.max(axis=0)
    box = tuple(slice(low, high + 1) for low, high in zip(first, last, strict=True))
    tissue = np.where(space.tissue[box] == OUTSIDE, OUTSIDE, WHITE).astype(np.uint8)
    voxels = voxels - first
    tissue[tuple(voxels.T)] = GREY
    affine = space.affine.copy()
    affine[:3, 3] = (space.affine @ [*first, 1])[:3]
    n_x, n_y, n_z = tissue.shape
    return replace(
        space, shape=(n_x, n_y, n_z), affine=affine, sites=sites, voxels=voxels, tissue=tissue
    )
