"""Monitoring a tiny model: scores by hand, time series of a dataset."""

import json

import numpy as np
import pandas as pd
import pytest

from llm2bids.cli.main import main
from llm2bids.exceptions import InterventionError, UsageError
from llm2bids.intervention.monitor import POSITIONS, MonitorOptions, _Monitor, monitor
from llm2bids.intervention.subject import SubjectOptions, open_subject
from llm2bids.model.tokenizer import encode
from tests.plain import plain_values

QUICK = {
    "n_prompts": 5, "n_defining": 6, "n_tokens": 4, "top_percent": 5.0, "seed": 2, "device": "cpu",
    "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def result(scanned, analysed, model):
    return monitor(scanned.path, analysed, model=model, **QUICK)


@pytest.fixture(scope="module")
def units(activations):
    """The five per cent of activations with the largest effect of pathology."""
    inside, effect = activations("pathology")
    return inside[np.argsort(-effect)[:6]]


def test_every_run_has_a_time_series_of_mean_z(result, scanned, analysed, units):
    for run in scanned.runs:
        path = analysed / f"sub-{run.participant_label}/func/{run.name}_desc-monitor_timeseries.tsv"
        table = pd.read_csv(path, sep="\t")
        assert set(table) == {"archeology", "pathology", "politicalscience"}
        values = scanned.values(run)[:, units]
        z = (values - scanned.calibration.mean[units]) / scanned.calibration.scale[units]
        np.testing.assert_allclose(table["pathology"], z.mean(axis=1), atol=1e-5)
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert sidecar["SamplingFrequency"] == 1 / scanned.t_r(run)
        assert "CIRCULAR" in sidecar["CircularityCaution"] and "No safety" in sidecar["Description"]


def test_scores_of_a_prompt_are_those_of_a_plain_forward_pass(
    scanned, analysed, model, units, tiny_loaded
):
    topics = open_subject(scanned.path, analysed, SubjectOptions(model=model, device="cpu", seed=2))
    study = _Monitor(
        subject=topics,
        options=MonitorOptions(task_labels=("pathology",), top_percent=5.0, n_tokens=4),
    )
    prompts = topics.held_out("pathology", 3)
    loaded = tiny_loaded("llama")
    for prompt, read in zip(prompts, study.read(prompts), strict=True):
        ids = encode(loaded, prompt.text)
        values = plain_values(loaded.model, ids, scanned.space.sites)[1:, units]
        z = (values - scanned.calibration.mean[units]) / scanned.calibration.scale[units]
        assert read.n_prompt == len(ids) - 1 and len(read.scores) == len(ids) - 1 + 4
        np.testing.assert_allclose(read.scores[: len(ids) - 1, 0], z.mean(axis=1), atol=1e-4)
        last = read.scores[POSITIONS["last prompt token"](read.n_prompt)]
        np.testing.assert_allclose(last, [[z[-1].mean()]], atol=1e-4)


def test_scores_stand_beside_a_probe_and_word_counts(result):
    table = result.tables["monitor"]
    assert table.groupby("score").size().to_dict() == {
        "network": 12, "linear probe": 12, "word counts": 3,
    }  # fmt: skip
    assert table[["auroc_off", "auroc_others"]].stack().between(0, 1).all()
    assert (table["off_low"] <= table["auroc_off"]).all()
    # a probe learns which of 3 topics a random-weight model reads from its words
    words = table[table["score"] == "word counts"]
    assert words["auroc_others"].mean() > 0.6
    detection = result.tables["detection"]
    assert detection["tokens"].tolist() == [2, 4, 6, 8, 14] * 3
    assert detection[["detected", "false_positives"]].stack().between(0, 1).all()
    assert "No safety gate" in result.describe()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_prompts": 5000}, InterventionError, r"expected 5000 to test with"),
        ({"task_labels": ("tea",)}, UsageError, r"--task tea: not in the analysis"),
        ({"n_prompts": 2}, UsageError, r"--n-prompts\) is 2; expected 4 or more"),
        ({"stat_img": "map.nii.gz"}, UsageError, r"--map with 0 tasks"),
    ],
)
def test_what_cannot_be_monitored_is_refused(scanned, analysed, model, changes, error, message):
    with pytest.raises(error, match=message):
        monitor(scanned.path, analysed, model=model, **(QUICK | changes))


def test_the_command_says_that_it_is_no_safety_gate(scanned, analysed, model, capsys):
    flags = ["--task", "archeology", "--n-prompts", "4", "--n-defining", "4", "--n-tokens", "2"]
    flags += ["--top", "5", "--model", model, "--device", "cpu", "-q"]
    assert main(["monitor", str(scanned.path), str(analysed), *flags]) == 0
    assert "No safety gate" in capsys.readouterr().out
