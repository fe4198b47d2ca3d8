import warnings

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import make_first_level_design_matrix

from llm2bids.dataset.transcript import confounds_table

NAMES = ["prompt_position", "surprisal_deviation", "entropy_deviation"]


def make_tokens(on, n_tokens, rng, *, effect=8.0):
    """Tokens whose surprisal, entropy and length follow the blocks, as they do in real runs."""
    trial = np.repeat(np.arange(len(on)), n_tokens)
    is_on = np.repeat(on, n_tokens)
    n = len(trial)
    return pd.DataFrame(
        {
            "volume": pd.array(np.arange(n), dtype="Int64"),
            "trial": trial,
            "trial_type": pd.array(np.where(is_on, "a", None), dtype="string"),
            "position": np.tile(np.arange(n_tokens), len(on)) + 1,
            "surprisal": rng.gamma(2, size=n) + effect * is_on,
            "entropy": rng.gamma(2, size=n) + effect * is_on,
            "prompt_tokens": 9 + 4 * is_on,
        }
    )


def design(on, n_tokens, t_r, confounds, hrf_model):
    onsets = np.flatnonzero(on) * n_tokens * t_r
    events = pd.DataFrame({"onset": onsets, "duration": n_tokens * t_r, "trial_type": "a"})
    frame_times = t_r * (np.arange(len(confounds)) + 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_first_level_design_matrix(
            frame_times,
            events,
            hrf_model=hrf_model,
            drift_model="cosine",
            high_pass=0.01,
            add_regs=confounds,
        )


def share_left(matrix):
    task = matrix["a"].to_numpy()
    others = matrix.drop(columns="a").to_numpy()
    rest = task - others @ np.linalg.lstsq(others, task, rcond=None)[0]
    return rest.var() / task.var()


BLOCKS = [False] * 8 + [True] * 8 + [False] * 8
ALTERNATING = [False, True] * 12


@pytest.mark.parametrize("hrf_model", ["glover", None])
@pytest.mark.parametrize("on", [BLOCKS, ALTERNATING])
@pytest.mark.parametrize("n_tokens", [1, 2, 12])
@pytest.mark.parametrize("seed", range(10))
def test_designs_are_of_full_rank_and_keep_the_task(hrf_model, on, n_tokens, seed):
    tokens = make_tokens(np.array(on), n_tokens, np.random.default_rng(seed))
    confounds = confounds_table(tokens, tokens_per_prompt=n_tokens)
    assert len(confounds) == len(on) * n_tokens
    t_r = 0.25
    matrix = design(on, n_tokens, t_r, confounds, hrf_model)
    assert np.linalg.matrix_rank(matrix.to_numpy()) == matrix.shape[1]
    none = design(on, n_tokens, t_r, confounds.iloc[:, :0], hrf_model)
    # what is left beside the drifts alone is left, but for chance, with the confounds
    assert share_left(matrix) >= 0.5 * share_left(none)


def test_plain_surprisal_would_take_the_task_away():
    tokens = make_tokens(np.array(BLOCKS), 12, np.random.default_rng(0))
    plain = tokens[["surprisal", "entropy"]]
    assert share_left(design(BLOCKS, 12, 0.25, plain, None)) < 0.1
    ours = confounds_table(tokens, tokens_per_prompt=12)
    assert share_left(design(BLOCKS, 12, 0.25, ours, None)) > 0.9


def test_columns_that_do_not_vary_are_left_out():
    tokens = make_tokens(np.array(BLOCKS), 1, np.random.default_rng(0))
    assert list(confounds_table(tokens, tokens_per_prompt=1)) == NAMES[1:]
    tokens["entropy"] = 2.0
    assert list(confounds_table(tokens, tokens_per_prompt=1)) == NAMES[1:2]


def test_mixtures_are_left_out():
    tokens = make_tokens(np.array(BLOCKS), 12, np.random.default_rng(0))
    tokens["entropy"] = 3 * tokens["surprisal"] - 2 * tokens["position"]
    assert list(confounds_table(tokens, tokens_per_prompt=12)) == NAMES[:2]


def test_names_differ_from_the_stimulus_series(written, dataset):
    import json

    columns = json.loads((written / "task-votes_stim.json").read_text())["Columns"]
    confounds = dataset.confounds(dataset.runs[0])
    assert list(confounds) == NAMES
    assert not set(columns) & set(confounds)
    assert len(confounds) == dataset.load_run(dataset.runs[0]).shape[3]
