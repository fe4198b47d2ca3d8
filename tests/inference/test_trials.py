"""Events that somebody edited, against the transcript: one of them decides for every model."""

import numpy as np
import pandas as pd
import pytest

from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import InferenceError
from llm2bids.inference.analyze import analyze_participants
from llm2bids.inference.design import same_conditions

T_R, TOKENS = 0.5, 3
KINDS = ("", "", "tea", "tea", "cocoa", "", "")


def transcript():
    rows = [
        {"trial": trial, "position": position, "prompt_id": f"p{trial}",
         "trial_type": kind or pd.NA,
         "volume": pd.NA if position == 0 else trial * TOKENS + position - 1}
        for trial, kind in enumerate(KINDS)
        for position in range(TOKENS + 1)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"volume": "Int64", "trial_type": "string"})


def events(*rows):
    return pd.DataFrame(rows, columns=["onset", "duration", "trial_type"])


BLOCKS = ((3.0, 3.0, "tea"), (6.0, 1.5, "cocoa"))
EDITED = ((3.0, 1.5, "tea"), (4.5, 3.0, "cocoa"))


def same(table, use=None):
    return same_conditions(transcript(), table, t_r=T_R, use=use, name="run")


def test_blocks_in_place_of_prompts_say_the_same():
    shown, told = same(events(*BLOCKS))
    pd.testing.assert_frame_equal(shown, transcript())
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
    ],
)
def test_tables_that_differ_are_refused(rows, message):
    with pytest.raises(InferenceError, match=message):
        same(events(*rows))
    shown, told = same(events(*rows), use="transcript")
    pd.testing.assert_frame_equal(shown, transcript())
    assert told.to_dict("list") == {
        "onset": [3.0, 4.5, 6.0],
        "duration": [1.5, 1.5, 1.5],
        "trial_type": ["tea", "tea", "cocoa"],
    }


def test_events_decide_for_the_transcript_too():
    shown, told = same(events(*EDITED), use="events")
    first = shown.drop_duplicates("trial")["trial_type"].fillna("")
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
