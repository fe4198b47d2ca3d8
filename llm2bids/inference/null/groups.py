"""Null groups: participants resampled from the pool of null runs, tested by the group level."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import UsageError
from llm2bids.inference.null.pipelines import RunTest, Tally, pooled_tally, z_tally
from llm2bids.inference.null.rates import FAMILY_ALPHA
from llm2bids.inference.null.units import UnitDraw
from llm2bids.inference.pooled import pooled_test
from llm2bids.inference.second_level import group_statistics, permutation_test
from llm2bids.paradigm.seed import derive_generator
from llm2bids.space.grid import open_image

Floats32 = npt.NDArray[np.float32]

CLUSTER_P = 0.01
"""Cluster-forming p value; 0.001 forms hardly any cluster on a panel of noise."""

FLIPS = 250
"""Random sign flips; eight participants have 128 distinct ones in a two-sided test."""


def draw_groups(
    participants: Sequence[str], *, n_groups: int, group_size: int, seed: int
) -> list[tuple[int, ...]]:
    """Resample groups from a pool of runs: distinct participants, one run of each.

    Examples
    --------
    >>> draw_groups(["01", "01", "02"], n_groups=1, group_size=2, seed=0)
    [(0, 2)]
    """
    labels = list(dict.fromkeys(participants))
    if n_groups < 0 or group_size < 2:
        raise UsageError(
            f"--groups {n_groups}, --group-size {group_size}: expected 0 or more groups of 2 or "
            "more participants"
        )
    if n_groups and len(labels) < group_size:
        raise UsageError(
            f"--group-size {group_size}: there are {len(labels)} participants to resample groups "
            "from; expected at least as many; record more, take smaller groups, or --groups 0"
        )
    runs_of = {label: np.flatnonzero(np.asarray(participants) == label) for label in labels}
    rng = derive_generator(seed, "null", "groups")
    return [
        tuple(
            int(rng.choice(runs_of[labels[place]]))
            for place in sorted(rng.choice(len(labels), group_size, replace=False))
        )
        for _ in range(n_groups)
    ]


def tally_group(
    members: Sequence[RunTest],
    draw: UnitDraw,
    *,
    n_perm: int,
    tfce: bool,
    random_state: int,
) -> dict[str, Tally]:
    """Test one null group with every pipeline of the group level."""
    varied = ~np.any([member.constant for member in members], axis=0)
    tested = draw.tested[varied[draw.tested]]
    effects = np.stack([member.effect for member in members])
    values, mask_img = _compact(effects[:, tested])
    flipped = permutation_test(values, mask_img=mask_img, n_perm=FLIPS, random_state=random_state)
    pooled = pooled_test(
        np.concatenate([member.means[:, tested] for member in members]),
        np.concatenate([member.on for member in members]),
        np.repeat(np.arange(len(members)), [member.on.size for member in members]),
        n_perm=n_perm,
        random_state=random_state,
    )
    inside = varied[draw.panel]
    values, panel_img = _on_grid(effects[:, draw.panel[inside]], draw.panel_voxels[inside])
    clusters = permutation_test(
        values, mask_img=panel_img, n_perm=FLIPS, threshold=CLUSTER_P, tfce=tfce,
        random_state=random_state,
    )  # fmt: skip
    tallies = {
        "second_level": z_tally(group_statistics(effects[:, tested]).z),
        "sign_flips": Tally(detections={"max_t": _detected(flipped["logp_max_t"])}),
        "pooled_permutation": pooled_tally(pooled),
        "clusters": Tally(
            detections={
                "cluster_size": _detected(clusters["logp_max_size"]),
                "cluster_mass": _detected(clusters["logp_max_mass"]),
            }
        ),
    }
    if tfce:
        tallies["tfce"] = Tally(detections={"tfce": _detected(clusters["logp_max_tfce"])})
    return tallies


def _detected(logp: nib.Nifti1Image) -> bool:
    """Tell whether any corrected p is at most 0.05 (nilearn writes negative log10 of p)."""
    return bool(open_image(logp).volume().max() >= -np.log10(FAMILY_ALPHA) - 1e-6)


def _compact(effects: Floats32) -> tuple[Floats32, nib.Nifti1Image]:
    """Put units on a grid of their own where neighbours do not matter, a cube."""
    side = int(np.ceil(np.cbrt(effects.shape[1])))
    places = np.unravel_index(np.arange(effects.shape[1]), (side, side, side))
    return _on_grid(effects, np.stack(places, axis=1) + 1)


def _on_grid(
    effects: Floats32, voxels: npt.NDArray[np.integer]
) -> tuple[Floats32, nib.Nifti1Image]:
    """Give effects (n_participants, n_units) in nilearn's order of a mask of their voxels."""
    shape = tuple(int(n) for n in voxels.max(axis=0) + 2)
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(voxels.T)] = 1
    order = np.lexsort(voxels.T[::-1])
    return effects[:, order], nib.Nifti1Image(mask, np.diag([2.0, 2.0, 2.0, 1.0]))
