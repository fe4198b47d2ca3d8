"""Testing one group contrast and writing its maps, thresholds and clusters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from llm2bids.inference.effects import Effects
from llm2bids.inference.group import GroupContrast, shared_prompts
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.options import GroupOptions
from llm2bids.inference.participant import caution
from llm2bids.inference.pooled import PooledTest
from llm2bids.inference.second_level import group_statistics, permutation_test, smallest_p
from llm2bids.inference.statmap import grid_of, map_entries, map_path, write_map
from llm2bids.inference.threshold import (
    cluster_map,
    cluster_table,
    find_clusters,
    height_threshold,
    thresholds,
    true_discoveries,
)
from llm2bids.space.grid import open_image
from llm2bids.store.tables import write_table

_DESCRIPTIONS = {
    "effect": ("Mean effect over participants.", "calibration standard deviations"),
    "variance": ("Variance of the mean effect.", "squared calibration standard deviations"),
    "t": ("t of the mean effect.", "arbitrary"),
    "z": ("z of the mean effect.", "arbitrary"),
    "pfdr": ("Two-sided p, adjusted by Benjamini and Hochberg over the units.", "arbitrary"),
    "cohensd": ("Cohen's d: mean over standard deviation of the effects.", "arbitrary"),
}

GENERALISATION = (
    "Participants are draws of prompts and sampling seeds for one checkpoint: a group map "
    "generalises to new prompts and sampling of this checkpoint, not to other models."
)

SHARED_PROMPTS = (
    "{count} of {total} prompts were shown to several participants, whose errors are then shared "
    "too. Measured inflation with 8 participants who draw 8 prompts each from a common bank of 16: "
    "nominal 0.05 / 0.01 / 0.001 become 0.19 / 0.07 / 0.014, and 66 to 84 % of null groups have a "
    "detection after correction (same off prompts only: 0.137 / 0.043 / 0.007, 34 to 47 %)."
)
"""What a group map says when its participants share prompts."""


@dataclass(frozen=True, kw_only=True)
class GroupContrastResult:
    """What became of one group contrast: participants, units above each threshold, files."""

    label: str
    task: str | None
    participants: tuple[str, ...]
    left_out: tuple[str, ...]
    n_units: dict[str, int]
    largest_d: float
    files: tuple[Path, ...]
    session: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupWriter:
    """Writes the maps of one group contrast; `metadata` is what every sidecar says."""

    out_dir: Path
    contrast: GroupContrast
    inputs: Inputs
    metadata: Mapping[str, object]

    def image(self, values: npt.NDArray[Any]) -> nib.Nifti1Image:
        """Put values (n_units,) of the units that are modelled into an image."""
        space = self.inputs.space
        return nib.Nifti1Image(grid_of(values, self.inputs.voxels, space), space.affine)

    @property
    def mask_img(self) -> nib.Nifti1Image:
        """The mask of these units."""
        return self.image(np.ones(len(self.inputs.voxels), dtype=np.uint8))

    def path(self, suffix: str, *, stat: str | None = None, desc: str | None = None) -> Path:
        """Build the path of a result."""
        label, task = self.contrast.label, self.contrast.task
        names = {"task": task, "space": self.inputs.space.label, "contrast": label}
        session = self.inputs.session
        return self.out_dir / map_path(suffix, ses=session, **names, stat=stat, desc=desc)

    def write(
        self,
        image: nib.Nifti1Image | npt.NDArray[Any],
        stat: str,
        description: str,
        *,
        desc: str | None = None,
        more: Mapping[str, object] | None = None,
    ) -> Path:
        """Write one map, given as an image, a grid or values (n_units,)."""
        voxels = self.inputs.voxels
        values = image if isinstance(image, np.ndarray) else open_image(image).volume()
        if values.ndim == 3:
            values = values[tuple(voxels.T)]
        metadata = {
            "Description": f"{description} {self.contrast.description}",
            **self.metadata,
            **(more or {}),
        }
        path = self.path("statmap.nii.gz", stat=stat, desc=desc)
        outside = 1 if stat == "pfdr" else 0
        return write_map(path, values, voxels, self.inputs.space, metadata, fill=outside)


def group_metadata(contrast: GroupContrast, effects: Effects, inputs: Inputs) -> dict[str, object]:
    """Say what every sidecar of a group contrast says, from the effects that it takes."""
    made_from, n_shared = effects.provenance, shared_prompts(effects)
    sentence = caution(effects.options)
    shared = SHARED_PROMPTS.format(count=n_shared, total=len(made_from.prompts))
    return {
        "TaskLabel": contrast.task,
        "ContrastLabel": contrast.label,
        "ContrastWeights": {
            f"{condition.task}:{condition.label}": round(weight, 6)
            for condition, weight in contrast.weights
        },
        "NumberOfParticipants": len(made_from.participants),
        "NumberOfUnits": int(effects.mask.sum()),
        "Generalisation": GENERALISATION,
        "UnitOfAnalysis": effects.options.unit_of_analysis,
        "ModelParameters": effects.options.parameters(),
        **({} if sentence is None else {"Caution": sentence}),
        **({"SharedPromptsCaution": shared} if n_shared else {}),
        **map_entries(inputs.space, inputs.fingerprint, made_from),
    }


def tested_and_written(
    writer: GroupWriter,
    effects: npt.NDArray[np.floating[Any]],
    options: GroupOptions,
    *,
    n_cpus: int = 1,
) -> tuple[list[Path], dict[str, int], float]:
    """Test and write the mean of effects (n_participants, n_units).

    Gives the files, the units above each threshold, and the largest absolute Cohen's d.
    """
    fit = group_statistics(effects)
    above = thresholds(fit.z, alpha=options.alpha)
    files = []
    for stat, (description, units) in _DESCRIPTIONS.items():
        more: dict[str, object] = {"Units": units, "DegreesOfFreedom": len(effects) - 1}
        if stat == "z":
            more |= {"Alpha": options.alpha, "TwoSidedThresholds": above}
        files.append(writer.write(getattr(fit, stat), stat, description, more=more))
    files += _write_thresholded(writer, fit.z, options)
    if options.n_perm:
        files += _write_permutation(writer, effects, options, n_cpus)
    counts = {name: int(level["n_units"] or 0) for name, level in above.items()}
    return files, counts, float(np.abs(fit.cohensd).max())


def write_pooled(writer: GroupWriter, result: PooledTest, *, alpha: float) -> list[Path]:
    """Write the maps of the pooled prompt test."""
    threshold = result.threshold(alpha)
    more: dict[str, object] = {
        "Permutations": int(result.max_t.size),
        "DegreesOfFreedom": result.dof,
        "Alpha": alpha,
        "MaxTThreshold": threshold if np.isfinite(threshold) else None,
        "PooledGeneralisation": "Labels permuted within participant: generalises over prompts "
        "for these participants.",
    }
    maps = {
        "effect": (
            result.effect,
            "Mean of the task's prompts minus mean of those that it stands against, within "
            "participant.",
        ),
        "t": (result.t, "t over the prompts of all participants."),
        "cohensd": (result.d, "Cohen's d over prompts."),
        "logp": (-np.log10(result.p), "Negative log10 of the two-sided permutation p."),
        "logpmaxt": (-np.log10(result.p_fwe), "Negative log10 of the family-wise p (max t)."),
    }
    return [
        writer.write(values, stat, description, desc="pooled", more=more)
        for stat, (values, description) in maps.items()
    ]


def _write_thresholded(
    writer: GroupWriter, z: npt.NDArray[np.float64], options: GroupOptions
) -> list[Path]:
    """Write what stays of z (n_units,) above the threshold, and the table of its clusters."""
    control, space = options.height_control, writer.inputs.space
    grid = grid_of(z.astype(np.float32), writer.inputs.voxels, space)
    threshold = height_threshold(z, alpha=options.alpha, height_control=control)
    clusters = find_clusters(grid, threshold, options.cluster_threshold)
    more: dict[str, object] = {
        "Alpha": options.alpha,
        "Threshold": threshold if np.isfinite(threshold) else None,
        "ClusterThreshold": options.cluster_threshold,
    }
    description = f"z above the two-sided {control} threshold."
    path = writer.path("clusters.tsv", desc=control)
    write_table(
        path, cluster_table(grid, space.affine, clusters, min_distance=options.min_distance)
    )
    kept = cluster_map(grid, clusters)
    files = [writer.write(kept, "z", description, desc=control, more=more), path]
    if options.true_discovery_threshold is not None:
        height = options.true_discovery_threshold
        bound = true_discoveries(
            writer.image(z), mask_img=writer.mask_img, threshold=height, alpha=options.alpha
        )
        description = "Lower bound of the share of active units in each cluster (one-sided)."
        more = {"ClusterFormingZ": height, "Alpha": options.alpha}
        files.append(writer.write(bound, "truediscoveries", description, more=more))
    return files


def _write_permutation(
    writer: GroupWriter, effects: npt.NDArray[np.floating[Any]], options: GroupOptions, n_cpus: int
) -> list[Path]:
    voxels = writer.inputs.voxels
    order = np.lexsort(voxels.T[::-1])  # nilearn's, of the mask's voxels
    maps = permutation_test(
        effects[:, order],
        mask_img=writer.mask_img,
        n_perm=options.n_perm,
        two_sided_test=options.two_sided_test,
        threshold=options.threshold,
        tfce=options.tfce,
        n_jobs=n_cpus,
        random_state=options.random_state,
    )
    return [
        writer.write(
            image,
            key.replace("_", ""),
            f"Sign-flip permutation, {key} (logp: negative log10 of the family-wise p).",
            desc="permutation",
            more={
                "n_perm": options.n_perm,
                "two_sided_test": options.two_sided_test,
                "threshold": options.threshold,
                "SmallestP": smallest_p(len(effects)),
            },
        )
        for key, image in maps.items()
    ]
