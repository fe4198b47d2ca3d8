from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel

import llm2bids
from llm2bids.dataset.transcript import write_transcript
from llm2bids.exceptions import DatasetError, InferenceError
from llm2bids.inference.confounds import STRATEGIES, load_confounds
from llm2bids.inference.inputs import open_inputs
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.runs import run_design

TOKENS, PER_BLOCK = 3, 4  # as the dataset is recorded
N_VOLUMES = 3 * PER_BLOCK * TOKENS


@pytest.fixture(scope="module")
def dataset(recorded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("confounds") / "bids"
    return llm2bids.open_dataset(recorded.write_dataset(folder, n_participants=1))


def test_values_are_those_of_the_transcript(dataset):
    run = dataset.runs[0]
    table, sample_mask = load_confounds(
        run.preproc, ("length", "surprisal", "entropy", "first_token"), demean=False
    )
    volumes = dataset.transcript(run).dropna(subset="volume").sort_values("volume")
    assert sample_mask is None
    assert list(table) == ["prompt_tokens", "surprisal", "entropy", "first_token"]
    for name in ("prompt_tokens", "surprisal", "entropy"):
        np.testing.assert_allclose(table[name], volumes[name].astype(float))
    assert np.flatnonzero(table["first_token"]).tolist() == [*range(0, N_VOLUMES, TOKENS)]


def test_global_signal_is_the_mean_of_the_mask(dataset):
    run = dataset.runs[0]
    table, _ = load_confounds(run.bold, ["global_signal"], demean=False)
    image = dataset.load_run(run)
    expected = np.asarray(image.dataobj)[dataset.space.grey].mean(axis=0)
    assert np.corrcoef(table["global_signal"], expected)[0, 1] > 0.999


def test_raw_and_derived_image_give_the_same(dataset):
    run = dataset.runs[0]
    raw, derived = (load_confounds(path, list(STRATEGIES))[0] for path in (run.bold, run.preproc))
    pd.testing.assert_frame_equal(raw, derived)
    np.testing.assert_allclose(raw.mean(), 0, atol=1e-8)


def test_lists_give_lists(dataset):
    tables, masks = load_confounds([run.preproc for run in dataset.runs], ["surprisal"])
    assert len(tables) == len(masks) == len(dataset.runs)
    assert masks == [None] * len(dataset.runs)
    assert not tables[0].equals(tables[1])


def test_prompts_have_a_row_each_and_no_position(dataset):
    table, sample_mask = load_confounds(
        dataset.runs[0].preproc, ["position", "length", "surprisal"], unit_of_analysis="prompt"
    )
    assert sample_mask is None
    assert list(table) == ["prompt_tokens", "surprisal"]
    assert len(table) == 3 * PER_BLOCK


@pytest.mark.filterwarnings("ignore:.*a mask was given at masker creation:RuntimeWarning")
def test_nilearn_fits_them(dataset):
    run = dataset.runs[0]
    confounds, sample_mask = load_confounds(run.preproc, ["position", "length", "surprisal"])
    model = FirstLevelModel(
        t_r=dataset.t_r(run), mask_img=str(run.mask), hrf_model=None, drift_model=None,
        noise_model="ols", signal_scaling=False,
    )  # fmt: skip
    model.fit(
        str(run.preproc),
        events=dataset.events(run),
        confounds=confounds,
        sample_masks=sample_mask,
    )
    assert set(confounds) <= set(model.design_matrices_[0])


@pytest.mark.parametrize("unit", ["token", "prompt"])
def test_analyze_takes_strategies(dataset, unit):
    inputs = open_inputs(dataset.path)
    (chosen, *_), *_ = inputs.choose().values()
    options = AnalysisOptions(
        unit_of_analysis=unit, confounds=("length", "surprisal", "global_signal")
    )
    design = run_design(inputs.load(chosen), options)
    assert {"prompt_tokens", "surprisal", "global_signal"} <= set(design)
    assert len(design) == (N_VOLUMES if unit == "token" else 3 * PER_BLOCK)


def test_prefill_volumes_are_masked_out(dataset, tmp_path):
    """A copy of a run in which the first volume of each prompt is the prompt's own pass."""
    run = dataset.runs[0]
    copy = tmp_path / run.preproc.name
    copy.write_bytes(run.preproc.read_bytes())
    rows = dataset.transcript(run).dropna(subset="volume")
    rows["position"] -= 1
    write_transcript(tmp_path / run.transcript.name, rows)
    table, sample_mask = load_confounds(copy, ["surprisal", "prefill"])
    assert sample_mask.tolist() == [i for i in range(N_VOLUMES) if i % TOKENS]
    assert len(table) == N_VOLUMES
    assert table["surprisal"].iloc[sample_mask].mean() == pytest.approx(0, abs=1e-9)


def test_unknown_strategy_names_the_known_ones(dataset):
    with pytest.raises(InferenceError, match="global_signal"):
        load_confounds(dataset.runs[0].preproc, ["motion"])
    with pytest.raises(InferenceError, match="sequence"):
        load_confounds(dataset.runs[0].preproc, "length")
    with pytest.raises(InferenceError, match="strategy is None; expected a sequence"):
        load_confounds(dataset.runs[0].preproc, None)
    with pytest.raises(InferenceError, match="img_files is None; expected a path"):
        load_confounds(None)


def test_an_image_without_transcript_is_refused(dataset, tmp_path):
    lone = tmp_path / "sub-01" / "func" / dataset.runs[0].bold.name
    with pytest.raises(InferenceError, match="desc-transcript_tokens"):
        load_confounds(lone, ["length"])


@pytest.mark.parametrize("column", ["surprisal", "prompt_tokens", "position"])
def test_a_transcript_without_a_number_is_refused_by_name(dataset, tmp_path, column):
    run = dataset.runs[0]
    copy = tmp_path / run.preproc.name
    copy.write_bytes(run.preproc.read_bytes())
    rows = dataset.transcript(run).astype({column: "object"})
    rows.loc[rows["volume"].first_valid_index(), column] = pd.NA
    write_transcript(tmp_path / run.transcript.name, rows)
    with pytest.raises(DatasetError, match=f"{run.transcript.name}: column {column} holds"):
        load_confounds(copy, ["surprisal", "length", "position"])


@pytest.mark.parametrize("unit", ["token", "prompt"])
@pytest.mark.parametrize("times", [0.5, 2])
def test_a_table_of_another_length_is_refused(dataset, unit, times):
    inputs = open_inputs(dataset.path)
    (chosen, *_), *_ = inputs.choose().values()
    run = inputs.load(chosen)
    rows = np.arange(int(times * N_VOLUMES)) % N_VOLUMES
    other = replace(run, confounds=run.confounds.iloc[rows])
    options = AnalysisOptions(unit_of_analysis=unit, confounds=("surprisal_deviation",))
    with pytest.raises(InferenceError, match=f"{rows.size} rows, the image has {N_VOLUMES} vol"):
        run_design(other, options)
