"""First level: the general linear model of one participant and task, with nilearn's engine.

`fit_first_level` calls what ``nilearn.glm.first_level.FirstLevelModel`` calls (`run_glm` and
`compute_fixed_effect_contrast`) block of voxels by block of voxels, so that memory holds one block;
the maps equal those of ``FirstLevelModel(signal_scaling=False)`` with the same design matrices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from nilearn.glm.contrasts import Contrast, compute_fixed_effect_contrast
from nilearn.glm.first_level import run_glm
from scipy import stats

from llm2bids.exceptions import InferenceError
from llm2bids.inference.design import contrast_vector

Floats = npt.NDArray[np.float64]

# Index of a block of voxels -> its values in each run, (n_observations, n_block).
ReadBlock = Callable[[int], Sequence[npt.NDArray[np.floating[Any]]]]

# A contrast: an expression over a design's columns, weights (n_columns,) for t, (q, n) for F.
Weights = str | npt.NDArray[np.float64]

# Maps of each t contrast, in nilearn's names.
STATS = ("effect", "variance", "t", "z")

# Maps of each F contrast; nilearn's effect of one is whitened, and no effect to go on with.
F_STATS = ("F", "z", "p")


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstLevelFit:
    """Maps of one participant and task, all (n_units,)."""

    # by contrast label and one of `STATS` or `F_STATS`; effects in the data's unit, variances in
    # its square
    maps: dict[tuple[str, str], npt.NDArray[np.float32]]
    r_squared: npt.NDArray[np.float32]  # variance that the design explains, mean over runs
    # lag-1 autocorrelation of the (whitened) residuals, mean over runs
    residual_ar1: npt.NDArray[np.float32]
    constant: npt.NDArray[np.bool_]  # units that did not vary in any run; their maps are 0
    dof: float  # degrees of freedom of the t maps


def fit_first_level(
    read_block: ReadBlock,
    edges: npt.NDArray[np.intp],
    designs: Sequence[pd.DataFrame],
    contrasts: Mapping[str, Weights],
    *,
    noise_model: str = "ols",
) -> FirstLevelFit:
    """Fit the runs of one participant and task, several runs as fixed effects.

    Shapes: edges (n_blocks + 1,); models above AR(1) take all voxels in one block, as nilearn
    clusters them.
    """
    vectors = {
        label: [
            contrast_vector(weights, design) if isinstance(weights, str) else weights
            for design in designs
        ]
        for label, weights in contrasts.items()
    }
    order = 0 if noise_model == "ols" else int(noise_model.removeprefix("ar"))
    shortest = min(map(len, designs))
    if order >= shortest:
        raise InferenceError(
            f"noise_model: found {noise_model!r} for a run of {shortest} observations; expected a "
            "smaller order, such as 'ar1'"
        )
    parts = [
        _fit_block(read_block(block), designs, vectors, noise_model)
        for block in range(edges.size - 1)
    ]
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    constant = whole["constant"]
    dof = float(parts[0]["dof"][0])

    def live(values: Floats, still: float = 0) -> npt.NDArray[np.float32]:
        return np.where(constant, still, values).astype(np.float32)

    maps: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
    for label, weights in vectors.items():
        if weights[0].ndim == 2:
            for stat in F_STATS:
                maps[label, stat] = live(whole[label, stat], 1 if stat == "p" else 0)
            continue
        effect, variance = whole[label, "effect"], whole[label, "variance"]
        t, z, _ = t_and_z(effect, variance, dof)
        for stat, values in zip(STATS, (effect, variance, t, z), strict=True):
            maps[label, stat] = live(values)
    return FirstLevelFit(
        maps=maps,
        r_squared=live(whole["r_squared"]),
        residual_ar1=live(whole["residual_ar1"]),
        constant=constant,
        dof=dof,
    )


def t_and_z(effect: Floats, variance: Floats, dof: float) -> tuple[Floats, Floats, Floats]:
    """Give t, z and the two-sided p of estimates (n_units,), as nilearn's `Contrast` does.

    nilearn takes p and 1 - p of every t; of one sign, one of them is enough.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = Contrast(effect=effect, variance=variance, dof=dof).stat()
        p = stats.t.sf(np.abs(t), dof)
    z = np.copysign(stats.norm.isf(np.clip(p, 1e-300, 0.5)), t)
    return np.asarray(t), np.asarray(z), np.asarray(2 * p)


def _fit_block(
    runs: Sequence[npt.NDArray[np.floating[Any]]],
    designs: Sequence[pd.DataFrame],
    vectors: Mapping[str, Sequence[Floats]],
    noise_model: str,
) -> dict[Any, npt.NDArray[Any]]:
    """Fit one block of units, all (n_units,): effects and variances, and what runs are like."""
    labels, results, constant = [], [], np.ones(runs[0].shape[1], dtype=np.bool_)
    r_squared, residual_ar1 = np.zeros((2, constant.size))
    for values, design in zip(runs, designs, strict=True):
        y = np.asarray(values, dtype=np.float64)
        if not np.isfinite(y).all():
            raise InferenceError(
                f"run: {int((~np.isfinite(y)).any(axis=0).sum())} voxels hold values that are not "
                "finite; record the run again"
            )
        still = np.ptp(y, axis=0) == 0
        constant &= still
        # A still voxel has no autocorrelation (0/0); a millionth of an sd of noise keeps nilearn
        # from a singular matrix, and where no run varies the maps are set to 0 afterwards.
        if noise_model != "ols" and still.any():
            y = np.array(y)
            y[:, still] += 1e-6 * np.random.default_rng(0).standard_normal((len(y), 1))
        label, result = run_glm(y, design.to_numpy(), noise_model=noise_model, random_state=0)
        labels.append(label)
        results.append(result)
        for key, fit in result.items():
            chosen = label == key
            r_squared[chosen] += np.where(still[chosen], 0, _explained(fit)) / len(runs)
            residual_ar1[chosen] += _lag1(fit.whitened_residuals) / len(runs)
    block: dict[Any, npt.NDArray[Any]] = {
        "constant": constant, "r_squared": r_squared, "residual_ar1": residual_ar1
    }  # fmt: skip
    for name, weights in vectors.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            contrast = compute_fixed_effect_contrast(
                labels, results, weights, stat_type="t" if weights[0].ndim == 1 else "F"
            )
            if contrast.stat_type == "F":
                block[name, "F"], block[name, "z"] = contrast.stat(), contrast.z_score()
                block[name, "p"] = contrast.p_value()
            else:
                block[name, "effect"] = np.ravel(contrast.effect)
                block[name, "variance"] = np.ravel(contrast.variance)
        block["dof"] = np.array([contrast.dof])
    return block


def _explained(fit: Any) -> Floats:
    """Give nilearn's R squared of a fit, (n_units,); 0 where a series does not vary."""
    centred = [values - values.mean(axis=0) for values in (fit.predicted, fit.whitened_Y)]
    explained, total = (np.einsum("tv,tv->v", values, values) for values in centred)
    return np.asarray(np.divide(explained, total, out=np.zeros_like(total), where=total > 0))


def _lag1(residuals: Floats) -> Floats:
    """Compute the lag-1 autocorrelation of series (n_observations, n_units), (n_units,).

    >>> _lag1(np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]))
    array([-0.75,  0.  ])
    """
    power = np.einsum("tv,tv->v", residuals, residuals)
    product = np.einsum("tv,tv->v", residuals[1:], residuals[:-1])
    return np.asarray(np.divide(product, power, out=np.zeros_like(power), where=power > 0))
