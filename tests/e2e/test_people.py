"""docs/examples/people_rdms.py, from simulated people to `llm2bids compare`."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import compute_regressor
from rsatoolbox.rdm import load_rdm
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

import llm2bids
from tests.e2e.test_examples import run_example

pytestmark = [pytest.mark.slow, pytest.mark.interop]

TEXT = "senate law scan chest fossil reptile river grave coin bronze cell bread dog park"
WORDS = tuple(TEXT.split())
T_R, N_VOLUMES, SHAPE = 2.0, 150, (7, 6, 5)


def make_person(root, label, patterns, rng):
    """A run of words, each twice, whose patterns (n_words, n_voxels) answer with a response."""
    order = np.concatenate([rng.permutation(len(WORDS)) for _ in range(2)])
    events = pd.DataFrame({"onset": 6.0 + 10 * np.arange(len(order)), "duration": 1.0})
    events["trial_type"], events["word"] = "word", [WORDS[index] for index in order]
    times = np.arange(N_VOLUMES) * T_R
    series = rng.normal(size=(N_VOLUMES, patterns.shape[1]))
    for word in range(len(WORDS)):
        rows = events[order == word]
        condition = np.vstack([rows["onset"], rows["duration"], np.ones(len(rows))])
        series += 25 * compute_regressor(condition, "glover", times)[0] * patterns[word]
    func, made = root / label / "func", root / "derivatives" / label / "func"
    for folder in (func, made):
        folder.mkdir(parents=True)
    image = nib.Nifti1Image((1000 + series).T.reshape(*SHAPE, -1).astype(np.float32), np.eye(4))
    image.header.set_zooms((1, 1, 1, T_R))
    name = f"{label}_task-words"
    events.to_csv(func / f"{name}_events.tsv", sep="\t", index=False)
    image.to_filename(func / f"{name}_bold.nii.gz")
    image.to_filename(made / f"{name}_space-MNI_desc-preproc_bold.nii.gz")
    sidecar = json.dumps({"RepetitionTime": T_R, "StartTime": 0.0, "TaskName": "words"})
    (made / f"{name}_space-MNI_desc-preproc_bold.json").write_text(sidecar)
    (func / f"{name}_bold.json").write_text(sidecar)
    mask = nib.Nifti1Image(np.ones(SHAPE, dtype=np.uint8), np.eye(4))
    mask.to_filename(made / f"{name}_space-MNI_desc-brain_mask.nii.gz")
    motion = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    confounds = pd.DataFrame(rng.normal(size=(N_VOLUMES, 6)), columns=motion)
    confounds.to_csv(made / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False)


def test_people_are_compared_with_a_model_word_by_word(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2BIDS_CACHE", str(tmp_path / "cache"))
    table = pd.DataFrame({"word": WORDS, "sentence": range(len(WORDS))})
    table["onset"], table["duration"] = table.index * 1.0, 0.5
    table.to_csv(tmp_path / "words.tsv", sep="\t", index=False)
    dataset = llm2bids.read(
        tmp_path / "model", stimuli=tmp_path / "words.tsv", per_word=True, context="sentence",
        model=tiny_model_dir("llama"), device="cpu", progress=False,
    )  # fmt: skip
    run = dataset.runs[0]
    scale = dataset.calibration.scale
    deviation = (dataset.values(run) - dataset.calibration.mean) / scale
    layer = deviation[:, dataset.space.site_slices["model.layers.1"]]
    # people whose voxels mix the units of layer 1
    rng = np.random.default_rng(0)
    layer = (layer - layer.mean(axis=1, keepdims=True)) / layer.std()
    patterns = layer @ np.linalg.qr(rng.normal(size=(np.prod(SHAPE), layer.shape[1])))[0].T
    human = tmp_path / "human"
    human.mkdir()
    description = {"Name": "people", "BIDSVersion": "1.11.1"}
    (human / "dataset_description.json").write_text(json.dumps(description))
    (human / "derivatives").mkdir()
    (human / "derivatives" / "dataset_description.json").write_text(
        json.dumps({**description, "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]})
    )
    for label in ("sub-01", "sub-02", "sub-03"):
        make_person(human, label, patterns, rng)
    file = tmp_path / "people.hdf5"
    arguments = (human, "words", "MNI", file, "--column", "word", "--derivatives", "derivatives")
    printed = run_example("people_rdms.py", *arguments)
    assert "14 items, 3 people, 1 regions" in printed
    rdms = load_rdm(str(file))
    order = [WORDS.index(word) for word in rdms.pattern_descriptors["item"]]
    planted = pdist(patterns[order], "correlation")
    for measured in rdms.dissimilarities:
        assert spearmanr(measured, planted).statistic > 0.5
    result = llm2bids.compare(dataset.path, file, items="words", n_permutations=199)
    table = result.table.set_index("layer_a")
    assert result.participants == ("01", "02", "03") and set(table["layer_b"]) == {"brain"}
    assert table["p"]["1"] == 1 / 200 and table["r"]["1"] > 0.5
    assert table["ceiling_low"]["1"] > 0.5
