"""Design matrices and contrasts; events that somebody edited, against the transcript."""

import numpy as np
import pandas as pd
import pytest

from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import InferenceError
from llm2bids.inference.analyze import analyze_participants
from llm2bids.inference.design import (
    checked_design,
    chosen_confounds,
    contrast_label,
    contrast_vector,
    named_contrasts,
    prompt_design,
    same_conditions,
    token_design,
    trial_table,
    volume_rows,
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
    with pytest.raises(InferenceError, match=r"hrf_model='spm'.*nilearn refuses"):
        token_design(
            events.assign(onset=np.nan), 12, 0.25, AnalysisOptions(**TOKEN, hrf_model="spm")
        )
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
    rows = volume_rows(run.transcript, 45)
    table = trial_table(rows)
    assert table["trial_type"].tolist() == ["", "", "", *["tea"] * 4, "", ""]
    assert table["prompt_id"].tolist() == [f"p{trial}" for trial in range(9)]
    assert rows["trial"].tolist() == np.repeat(np.arange(9), 5).tolist()


def test_a_transcript_that_does_not_fit_the_image_is_refused(run):
    with pytest.raises(InferenceError, match="lists 45 volumes, the image has 44"):
        volume_rows(run.transcript, 44)
    for changed in ({"trial": 4}, {"prompt_id": "other"}, {"trial_type": "other"}):
        table = run.transcript.copy()
        table.loc[1, list(changed)] = list(changed.values())
        with pytest.raises(InferenceError, match="several prompts or conditions"):
            volume_rows(table, 45)


@pytest.mark.parametrize("expression", ["cocoa", "tea -", "tea - tea", "1", "import os", "tea = 2"])
def test_a_contrast_that_does_not_exist_is_refused(expression):
    with pytest.raises(InferenceError, match=r"does not exist here.*group level"):
        contrast_vector(expression, pd.DataFrame(columns=["tea", "constant"]))


@pytest.mark.parametrize("expression", ["tea**2", "tea + 1", "tea - 1e400", "tea * tea"])
def test_a_contrast_that_is_no_sum_of_conditions_is_refused(expression):
    with pytest.raises(InferenceError, match="no sum of conditions times numbers"):
        contrast_vector(expression, pd.DataFrame(columns=["tea", "constant"]))


def test_labels_of_contrasts():
    assert contrast_label("tea") == "tea"
    assert named_contrasts({"a": "tea - cocoa"}, []) == {"a": "tea - cocoa"}
    with pytest.raises(InferenceError, match="'a_b' is not unique and alphanumeric"):
        named_contrasts({"a_b": "tea"}, [])
    with pytest.raises(InferenceError, match="'tea' is not unique"):
        named_contrasts(["tea", "tea"], [])


T_R, TOKENS = 0.5, 3
KINDS = ("", "", "tea", "tea", "cocoa", "", "")


def rows_of_volumes():
    rows = [
        {"trial": trial, "position": position, "prompt_id": f"p{trial}",
         "trial_type": kind or pd.NA,
         "volume": pd.NA if position == 0 else trial * TOKENS + position - 1}
        for trial, kind in enumerate(KINDS)
        for position in range(TOKENS + 1)
    ]  # fmt: skip
    transcript = pd.DataFrame(rows).astype({"volume": "Int64", "trial_type": "string"})
    return volume_rows(transcript, TOKENS * len(KINDS))


ROWS = rows_of_volumes()


def events(*rows):
    return pd.DataFrame(rows, columns=["onset", "duration", "trial_type"])


BLOCKS = ((3.0, 3.0, "tea"), (6.0, 1.5, "cocoa"))
EDITED = ((3.0, 1.5, "tea"), (4.5, 3.0, "cocoa"))


def same(table, use=None):
    return same_conditions(ROWS, table, t_r=T_R, use=use, name="run")


def test_blocks_in_place_of_prompts_say_the_same():
    shown, told = same(events(*BLOCKS))
    assert shown is ROWS
    assert len(told) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (EDITED, r"volume 9 \(4.5 s\) is 'cocoa' in events.tsv and 'tea' in the transcript \(3 of"),
        (BLOCKS[:1], "'off' in events.tsv and 'cocoa' in the transcript"),
        (((3.2, 3.0, "tea"), BLOCKS[1]), "3.2 s for 3 s in events.tsv begins or ends within"),
        (((3.0, 4.5, "tea"), BLOCKS[1]), "overlaps"),
        ((*BLOCKS, (10.5, 1.5, "tea")), "none of the run's 10.5 s"),
        (((3.0, 0.0, "tea"), BLOCKS[1]), "covers no volume"),
        (((-1.0, 4.0, "tea"), BLOCKS[1]), "covers no volume"),
        (((1e300, 1e300, "tea"), BLOCKS[1]), "covers no volume"),
    ],
)
def test_tables_that_differ_are_refused(rows, message):
    with pytest.raises(InferenceError, match=message):
        same(events(*rows))
    shown, told = same(events(*rows), use="transcript")
    assert shown is ROWS
    assert told.to_dict("list") == {
        "onset": [3.0, 4.5, 6.0],
        "duration": [1.5, 1.5, 1.5],
        "trial_type": ["tea", "tea", "cocoa"],
    }


def test_events_decide_for_the_transcript_too():
    shown, told = same(events(*EDITED), use="events")
    first = shown.drop_duplicates("trial")["trial_type"]
    assert first.tolist() == ["", "", "tea", "cocoa", "cocoa", "", ""]
    pd.testing.assert_frame_equal(told, events(*EDITED))


def test_events_that_cut_a_prompt_are_refused():
    with pytest.raises(InferenceError, match="in the middle of prompt p3"):
        same(events((3.0, 2.0, "tea"), (5.0, 2.5, "cocoa")), use="events")
    with pytest.raises(InferenceError, match=r"mend events\.tsv"):
        same(events((3.2, 3.0, "tea"), BLOCKS[1]), use="events")


@pytest.mark.parametrize("unit", ["prompt", "token"])
def test_an_edited_run_is_refused_and_both_models_follow_the_chosen_table(recorded, tmp_path, unit):
    bids = recorded.write_dataset(tmp_path / "bids", n_participants=1)
    dataset = open_dataset(bids)
    run = dataset.select(task="tea")[0]
    table = dataset.events(run).iloc[1:]  # somebody took the first on prompt out
    run.events.unlink()
    table.to_csv(run.events, sep="\t", index=False)

    def analysed(use):
        out = tmp_path / str(use)
        options = {"unit_of_analysis": unit, "noise_model": "ols", "use": use}
        result = analyze_participants(bids, out, task=["tea", "milk"], progress=False, **options)
        design = out / "sub-01/func/sub-01_task-tea_design.tsv"
        on = pd.read_csv(design, sep="\t")["tea"] if design.exists() else None
        return [failure.reason for failure in result.failed], on

    reasons, _ = analysed(None)
    assert len(reasons) == 1
    assert str(run.events) in reasons[0]
    assert "--use" in reasons[0]
    per_prompt = recorded.tokens_per_prompt if unit == "token" else 1
    for use, n_on in (("transcript", 4), ("events", 3)):
        reasons, on = analysed(use)
        assert reasons == []
        np.testing.assert_allclose(on.sum(), n_on * per_prompt)
