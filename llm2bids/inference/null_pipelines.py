"""The pipelines whose error rates `llm2bids null` measures: those that `analyze` offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import stats

from llm2bids.dataset.layout import Run
from llm2bids.inference.inputs import Inputs
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.pooled import PooledTest, pooled_test
from llm2bids.inference.rates import FAMILY_ALPHA, LEVELS
from llm2bids.inference.runs import RunData, fit_task, prompt_series
from llm2bids.inference.second_level import group_statistics, permutation_test
from llm2bids.inference.threshold import thresholds
from llm2bids.space.grid import open_image

SHAM = "sham"

CLUSTER_P = 0.01
"""Cluster-forming p value; 0.001 forms hardly any cluster on a panel of noise."""

FLIPS = 250
"""Random sign flips; eight participants have 128 distinct ones in a two-sided test."""

WITHIN_PROMPT = ("position", "first_token")
"""Confounds that are the same in every prompt: models of prompts have no use for them."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One way to test, and the options of ``llm2bids analyze`` that choose it."""

    key: str
    label: str
    level: Literal["run", "group"]
    options: str
    model: Mapping[str, Any] | None = None  # what AnalysisOptions are given, where one is fitted
    default: bool = False


PIPELINES = (
    Pipeline(
        key="token_ols", label="tokens, OLS", level="run",
        options="--unit-of-analysis token --noise-model ols",
        model={"unit_of_analysis": "token", "noise_model": "ols"},
    ),
    Pipeline(
        key="token_ar1", label="tokens, AR(1)", level="run", options="--unit-of-analysis token",
        model={"unit_of_analysis": "token"},
    ),
    Pipeline(
        key="token_ar6", label="tokens, AR(6)", level="run",
        options="--unit-of-analysis token --noise-model ar6",
        model={"unit_of_analysis": "token", "noise_model": "ar6"},
    ),
    Pipeline(
        key="prompt_ols", label="prompts, t test", level="run", options="", model={}, default=True
    ),
    Pipeline(
        key="prompt_ar1", label="prompts, AR(1)", level="run", options="--noise-model ar1",
        model={"noise_model": "ar1"},
    ),
    Pipeline(
        key="prompt_permutation", label="prompts, labels permuted", level="run",
        options="--pooled-n-perm N (one participant)",
    ),
    Pipeline(
        key="second_level", label="participants, t test", level="group", options="", default=True
    ),
    Pipeline(
        key="sign_flips", label="participants, sign flips", level="group", options="--n-perm N"
    ),
    Pipeline(
        key="pooled_permutation", label="prompts of all participants, labels permuted",
        level="group", options="--pooled-n-perm N",
    ),
    Pipeline(
        key="clusters", label="participants, sign flips, clusters", level="group",
        options="--n-perm N --threshold P",
    ),
)  # fmt: skip
"""All pipelines, in the order of tables."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one pipeline called significant in one run or group.

    `exceed`: units with a two-sided p of at most each of `LEVELS`, where the pipeline gives an
    uncorrected p; `detections`: by correction, whether anything is significant at 0.05.
    """

    exceed: Mapping[float, int] = field(default_factory=dict)
    n_tests: int = 0
    detections: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class RunTallies:
    """One run, tested: what its pipelines found, and what a group takes of it."""

    tallies: Mapping[str, Tally]
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


def tally_run(
    inputs: Inputs,
    run: Run,
    tested: npt.NDArray[np.bool_],
    models: Mapping[str, AnalysisOptions],
    *,
    n_perm: int,
    random_state: int,
) -> RunTallies:
    """Test one null run with every pipeline of the participant level; `tested`: (n_units,)."""
    data = _sham(inputs.load(run))
    means = prompt_series(data)[0].astype(np.float32)
    on = (data.trials["trial_type"] != "").to_numpy(dtype=np.bool_)
    tallies, effect = {}, np.zeros(tested.size, dtype=np.float32)
    varies = np.ones(tested.size, dtype=np.bool_)
    for key, options in models.items():
        fit = fit_task([data], options, mem_gb=None).fit
        varies &= ~fit.constant
        if key == "prompt_ols":  # the default, which gives the group its effects
            effect = fit.maps[SHAM, "effect"]
        tallies[key] = z_tally(fit.maps[SHAM, "z"][tested & varies])
    permuted = pooled_test(
        means[:, tested & varies], on, np.zeros(on.size), n_perm=n_perm, random_state=random_state
    )
    tallies["prompt_permutation"] = pooled_tally(permuted)
    return RunTallies(tallies=tallies, effect=effect, means=means, on=on, varies=varies)


def _sham(run: RunData) -> RunData:
    """Give all on prompts of a run one trial type: the sham block against the rest."""
    shown = run.transcript["trial_type"]
    sham = shown.astype("string").where(shown.isna() | shown.isin(["", "n/a"]), SHAM)
    return replace(
        run,
        transcript=run.transcript.assign(trial_type=sham),
        events=run.events.assign(trial_type=SHAM),
    )


def tally_group(
    members: Sequence[RunTallies],
    tested: npt.NDArray[np.bool_],
    panel: npt.NDArray[np.bool_],
    crop: tuple[npt.NDArray[np.int64], nib.Nifti1Image],
    *,
    n_perm: int,
    random_state: int,
) -> dict[str, Tally]:
    """Test one null group with every pipeline of the group level; units as in `tally_run`."""
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
        "second_level": z_tally(group_statistics(effects[:, units]).z),
        "sign_flips": Tally(detections={"max_t": _detected(flipped["logp_max_t"])}),
        "pooled_permutation": pooled_tally(pooled),
        "clusters": Tally(
            detections={
                "cluster_size": _detected(clusters["logp_max_size"]),
                "cluster_mass": _detected(clusters["logp_max_mass"]),
            }
        ),
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


def _detected(logp: nib.Nifti1Image) -> bool:
    """Tell whether any corrected p is at most 0.05 (nilearn writes negative log10 of p)."""
    return bool(open_image(logp).volume().max() >= -np.log10(FAMILY_ALPHA) - 1e-6)


def z_tally(z: npt.NDArray[np.floating[Any]]) -> Tally:
    """Count what thresholds on z, (n_units,), call significant, as `analyze` applies them.

    >>> tally = z_tally(np.array([0.0, 2.0, -3.0, 9.0]))
    >>> tally.exceed[0.05], tally.detections
    (3, {'bonferroni': True, 'fdr': True})
    """
    above = thresholds(z, alpha=FAMILY_ALPHA)
    return Tally(
        exceed={level: int((np.abs(z) >= stats.norm.isf(level / 2)).sum()) for level in LEVELS},
        n_tests=z.size,
        detections={name: bool(above[name]["n_units"]) for name in ("bonferroni", "fdr")},
    )


def pooled_tally(test: PooledTest) -> Tally:
    """Count what a permutation test calls significant, at the levels that it can reach."""
    smallest = 1 / (test.max_t.size + 1)
    reached = [level for level in LEVELS if smallest <= level + 1e-12]
    return Tally(
        exceed={level: int((test.p <= level + 1e-12).sum()) for level in reached},
        n_tests=test.p.size,
        detections={"max_t": bool((test.p_fwe <= FAMILY_ALPHA + 1e-12).any())},
    )
