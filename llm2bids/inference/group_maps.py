"""Testing one group contrast and writing its maps, thresholds and clusters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nilearn.masking import apply_mask, unmask

from llm2bids.inference.group import GroupContrast
from llm2bids.inference.options import GroupOptions
from llm2bids.inference.pooled import PooledTest
from llm2bids.inference.provenance import Provenance
from llm2bids.inference.second_level import (
    SecondLevelFit,
    fit_second_level,
    permutation_test,
    smallest_p,
)
from llm2bids.inference.statmap import map_path, software, write_map, write_table
from llm2bids.inference.threshold import (
    cluster_table,
    thresholded,
    thresholds,
    true_discoveries,
)
from llm2bids.space.space import Space

DESCRIPTIONS = {
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
    """What became of one group contrast.

    Parameters
    ----------
    label : str
        Its BIDS label.
    task : str or None
        Its task.
    participants, left_out : tuple of str
        Participants who took part, and those who lack a condition.
    n_units : dict of str to int
        Units above the threshold by height control.
    largest_d : float
        Largest absolute Cohen's d.
    files : tuple of Path
        Images and tables that were written.
    """

    label: str
    task: str | None
    participants: tuple[str, ...]
    left_out: tuple[str, ...]
    n_units: dict[str, int]
    largest_d: float
    files: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupWriter:
    """Writes the maps of one group contrast.

    Parameters
    ----------
    out_dir : Path
        The output dataset.
    contrast : GroupContrast
        The question.
    space : Space
        The space of the maps.
    mask : ndarray of bool, shape (n_x, n_y, n_z)
        Units that were tested.
    about : mapping
        What every sidecar says.
    """

    out_dir: Path
    contrast: GroupContrast
    space: Space
    mask: npt.NDArray[np.bool_]
    about: Mapping[str, object]

    @property
    def mask_img(self) -> nib.Nifti1Image:
        """The mask as an image."""
        return nib.Nifti1Image(self.mask.astype(np.uint8), self.space.affine)

    def path(self, suffix: str, *, stat: str | None = None, desc: str | None = None) -> Path:
        """Build the path of a result.

        Parameters
        ----------
        suffix : str
            Suffix and extension.
        stat, desc : str, optional
            Entities.

        Returns
        -------
        Path
            In ``group/`` of the output dataset.
        """
        contrast = self.contrast
        return self.out_dir / map_path(
            suffix,
            task=contrast.task,
            space=self.space.label,
            contrast=contrast.label,
            stat=stat,
            desc=desc,
        )

    def write(
        self,
        image: nib.Nifti1Image | npt.NDArray[Any],
        stat: str,
        description: str,
        *,
        desc: str | None = None,
        more: Mapping[str, object] | None = None,
    ) -> Path:
        """Write one map.

        Parameters
        ----------
        image : Nifti1Image or ndarray, shape (n_voxels,)
            Its values.
        stat : str
            Entity that says which statistic it is.
        description : str
            One sentence.
        desc : str, optional
            Further entity.
        more : mapping, optional
            Further keys of the sidecar.

        Returns
        -------
        Path
            The image.
        """
        values = image if isinstance(image, np.ndarray) else apply_mask(image, self.mask_img)
        sidecar = {
            "Description": f"{description} {self.contrast.description}",
            **self.about,
            **(more or {}),
        }
        path = self.path("statmap.nii.gz", stat=stat, desc=desc)
        outside = 1 if stat == "pfdr" else 0
        return write_map(path, values, self.mask, self.space, sidecar, fill=outside)


def about_group(
    contrast: GroupContrast,
    made_from: Provenance,
    model: Mapping[str, object],
    *,
    n_shared: int = 0,
) -> dict[str, object]:
    """Say what every sidecar of a group contrast says.

    Parameters
    ----------
    contrast : GroupContrast
        The question.
    made_from : Provenance
        Participants, runs and prompts.
    model : mapping
        Keys of the first-level model.
    n_shared : int
        Prompts that several participants were shown.

    Returns
    -------
    dict
        Keys of a sidecar.
    """
    shared = SHARED_PROMPTS.format(count=n_shared, total=len(made_from.prompts))
    caution = {"SharedPromptsCaution": shared} if n_shared else {}
    weights = {f"{task}:{label}": round(weight, 6) for (task, label), weight in contrast.weights}
    return {
        "SpatialReference": (
            f"bids:llm2bids:tpl-{made_from.space}/anat/tpl-{made_from.space}_T1w.nii.gz"
        ),
        "TaskLabel": contrast.task,
        "ContrastLabel": contrast.label,
        "ContrastWeights": weights,
        "NumberOfParticipants": len(made_from.participants),
        "Generalisation": GENERALISATION,
        **model,
        **caution,
        "Software": software(),
        **made_from.sidecar(),
    }


def tested_and_written(
    writer: GroupWriter, effects: npt.NDArray[np.floating[Any]], options: GroupOptions
) -> tuple[list[Path], dict[str, int], float]:
    """Test the mean effect of a group in every way that was asked for, and write it.

    Parameters
    ----------
    writer : GroupWriter
        Where and as what.
    effects : ndarray of float, shape (n_participants, n_voxels)
        The participants' effects.
    options : GroupOptions
        How.

    Returns
    -------
    tuple of (list of Path, dict of str to int, float)
        Files; units above the threshold of each height control; largest absolute d.

    Raises
    ------
    InferenceError
        If there are fewer than 2 participants.
    """
    mask_img = writer.mask_img
    images = [unmask(row, mask_img) for row in effects]
    fit = fit_second_level(images, mask_img=mask_img)
    found = thresholds(apply_mask(fit.z, mask_img), alpha=options.alpha)
    maps = {
        "effect": fit.effect,
        "variance": fit.variance,
        "t": fit.t,
        "z": fit.z,
        "pfdr": fit.p_fdr,
        "cohensd": fit.d,
    }
    files = []
    for stat, image in maps.items():
        description, units = DESCRIPTIONS[stat]
        more: dict[str, object] = {"Units": units, "DegreesOfFreedom": len(effects) - 1}
        if stat == "z":
            more |= {"Alpha": options.alpha, "TwoSidedThresholds": found}
        files.append(writer.write(image, stat, description, more=more))
    files += _write_thresholded(writer, fit, options)
    if options.n_perm:
        files += _write_permutation(writer, images, options)
    largest = float(np.abs(apply_mask(fit.d, mask_img)).max())
    return files, {name: int(one["n_units"] or 0) for name, one in found.items()}, largest


def write_pooled(writer: GroupWriter, result: PooledTest, *, alpha: float) -> list[Path]:
    """Write the maps of the pooled prompt test.

    Parameters
    ----------
    writer : GroupWriter
        Where.
    result : PooledTest
        The test.
    alpha : float
        Family-wise error rate of the threshold in the sidecars.

    Returns
    -------
    list of Path
        Images.
    """
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
    writer: GroupWriter, fit: SecondLevelFit, options: GroupOptions
) -> list[Path]:
    mask_img = writer.mask_img
    image, threshold = thresholded(
        fit.z,
        mask_img=mask_img,
        alpha=options.alpha,
        height_control=options.height_control,
        cluster_threshold=options.cluster_threshold,
    )
    finite = threshold if np.isfinite(threshold) else None
    files = [
        writer.write(
            image,
            "z",
            f"z above the two-sided {options.height_control} threshold.",
            desc=options.height_control,
            more={
                "Alpha": options.alpha,
                "Threshold": finite,
                "ClusterThreshold": options.cluster_threshold,
            },
        )
    ]
    table = cluster_table(
        fit.z,
        stat_threshold=threshold,
        cluster_threshold=options.cluster_threshold,
        min_distance=options.min_distance,
    )
    path = writer.path("clusters.tsv", desc=options.height_control)
    write_table(path, table)
    files.append(path)
    if options.true_discovery_threshold is not None:
        z = options.true_discovery_threshold
        bound = true_discoveries(fit.z, mask_img=mask_img, threshold=z, alpha=options.alpha)
        description = "Lower bound of the share of active units in each cluster (one-sided)."
        more = {"ClusterFormingZ": z, "Alpha": options.alpha}
        files.append(writer.write(bound, "truediscoveries", description, more=more))
    return files


def _write_permutation(
    writer: GroupWriter, images: Sequence[nib.Nifti1Image], options: GroupOptions
) -> list[Path]:
    maps = permutation_test(
        images,
        mask_img=writer.mask_img,
        n_perm=options.n_perm,
        two_sided_test=options.two_sided_test,
        threshold=options.threshold,
        tfce=options.tfce,
        n_jobs=options.n_jobs,
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
                "SmallestP": smallest_p(len(images)),
            },
        )
        for key, image in maps.items()
    ]
