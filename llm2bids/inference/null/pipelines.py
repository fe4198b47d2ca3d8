"""The pipelines whose error rates are measured: those that `llm2bids analyze` offers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from llm2bids.inference.blocks import prompt_means
from llm2bids.inference.design import prompt_design, token_design
from llm2bids.inference.first_level import fit_first_level
from llm2bids.inference.null.confounds import prompt_confounds
from llm2bids.inference.null.rates import FAMILY_ALPHA, LEVELS
from llm2bids.inference.null.source import NullRun
from llm2bids.inference.null.units import UnitDraw
from llm2bids.inference.pooled import PooledTest, pooled_test
from llm2bids.inference.threshold import thresholds

Values = npt.NDArray[np.floating[Any]]

SHAM = "sham"
ORDER = 6
"""Order of the autoregressive model beside nilearn's default."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One way to test."""

    key: str  # name in tables
    label: str  # name for readers
    level: Literal["run", "group"]  # whether one run is tested or a group of participants
    # the options of ``llm2bids analyze`` that choose it; empty for what it does anyway
    options: str
    default: bool = False  # whether `analyze` does it unless told otherwise


PIPELINES = (
    Pipeline(
        key="token_ols", label="tokens, OLS", level="run",
        options="--unit-of-analysis token --noise-model ols",
    ),
    Pipeline(
        key="token_ar1", label="tokens, AR(1)", level="run", options="--unit-of-analysis token"
    ),
    Pipeline(
        key=f"token_ar{ORDER}", label=f"tokens, AR({ORDER})", level="run",
        options=f"--unit-of-analysis token --noise-model ar{ORDER}",
    ),
    Pipeline(key="prompt_ols", label="prompts, t test", level="run", options="", default=True),
    Pipeline(
        key="prompt_ar1", label="prompts, AR(1)", level="run", options="--noise-model ar1"
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
    Pipeline(
        key="tfce", label="participants, sign flips, TFCE", level="group",
        options="--n-perm N --tfce",
    ),
)  # fmt: skip
"""All pipelines, in the order of tables."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one pipeline called significant in one run or group."""

    # units with a two-sided p of at most each of `LEVELS`; empty where a pipeline gives no
    # uncorrected p
    exceed: Mapping[float, int] = field(default_factory=dict)
    n_tests: int = 0  # units that were tested
    # by correction: whether anything is significant at 0.05 for the family of units
    detections: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class RunTest:
    """One run, tested."""

    participant_label: str  # its participant
    tallies: Mapping[str, Tally]  # by pipeline
    # (n_kept,): Mean of the on prompts minus mean of the off prompts, from the default first
    # level
    effect: npt.NDArray[np.float32]
    means: npt.NDArray[np.float32]  # (n_prompts, n_kept): One image per prompt
    on: npt.NDArray[np.bool_]  # (n_prompts,): Prompts of the sham on block
    constant: npt.NDArray[np.bool_]  # (n_kept,): Units that did not vary; they count for nothing


def tally_run(run: NullRun, draw: UnitDraw, *, n_perm: int, random_state: int) -> RunTest:
    """Test one null run with every pipeline of the participant level."""
    tokens = token_design(run.events, len(run.values), t_r=run.t_r, confounds=run.confounds)
    kinds = [SHAM if on else "" for on in run.on]
    prompts = prompt_design(kinds, prompt_confounds(run.confounds, run.trials))
    means = prompt_means([(0, run.values)], run.trials, run.values.shape[1])[0]
    constant = np.ptp(run.values, axis=0) == 0
    everything = np.arange(constant.size)
    fits: dict[str, tuple[Values, npt.NDArray[np.int64], pd.DataFrame, str]] = {
        "token_ols": (run.values, draw.tested, tokens, "ols"),
        "token_ar1": (run.values, draw.tested, tokens, "ar1"),
        f"token_ar{ORDER}": (run.values, draw.tested, tokens, f"ar{ORDER}"),
        # the default model also gives the group its effects, of all units that are kept
        "prompt_ols": (means, everything, prompts, "ols"),
        "prompt_ar1": (means, draw.tested, prompts, "ar1"),
    }
    tallies: dict[str, Tally] = {}
    effect = np.zeros(constant.size, dtype=np.float32)
    for key, (values, units, design, noise_model) in fits.items():
        maps = _fitted(values[:, units], design, noise_model)
        z = maps[SHAM, "z"]
        if key == "prompt_ols":
            effect, z = maps[SHAM, "effect"], z[draw.tested]
        tallies[key] = z_tally(z[~constant[draw.tested]])
    tested = means[:, draw.tested][:, ~constant[draw.tested]]
    permuted = pooled_test(
        tested, run.on, np.zeros(run.on.size), n_perm=n_perm, random_state=random_state
    )
    tallies["prompt_permutation"] = pooled_tally(permuted)
    return RunTest(
        participant_label=run.participant_label,
        tallies=tallies,
        effect=effect,
        means=means.astype(np.float32),
        on=run.on,
        constant=constant,
    )


def _fitted(
    values: Values, design: pd.DataFrame, noise_model: str
) -> dict[tuple[str, str], npt.NDArray[np.float32]]:
    whole = np.array([0, values.shape[1]])
    fit = fit_first_level(
        lambda block: [values], whole, [design], {SHAM: SHAM}, noise_model=noise_model
    )
    return fit.maps


def z_tally(z: Values) -> Tally:
    """Count what thresholds on a z map call significant, two-sided; z (n_units,).

    Examples
    --------
    >>> tally = z_tally(np.array([0.0, 2.0, -3.0, 9.0]))
    >>> tally.exceed[0.05], tally.detections
    (3, {'bonferroni': True, 'fdr': True})
    """
    found = thresholds(z, alpha=FAMILY_ALPHA)
    return Tally(
        exceed={level: int((np.abs(z) >= stats.norm.isf(level / 2)).sum()) for level in LEVELS},
        n_tests=z.size,
        detections={name: bool(found[name]["n_units"]) for name in ("bonferroni", "fdr")},
    )


def pooled_tally(test: PooledTest) -> Tally:
    """Count what a permutation test of prompts calls significant."""
    smallest = 1 / (test.max_t.size + 1)
    return Tally(
        exceed={
            level: int((test.p <= level + 1e-12).sum())
            for level in LEVELS
            if smallest <= level + 1e-12
        },
        n_tests=test.p.size,
        detections={"max_t": bool((test.p_fwe <= FAMILY_ALPHA + 1e-12).any())},
    )
