"""The pipelines whose error rates `llm2bids null` measures: those that `analyze` offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import stats

from llm2bids.dataset.layout import Run
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.rates import FAMILY_ALPHA, LEVELS
from llm2bids.inference.runs import RunData, fit_task, prompt_series
from llm2bids.inference.second_level import (
    PooledTest,
    group_statistics,
    permutation_test,
    pooled_test,
    thresholds,
)
from llm2bids.space.grid import open_image

SHAM = "sham"

# Cluster-forming p value; 0.001 forms hardly any cluster on a panel of noise.
CLUSTER_P = 0.01

# Random sign flips; eight participants have 128 distinct ones in a two-sided test.
FLIPS = 250

# Confounds that are the same in every prompt: models of prompts have no use for them.
WITHIN_PROMPT = ("position", "first_token")


class Pipeline(NamedTuple):
    """One way to test, and the options of ``llm2bids analyze`` that choose it."""

    key: str
    label: str
    level: Literal["run", "group"]
    options: str
    default: bool = False
    model: Mapping[str, Any] | None = None  # what AnalysisOptions are given, where one is fitted


_TOKEN = "--unit-of-analysis token"

# All pipelines, in the order of tables.
PIPELINES = (
    Pipeline("token_ols", "tokens, OLS", "run", f"{_TOKEN} --noise-model ols",
             model={"unit_of_analysis": "token", "noise_model": "ols"}),
    Pipeline("token_ar1", "tokens, AR(1)", "run", _TOKEN, model={"unit_of_analysis": "token"}),
    Pipeline("token_ar6", "tokens, AR(6)", "run", f"{_TOKEN} --noise-model ar6",
             model={"unit_of_analysis": "token", "noise_model": "ar6"}),
    Pipeline("prompt_ols", "prompts, t test", "run", "", default=True, model={}),
    Pipeline("prompt_ar1", "prompts, AR(1)", "run", "--noise-model ar1",
             model={"noise_model": "ar1"}),
    Pipeline("prompt_permutation", "prompts, labels permuted", "run",
             "--pooled-n-perm N (one participant)"),
    Pipeline("second_level", "participants, t test", "group", "", default=True),
    Pipeline("sign_flips", "participants, sign flips", "group", "--n-perm N"),
    Pipeline("pooled_permutation", "prompts of all participants, labels permuted", "group",
             "--pooled-n-perm N"),
    Pipeline("clusters", "participants, sign flips, clusters", "group",
             "--n-perm N --threshold P"),
)  # fmt: skip


class Count(NamedTuple):
    """How much of one run or group was called significant.

    Of kind ``unit``, units with a two-sided p of at most `nominal`; otherwise the correction that
    finds anything there (1) or nothing (0).
    """

    kind: str
    nominal: float
    hits: int
    n_tests: int = 1


# By the pipeline's key.
Counts = Mapping[str, Sequence[Count]]


@dataclass(frozen=True, kw_only=True, eq=False)
class NullRun:
    """One run, tested: what its pipelines found, and what a group takes of it."""

    counts: Counts
    effect: npt.NDArray[np.float32]  # (n_units,) inside the mask, of the default model
    means: npt.NDArray[np.float32]  # (n_prompts, n_units)
    on: npt.NDArray[np.bool_]  # (n_prompts,)
    varies: npt.NDArray[np.bool_]  # (n_units,); the others count for nothing


def pipeline_models(confounds: Sequence[str]) -> dict[str, AnalysisOptions]:
    """Give the options of the pipelines that fit a model, by key."""
    models = {}
    for pipeline in PIPELINES:
        if pipeline.model is not None:
            by_prompt = pipeline.model.get("unit_of_analysis") != "token"
            names = tuple(c for c in confounds if not (by_prompt and c in WITHIN_PROMPT))
            models[pipeline.key] = AnalysisOptions(confounds=names, **pipeline.model)
    return models


def count_run(
    inputs: Inputs,
    run: Run,
    tested: npt.NDArray[np.bool_],
    models: Mapping[str, AnalysisOptions],
    *,
    n_perm: int,
    random_state: int,
) -> NullRun:
    """Test one null run with every pipeline of the participant level; `tested`: (n_units,)."""
    data = _sham(inputs.load(run))
    means = prompt_series(data)[0].astype(np.float32)
    on = (data.trials["trial_type"] != "").to_numpy(dtype=np.bool_)
    counts, effect = {}, np.zeros(tested.size, dtype=np.float32)
    varies = np.ones(tested.size, dtype=np.bool_)
    for key, options in models.items():
        fit = fit_task([data], options, mem_gb=None).fit
        varies &= ~fit.constant
        if key == "prompt_ols":  # the default, which gives the group its effects
            effect = fit.maps[SHAM, "effect"]
        counts[key] = _count_z(fit.maps[SHAM, "z"][tested & varies])
    permuted = pooled_test(
        means[:, tested & varies], on, np.zeros(on.size), n_perm=n_perm, random_state=random_state
    )
    counts["prompt_permutation"] = _count_pooled(permuted)
    return NullRun(counts=counts, effect=effect, means=means, on=on, varies=varies)


def _sham(run: RunData) -> RunData:
    """Give all on prompts of a run one trial type: the sham block against the rest."""
    sham = run.rows["trial_type"].where(run.rows["trial_type"] == "", SHAM)
    rows, events = run.rows.assign(trial_type=sham), run.events.assign(trial_type=SHAM)
    return replace(run, rows=rows, events=events)


def count_group(
    members: Sequence[NullRun],
    tested: npt.NDArray[np.bool_],
    panel: npt.NDArray[np.bool_],
    crop: tuple[npt.NDArray[np.int64], nib.Nifti1Image],
    *,
    n_perm: int,
    random_state: int,
) -> Counts:
    """Test one null group with every pipeline of the group level; units as in `count_run`."""
    varies = np.all([member.varies for member in members], axis=0)
    units = tested & varies
    effects = np.stack([member.effect for member in members])
    # neighbours do not matter for the largest t: a row of voxels is the smallest image
    row = nib.Nifti1Image(np.ones((int(units.sum()), 1, 1), dtype=np.uint8), np.eye(4))
    flipped = permutation_test(
        effects[:, units], mask_img=row, n_perm=FLIPS, random_state=random_state
    )
    pooled = pooled_test(
        np.concatenate([member.means[:, units] for member in members]),
        np.concatenate([member.on for member in members]),
        np.repeat(np.arange(len(members)), [member.on.size for member in members]),
        n_perm=n_perm,
        random_state=random_state,
    )
    order, panel_img = crop
    clusters = permutation_test(
        np.where(varies, effects, 0)[:, panel][:, order],
        mask_img=panel_img,
        threshold=CLUSTER_P,
        n_perm=FLIPS,
        random_state=random_state,
    )
    return {
        "second_level": _count_z(group_statistics(effects[:, units]).z),
        "sign_flips": [_count_images("max_t", flipped["logp_max_t"])],
        "pooled_permutation": _count_pooled(pooled),
        "clusters": [
            _count_images("cluster_size", clusters["logp_max_size"]),
            _count_images("cluster_mass", clusters["logp_max_mass"]),
        ],
    }


def cropped(
    inputs: Inputs, panel: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], nib.Nifti1Image]:
    """Cut the panel out of the grid: order of its units among its voxels, and its mask."""
    voxels = inputs.voxels[panel].astype(np.int64)
    voxels -= voxels.min(axis=0) - 1
    mask = np.zeros(voxels.max(axis=0) + 2, dtype=np.uint8)
    mask[tuple(voxels.T)] = 1
    order = np.argsort(np.ravel_multi_index(tuple(voxels.T), mask.shape))
    return order, nib.Nifti1Image(mask, inputs.space.affine)


def _count_images(kind: str, logp: nib.Nifti1Image) -> Count:
    """Tell whether any corrected p is at most 0.05 (nilearn writes negative log10 of p)."""
    largest = open_image(logp).volume().max()
    return Count(kind, FAMILY_ALPHA, int(largest >= -np.log10(FAMILY_ALPHA) - 1e-6))


def _count_z(z: npt.NDArray[np.floating[Any]]) -> list[Count]:
    """Count what thresholds on z, (n_units,), call significant, as `analyze` applies them.

    >>> _, _, rarest, _, fdr = _count_z(np.array([0.0, 2.0, -3.0, 9.0]))
    >>> rarest, fdr.hits
    (Count(kind='unit', nominal=0.001, hits=1, n_tests=4), 1)
    """
    above = thresholds(z, alpha=FAMILY_ALPHA)
    limits = {level: stats.norm.isf(level / 2) for level in LEVELS}
    detected = {kind: int(above[kind]["n_units"] != 0) for kind in ("bonferroni", "fdr")}
    return [
        *(Count("unit", x, int((np.abs(z) >= z_x).sum()), z.size) for x, z_x in limits.items()),
        *(Count(kind, FAMILY_ALPHA, n) for kind, n in detected.items()),
    ]


def _count_pooled(test: PooledTest) -> list[Count]:
    """Count what a permutation test calls significant, at the levels that it can reach."""
    smallest = 1 / (test.max_t.size + 1)
    reached = [level for level in LEVELS if smallest <= level + 1e-12]
    return [
        *(Count("unit", x, int((test.p <= x + 1e-12).sum()), test.p.size) for x in reached),
        Count("max_t", FAMILY_ALPHA, int((test.p_fwe <= FAMILY_ALPHA + 1e-12).any())),
    ]
