"""What was shown when: the events of a run, and the time that one volume stands for."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import pandas as pd
from scipy.fft import dct

from llm2bids.exceptions import UsageError
from llm2bids.paradigm.design import RunDesign

# Hz of nilearn's default cosine drifts; SPM's and FitLins' 1/128 Hz are nearly the same.
HIGH_PASS = 0.01

_LONGEST_CHOSEN = 0.5  # repetition time, seconds


def events_table(design: RunDesign, t_r: float) -> pd.DataFrame:
    """Tabulate the on prompts of a run: onset, duration (seconds), trial_type (BIDS 1.11)."""
    if not t_r > 0:
        raise UsageError(f"repetition time {t_r}: expected more than 0 seconds")
    length = design.tokens_per_prompt * t_r
    shown = [
        (index * length, length, trial.trial_type)
        for index, trial in enumerate(design.trials)
        if trial.trial_type is not None
    ]
    frame = pd.DataFrame(shown, columns=["onset", "duration", "trial_type"])
    return frame.astype({"onset": float, "duration": float, "trial_type": str})


def repetition_time(designs: Iterable[RunDesign]) -> float:
    """Choose the repetition time of a dataset: a power of two of a second, at most 1/2."""
    # so large that a run with one on block lasts less than 100 s, and in a run with several one off
    # and one on block together last less than 64 s: slower, and the usual high-pass filters take
    # the effect away; another value, and block edges fall between volumes
    shares = (seconds / n_volumes for n_volumes, seconds in map(_longest, designs))
    # strictly below each limit
    return min(_LONGEST_CHOSEN, *(2.0 ** (math.ceil(math.log2(share)) - 1) for share in shares))


def kept_by_high_pass(design: RunDesign, t_r: float) -> float:
    """Give the share of on-off variance that default drifts leave, of the worst task."""
    kinds = np.repeat([trial.trial_type or "" for trial in design.trials], design.tokens_per_prompt)
    n_drifts = math.floor(2 * len(kinds) * t_r * HIGH_PASS + 1e-9)
    kept = 1.0
    for kind in set(kinds) - {""}:
        on = (kinds == kind).astype(float)
        power = np.asarray(dct(on - on.mean(), norm="ortho")) ** 2
        if power.sum():
            kept = min(kept, 1 - float(power[1 : n_drifts + 1].sum() / power.sum()))
    return kept


def high_pass_warning(designs: Sequence[RunDesign], t_r: float) -> str | None:
    """Say which run a default analysis would empty, and what to do; None where there is none."""
    kept, design = min(
        ((kept_by_high_pass(design, t_r), design) for design in designs), key=lambda pair: pair[0]
    )
    if kept >= 0.5:
        return None
    return (
        f"repetition time (--tr) {t_r:g} s: the default high-pass filter of nilearn, SPM and "
        f"FitLins ({HIGH_PASS:g} Hz) takes {100 * (1 - kept):.0f} % of the variance of the blocks "
        f"of task {design.task} (runs of {design.n_volumes * t_r:g} s); expected --tr "
        f"{repetition_time([design]):g} or less, shorter blocks, --paradigm interleaved, or an "
        "analysis without a drift model, as llm2bids analyze is"
    )


def _longest(design: RunDesign) -> tuple[int, float]:
    """Volumes of the stretch that limits the repetition time, and its limit in seconds."""
    runs = groupby(design.trials, key=lambda trial: trial.trial_type)
    blocks = [(kind is not None, len(list(trials))) for kind, trials in runs]
    if sum(on for on, _ in blocks) <= 1:
        # default high-pass filters (period 128 s) then leave the block's signal
        return design.n_volumes, 100.0
    periods, off = [], 0
    for on, n_trials in blocks:
        periods += [off + n_trials] if on else []
        off = 0 if on else n_trials
    return max(periods) * design.tokens_per_prompt, 64.0
