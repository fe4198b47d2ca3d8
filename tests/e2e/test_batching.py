"""A model that sees its padding is scanned in batches of one length, from start to resumed end."""

import json
import shutil

import numpy as np
import pytest

from llm2bids import open_dataset, record, replay
from llm2bids.exceptions import DatasetError
from tests.tiny_models import save_architecture

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own, of an old architecture

OPTIONS = {
    "paradigm": "off_on_off",
    "task_labels": ("pathology",),
    "prompts_per_block": 3,
    "tokens_per_prompt": 4,
    "sites": ("residual",),
    "progress": False,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_architecture("recurrent_gemma", tmp_path_factory.mktemp("models") / "griffin")


@pytest.fixture(scope="module")
def scanned(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "dataset"
    record(path, model=model, n_participants=1, **OPTIONS)
    return path


def test_the_dataset_says_how_its_prompts_were_batched(scanned):
    settings = json.loads((scanned / "code/llm2bids_settings.json").read_text("utf-8"))
    exactness = json.loads((scanned / "code/exactness.json").read_text("utf-8"))
    assert settings["batching"] == exactness["Batching"] == "equal"
    dataset = open_dataset(scanned)
    assert dataset.sidecar(dataset.runs[0])["PromptBatching"] == "equal"
    assert exactness["LargestError"]["residual"] < 1e-5
    assert "residual stream" in exactness["RefusedBatching"]["padded"]


def test_going_on_and_replaying_give_the_same_values(scanned, model, tmp_path):
    more = shutil.copytree(scanned, tmp_path / "more")
    record(more, model=model, n_participants=2, **OPTIONS)
    whole = record(tmp_path / "whole", model=model, n_participants=2, **OPTIONS)
    again = replay(tmp_path / "again", transcripts=more, model=model, n_participants=2, **OPTIONS)
    datasets = [open_dataset(more), whole, again]
    for runs in zip(*(dataset.runs for dataset in datasets), strict=True):
        values = [dataset.values(run) for dataset, run in zip(datasets, runs, strict=True)]
        np.testing.assert_array_equal(values[0], values[1])
        np.testing.assert_allclose(values[2], values[1], atol=0.02 * np.abs(values[1]).max())


def test_other_batching_is_not_gone_on_with(scanned, model, tmp_path):
    path = shutil.copytree(scanned, tmp_path / "padded")
    file = path / "code/llm2bids_settings.json"
    settings = json.loads(file.read_text("utf-8"))
    del settings["batching"]
    file.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(DatasetError, match="batching"):
        record(path, model=model, n_participants=2, **OPTIONS)
