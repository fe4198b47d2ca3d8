"""Confounds of null runs: a giveaway inflates without them, and not with them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import UsageError
from llm2bids.inference.null.confounds import checked_confounds, null_confounds, prompt_confounds
from llm2bids.inference.null.pipelines import tally_run


def longer_when_on(run, rng):
    """Prompts of the sham block are longer, and every unit follows the length."""
    length = rng.normal(8.0, 2.0, run.on.size) + 3.0 * run.on
    position = np.tile(np.arange(run.trials.size // run.on.size), run.on.size)
    follow = 0.5 * (length - length.mean())[run.trials, None]
    confounds = pd.DataFrame({"prompt_position": position, "prompt_tokens": length[run.trials]})
    return replace(run, values=run.values + follow.astype(np.float32)), confounds - confounds.mean()


def test_a_giveaway_inflates_the_default_and_its_covariate_mends_it(simulate):
    source = simulate(n_runs=8, prompt_sd=0.7)
    rng = np.random.default_rng(3)
    shares = {"without": [], "with": []}
    for run in source.runs():
        plain, confounds = longer_when_on(run, rng)
        for name, shown in (("without", plain), ("with", replace(plain, confounds=confounds))):
            tally = tally_run(shown, source.draw, n_perm=19, random_state=0).tallies["prompt_ols"]
            shares[name].append(tally.exceed[0.05] / tally.n_tests)
    assert np.mean(shares["without"]) > 0.3
    assert abs(np.mean(shares["with"]) - 0.05) < 0.02


def test_prompts_keep_what_varies_between_them():
    trials = np.repeat(np.arange(3), 2)
    table = pd.DataFrame({"prompt_position": [0.0, 1] * 3, "surprisal": [1.0, 2, 3, 4, 5, 9]})
    means = prompt_confounds(table, trials)
    assert list(means) == ["surprisal"]
    assert means["surprisal"].tolist() == [1.5, 3.5, 7.0]
    assert prompt_confounds(table[["prompt_position"]], trials) is None
    assert prompt_confounds(None, trials) is None


def test_columns_that_say_nothing_are_left_out():
    tokens = pd.DataFrame({"volume": range(4), "trial": [0, 0, 1, 1], "block": 0,
                           "trial_type": "a", "prompt_id": ["p", "p", "q", "q"],
                           "position": [1, 2, 1, 2], "prompt_tokens": 5})  # fmt: skip
    assert null_confounds(tokens, 4, ["prompt_tokens"]) is None
    both = null_confounds(tokens, 4, ["prompt_position", "first_token"])
    assert list(both) == ["prompt_position"]  # of two tokens, the first is the position
    assert both["prompt_position"].tolist() == [-0.5, 0.5, -0.5, 0.5]


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="--confounds loudness: expected some of position"):
        checked_confounds(["length", "loudness"], recorded=True)
    with pytest.raises(UsageError, match="give it as SOURCE"):
        checked_confounds(["global_signal"], recorded=False)
