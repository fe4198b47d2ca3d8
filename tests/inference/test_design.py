"""Designs, confounds, trials and contrasts: what they are, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from llm2bids.exceptions import InferenceError
from llm2bids.inference.design import (
    checked_design,
    chosen_confounds,
    contrast_label,
    contrast_vector,
    named_contrasts,
    prompt_design,
    token_design,
    trial_table,
    volume_trials,
)
from llm2bids.inference.options import AnalysisOptions

TOKEN = {"unit_of_analysis": "token"}


def test_prompt_design_has_a_column_per_trial_type_and_a_constant():
    design = prompt_design(["", "tea", "cocoa", "", "tea"])
    assert list(design.columns) == ["cocoa", "tea", "constant"]
    assert design["tea"].tolist() == [0, 1, 0, 0, 1]


def test_prompt_design_without_on_or_off_prompts_is_refused():
    with pytest.raises(InferenceError, match="no on prompt"):
        prompt_design(["", ""])
    with pytest.raises(InferenceError, match="no off prompt in the run, only tea"):
        prompt_design(["tea", "tea"])


def test_a_design_that_cannot_be_fitted_is_refused():
    with pytest.raises(InferenceError, match="2 observations for 2 columns"):
        prompt_design(["", "tea"])
    constant = pd.DataFrame({"length": [5.0] * 4})
    with pytest.raises(InferenceError, match="tea, length, constant are linearly dependent"):
        prompt_design(["", "tea", "tea", ""], constant)
    assert checked_design(pd.DataFrame({"constant": [1.0, 1.0]})).shape == (2, 1)


def test_token_design_names_what_nilearn_refuses():
    events = pd.DataFrame({"onset": [1.0], "duration": [1.0], "trial_type": ["tea"]})
    with pytest.raises(InferenceError, match=r"hrf_model='nope'.*nilearn refuses"):
        token_design(events, 12, 0.25, AnalysisOptions(**TOKEN, hrf_model="nope"))
    with pytest.raises(InferenceError, match="no row"):
        token_design(events.iloc[:0], 12, 0.25, AnalysisOptions(**TOKEN))
    confounds = pd.DataFrame({"x": np.arange(12.0)})
    design = token_design(events, 12, 0.25, AnalysisOptions(**TOKEN), confounds)
    assert list(design.columns) == ["tea", "x", "constant"]
    assert design["tea"].sum() == 4


def test_confounds_are_checked_by_name_and_content():
    table = pd.DataFrame({"x": ["n/a", "1", "3"], "word": ["a", "b", "c"]})
    assert chosen_confounds(table, ["x"])["x"].tolist() == [2, 1, 3]
    with pytest.raises(InferenceError, match=r"no column y; expected some of x, word"):
        chosen_confounds(table, ["y"])
    with pytest.raises(InferenceError, match="column word holds no number"):
        chosen_confounds(table, ["word"])


def test_trials_of_a_run(run):
    table = trial_table(run.transcript, 45)
    assert table["trial_type"].tolist() == ["", "", "", *["tea"] * 4, "", ""]
    assert table["prompt_id"].tolist() == [f"p{trial}" for trial in range(9)]
    assert volume_trials(run.transcript, 45).tolist() == np.repeat(np.arange(9), 5).tolist()


def test_a_transcript_that_does_not_fit_the_image_is_refused(run):
    with pytest.raises(InferenceError, match="lists 45 volumes, the image has 44"):
        volume_trials(run.transcript, 44)
    with pytest.raises(InferenceError, match="no column trial_type, prompt_id"):
        volume_trials(run.transcript[["volume", "trial", "block"]], 45)


@pytest.mark.parametrize("expression", ["cocoa", "tea -", "tea - tea", "1", "import os", "tea = 2"])
def test_a_contrast_that_does_not_exist_is_refused(expression):
    with pytest.raises(InferenceError, match=r"does not exist here.*group level"):
        contrast_vector(expression, pd.DataFrame(columns=["tea", "constant"]))


def test_labels_of_contrasts():
    assert contrast_label("tea") == "tea"
    assert named_contrasts({"a": "tea - cocoa"}, []) == {"a": "tea - cocoa"}
    with pytest.raises(InferenceError, match="'a_b' is not unique and alphanumeric"):
        named_contrasts({"a_b": "tea"}, [])
    with pytest.raises(InferenceError, match="'tea' is not unique"):
        named_contrasts(["tea", "tea"], [])
