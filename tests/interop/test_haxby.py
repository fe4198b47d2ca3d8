"""Real functional images of a person: one slice of Haxby et al. (2001), which PyMVPA ships (MIT).

Twelve runs of a person who sees eight categories, 121 volumes of 2.5 s each. The runs stand in for
participants: what our findings say of them is what numpy and scipy say.
"""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel
from nilearn.masking import apply_mask
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from llm2bids.comparison.geometry import ceilings, find_pairs
from llm2bids.comparison.items import Side, rdms_of
from llm2bids.comparison.rsa import compare_sides
from llm2bids.exceptions import UsageError
from llm2bids.inference.effects import Condition, Effects
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.provenance import Provenance
from llm2bids.network.identification import identify_left_out
from llm2bids.network.options import FindingsOptions
from llm2bids.recording.human import human_runs
from tests.brought import source

pytestmark = [
    pytest.mark.slow,
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:.*Generation of a mask:RuntimeWarning"),
]

N_RUNS, N_VOLUMES, T_R = 12, 121, 2.5
CATEGORIES = ("bottle", "cat", "chair", "face", "house", "scissors", "scrambledpix", "shoe")


@pytest.fixture(scope="module")
def data():
    return source("pymvpa2==2.6.5") / "mvpa2" / "data"


@pytest.fixture(scope="module")
def runs(data):
    """Image and events of each run."""
    image = nib.load(data / "bold.nii.gz")
    labels = pd.read_csv(data / "attributes_literal.txt", sep=r"\s+", names=["label", "run"])
    assert image.shape == (40, 20, 1, N_RUNS * N_VOLUMES) and len(labels) == image.shape[3]
    made = []
    for run in range(N_RUNS):
        part = slice(run * N_VOLUMES, (run + 1) * N_VOLUMES)
        label = labels["label"].iloc[part].reset_index(drop=True)
        block = (label != label.shift()).cumsum()
        events = pd.DataFrame({"volume": label.index, "trial_type": label}).groupby(block)
        table = events.agg({"volume": ["min", "size"], "trial_type": "first"})
        table.columns = ["onset", "duration", "trial_type"]
        table = table[table["trial_type"] != "rest"].assign(
            onset=lambda t: t["onset"] * T_R, duration=lambda t: t["duration"] * T_R
        )
        made.append((image.slicer[..., part], table))
    return made


@pytest.fixture(scope="module")
def effects(data, runs):
    """First level of each run, by nilearn: t, (n_runs, n_categories, n_voxels)."""
    mask = nib.load(data / "mask.nii.gz")
    values = []
    for image, events in runs:
        model = FirstLevelModel(
            t_r=T_R, hrf_model="glover", mask_img=mask, noise_model="ols", minimize_memory=True
        ).fit(image, events)
        maps = [model.compute_contrast(name, output_type="stat") for name in CATEGORIES]
        values.append([apply_mask(m, mask) for m in maps])
    values = np.array(values, dtype=np.float32)
    return values[..., np.isfinite(values).all(axis=(0, 1)) & (values != 0).any(axis=(0, 1))]


def test_categories_are_identified_as_numpy_does(effects):
    labels = tuple(f"{run:02d}" for run in range(1, N_RUNS + 1))
    made = Effects(
        values=effects,
        participants=labels,
        conditions=tuple(Condition(task=c, label=c, expression=c) for c in CATEGORIES),
        made_from=np.array(
            [
                [Provenance.of(participants=[who], runs=[f"{who}{c}"]) for c in CATEGORIES]
                for who in labels
            ]
        ),
        mask=np.ones(effects.shape[2], dtype=bool),
        options=AnalysisOptions(),
    )
    result = identify_left_out(made, FindingsOptions())
    centred = effects - effects.mean(axis=1, keepdims=True)
    correct = []
    for run in range(N_RUNS):
        templates = np.delete(centred, run, axis=0).mean(axis=0)
        r = np.corrcoef(centred[run], templates)[:8, 8:]
        correct.append(r.argmax(axis=1) == np.arange(8))
    assert result.n_tests == 96 and result.n_correct == np.sum(correct)
    # single runs in one slice: far above guessing (0.125), far from all
    assert 0.4 < result.accuracy < 0.95 and result.p_value < 1e-10


def test_dissimilarities_come_again_in_the_other_runs(effects):
    odd, even = (effects[half::2].mean(axis=0) for half in (0, 1))
    made = [rdms_of([part], ["slice"], CATEGORIES, CATEGORIES) for part in (odd, even)]
    for rdms, part in zip(made, (odd, even), strict=True):
        np.testing.assert_allclose(rdms.dissimilarities[0], pdist(part, "correlation"), atol=1e-6)
    r = np.corrcoef(odd - odd.mean(axis=0), even - even.mean(axis=0))[:8, 8:]
    assert np.diag(r).mean() > 0.2 and abs(r[~np.eye(8, dtype=bool)].mean()) < 0.1
    assert (r.argmax(axis=1) == np.arange(8)).sum() == 6
    assert spearmanr(*(rdms.dissimilarities[0] for rdms in made)).statistic > 0.2


def side(name, patterns):
    return Side(
        name=name, layers=("slice",), has_depth=False,
        participants={
            f"{index:02d}": rdms_of([part], ["slice"], CATEGORIES, CATEGORIES)
            for index, part in enumerate(patterns)
        },
    )  # fmt: skip


def test_eight_categories_are_too_few_to_compare(effects):
    with pytest.raises(UsageError, match=r"8 conditions that .* 28 pairs; expected 12 or more"):
        compare_sides(side("odd", effects[::2]), side("even", effects[1::2]), n_permutations=9,
                      seed=0, kind="conditions")  # fmt: skip


def test_noise_ceilings_are_scipys(effects, monkeypatch):
    monkeypatch.setattr("llm2bids.comparison.geometry.MIN_ITEMS", 8)
    pairs = find_pairs(side("a", effects[:1]), side("b", effects), "conditions")
    ((low, high),) = ceilings(pairs, 1)
    distances = [pdist(part, "correlation") for part in effects]
    ranks = np.array([pd.Series(d).rank() for d in distances])
    above = [spearmanr(r, ranks.mean(axis=0)).statistic for r in ranks]
    below = [
        spearmanr(r, np.delete(ranks, i, axis=0).mean(axis=0)).statistic
        for i, r in enumerate(ranks)
    ]
    assert (low, high) == pytest.approx((np.mean(below), np.mean(above)), abs=1e-6)
    assert 0.02 < low < high < 0.9


def test_a_story_takes_the_clock_of_these_runs(runs, tmp_path):
    description = {"Name": "Haxby", "BIDSVersion": "1.11.1"}
    (tmp_path / "dataset_description.json").write_text(json.dumps(description))
    folder = tmp_path / "sub-01" / "func"
    folder.mkdir(parents=True)
    image, events = runs[0]
    image.to_filename(folder / "sub-01_task-objects_bold.nii.gz")
    sidecar = {"RepetitionTime": T_R, "TaskName": "objects"}
    (folder / "sub-01_task-objects_bold.json").write_text(json.dumps(sidecar))
    events.to_csv(folder / "sub-01_task-objects_events.tsv", sep="\t", index=False)
    (run,) = human_runs(tmp_path, "objects")
    assert (run.t_r, run.n_volumes, run.start_time) == (T_R, N_VOLUMES, T_R / 2)
    assert run.events is not None
