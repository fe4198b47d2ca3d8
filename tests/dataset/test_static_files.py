import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2bids.dataset.settings import normal_settings
from llm2bids.dataset.static_files import fill_json, fill_text, template_folder
from llm2bids.dataset.stats_models import all_tasks_model, task_model
from llm2bids.dataset.transcript import COLUMNS, read_transcript, transcript_table, write_transcript
from llm2bids.dataset.validate import find_validator
from llm2bids.exceptions import DatasetError
from llm2bids.store.json import read_json
from llm2bids.store.tables import read_table, write_table


def test_every_json_file_of_the_template_is_json():
    files = [path for path in template_folder().rglob("*.json")]
    assert len(files) > 10
    for path in files:
        json.loads(path.read_text())


def test_a_blank_without_a_value_is_named():
    with pytest.raises(DatasetError, match="raw/CHANGES needs a value for 'version'"):
        fill_text("raw/CHANGES", {})
    with pytest.raises(
        DatasetError, match=r"derivative/confounds\.json needs a value for 'centre'"
    ):
        fill_json("derivative/confounds.json", {})


def test_nothing_is_left_blank(written):
    for path in [*written.rglob("*.json"), *written.rglob("*.md"), *written.rglob("CHANGES")]:
        assert "${" not in path.read_text(), path


def test_readme_says_what_matters(written):
    text = (written / "README.md").read_text()
    assert len(text) > 150
    for words in ("not recorded from people", "What a participant is", "of this checkpoint"):
        assert words in text


def test_description_invents_nothing(written):
    about = json.loads((written / "dataset_description.json").read_text())
    assert about["Authors"] == []
    assert about["BIDSVersion"] == "1.11.1"
    derived = json.loads((written / "derivatives/llm2bids/dataset_description.json").read_text())
    assert derived["DatasetLinks"] == {"raw": "../../"}


def test_models_are_valid_and_name_every_condition(synthetic):
    from bsmschema.models import BIDSStatsModel

    fields = {"space_label": "Tiny"}
    tasks = synthetic.paradigm.tasks
    one = task_model(tasks[0], fields)
    BIDSStatsModel.model_validate(one)
    assert one["Nodes"][0]["Model"]["X"] == [1, "trial_type.fossils"]
    assert one["Input"] == {"task": ["fossils"], "space": ["Tiny"]}
    every = all_tasks_model(tasks, fields)
    BIDSStatsModel.model_validate(every)
    assert [node["Model"]["Type"] for node in every["Nodes"]] == ["glm", "meta", "glm"]
    assert every["Nodes"][0]["Model"]["X"] == [1, "trial_type.*"], "a run lacks the other tasks"
    names = [contrast["Name"] for contrast in every["Nodes"][1]["Contrasts"]]
    assert names == ["fossils", "votes", "fossilsVsVotes"]
    assert "Convolve" not in json.dumps([one, every])


def test_the_model_of_all_tasks_names_those_that_were_recorded(synthetic, tmp_path):
    place = tmp_path / "ds/code/models/all_smdl.json"
    fossils, votes = (synthetic.make_design(1, task) for task in ("fossils", "votes"))
    with synthetic.create(tmp_path / "ds") as writer:
        assert json.loads(place.read_text())["Input"]["task"] == ["fossils", "votes"]
        writer.write_run(synthetic.make_recording(fossils), t_r=synthetic.t_r)
        writer.finish_participant("01")
        assert not place.exists(), "one condition: the task's own model says all"
        writer.write_run(synthetic.make_recording(votes), t_r=synthetic.t_r)
        writer.finish_participant("01")
    model = json.loads(place.read_text())
    assert model == all_tasks_model(synthetic.paradigm.tasks, {"space_label": "Tiny"})


def test_model_of_a_task_with_several_conditions(synthetic):
    from bsmschema.models import BIDSStatsModel

    both = replace(
        synthetic.paradigm.tasks[0],
        label="both",
        conditions=(("fossils", "fossils"), ("votes", "votes")),
    )
    model = task_model(both, {"space_label": "Tiny"})
    BIDSStatsModel.model_validate(model)
    assert len(model["Nodes"][0]["Contrasts"]) == 2


texts = st.text(max_size=8)


@settings(deadline=None)
@given(
    tokens=st.lists(texts, min_size=1, max_size=6),
    surprisal=st.floats(0, 60, allow_nan=False, width=32),
)
def test_tokens_table_tokens(tmp_path_factory, tokens, surprisal):
    path = tmp_path_factory.mktemp("tokens") / "a.tsv"
    n = len(tokens)
    table = pd.DataFrame(
        {
            "volume": pd.array([pd.NA, *range(n - 1)], dtype="Int64"),
            "trial": 0,
            "block": 0,
            "trial_type": pd.array([None] * n, dtype="string"),
            "prompt_id": "n/a",
            "position": range(n),
            "token_id": range(n),
            "token": tokens,
            "surprisal": surprisal,
            "entropy": 1.5,
            "prompt_tokens": 3,
        }
    )
    written = transcript_table(table, t_r=0.5)
    write_transcript(path, written)
    read = read_transcript(path)
    assert tuple(read) == COLUMNS
    assert read["token"].tolist() == tokens
    assert read["prompt_id"].tolist() == ["n/a"] * n
    assert read["volume"].tolist() == written["volume"].tolist()
    np.testing.assert_allclose(read["surprisal"], surprisal, rtol=1e-8, atol=1e-12)


def test_damaged_tables_are_named(tmp_path):
    path = tmp_path / "a.tsv"
    with pytest.raises(DatasetError, match=r"a\.tsv: not a readable table"):
        read_table(path)
    write_table(path, pd.DataFrame({"onset": [1]}))
    with pytest.raises(DatasetError, match=r"columns duration, .* are missing"):
        read_transcript(path)
    write_table(path, pd.DataFrame({name: ['bad"'] for name in COLUMNS}))
    with pytest.raises(DatasetError, match="not text escaped as in JSON"):
        read_transcript(path)


def test_settings_are_what_json_can_hold(tmp_path):
    with pytest.raises(DatasetError, match="cannot be written as JSON"):
        normal_settings({"a": object()})
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(DatasetError, match="found a JSON list, expected an object"):
        read_json(path)


def test_a_missing_validator_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("llm2bids.dataset.validate.PROGRAM", "no-such-validator")
    with pytest.raises(DatasetError, match="is not installed; install it with `pip install"):
        find_validator()
