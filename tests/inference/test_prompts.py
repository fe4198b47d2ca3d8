"""Prompts' images of a dataset, and the effects of a part of them."""

import numpy as np
import pytest
from nilearn.glm.first_level import run_glm

from llm2bids import open_dataset
from llm2bids.exceptions import InferenceError, SpaceError, UsageError
from llm2bids.inference.effects import fit_effects
from llm2bids.inference.inputs import open_inputs
from llm2bids.inference.options import AnalysisOptions
from llm2bids.inference.prompts import effects_of, read_prompts, why_no_parts


@pytest.fixture(scope="module")
def twice(recorded, tmp_path_factory):
    """Three participants, three tasks of two runs, 12 prompts of 3 tokens in each."""
    path = tmp_path_factory.mktemp("means") / "bids"
    return recorded.write_dataset(path, n_participants=3, n_runs=2)


@pytest.fixture(scope="module")
def inputs(twice):
    return open_inputs(twice)


def expected(twice, n_tokens):
    """Means of each prompt, from the values in the model's own scale."""
    dataset = open_dataset(twice)
    means = {}
    for run in dataset.runs:
        z = (dataset.values(run) - dataset.calibration.mean) / dataset.calibration.scale
        ids = dataset.transcript(run).dropna(subset="volume")["prompt_id"].to_numpy()
        for name in dict.fromkeys(ids):
            means[name] = z[ids == name][:n_tokens].mean(axis=0)
    return means


def test_images_are_the_means_of_the_values(twice, inputs):
    prompts = read_prompts(inputs).prompts
    assert prompts.values.shape == (3 * 3 * 2 * 12, 98)
    assert prompts.values.dtype == np.float32
    truth = expected(twice, 3)
    wanted = [truth[name] for name in prompts.prompt_ids]
    np.testing.assert_allclose(prompts.values, wanted, atol=2e-3)
    assert prompts.run_names[0] == "sub-01_task-cocoa_run-1"
    assert set(prompts.trial_types.tolist()) == {"", "tea", "cocoa", "milk"}


def test_first_tokens_have_their_own_effects(twice, inputs):
    samples = read_prompts(inputs, first_tokens=True)
    assert list(samples.first_tokens) == [1, 2]
    assert samples.omitted == {}
    prompts = samples.prompts
    for n_tokens, found in samples.first_tokens.items():
        truth = expected(twice, n_tokens)
        runs = prompts.shown.groupby(["participant", "task", "run"])
        for row, who in enumerate(found.participants):
            for column, condition in enumerate(found.conditions):
                differences = []
                for key, run in runs:
                    if key[:2] != (who, condition.task):
                        continue
                    values = np.array([truth[name] for name in run["prompt_id"]])
                    on = (run["trial_type"] == condition.label).to_numpy()
                    differences.append(values[on].mean(axis=0) - values[~on].mean(axis=0))
                np.testing.assert_allclose(
                    found.values[row, column], np.mean(differences, axis=0), atol=2e-3
                )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"confounds": ("prompt_tokens", "surprisal")},
        {"smoothing_fwhm": 4.0},
        {"contrasts": {"twice": "2 * tea"}},
    ],
)
def test_all_prompts_give_the_effects_of_the_full_fit(inputs, options):
    """The same numbers as nilearn's model, whose maps the participant level writes."""
    options = AnalysisOptions(**options)
    half = inputs.within(np.arange(98) < 50)
    full = fit_effects(half, options, task=["tea"])
    prompts = read_prompts(half, options, full.conditions, task=["tea"]).prompts
    parts = effects_of(prompts)
    assert parts.values.shape == (3, 1, 50)
    np.testing.assert_allclose(parts.values, full.values, atol=1e-5)
    assert parts.conditions == full.conditions
    assert parts.provenance == full.provenance


def test_a_part_of_the_prompts_is_nilearns_fit_of_these(inputs):
    options = AnalysisOptions(confounds=("prompt_tokens",))
    prompts = read_prompts(inputs, options, task=["tea"], participant_label=["01"]).prompts
    rows = np.arange(24) % 3 != 1
    part = effects_of(prompts, rows).values[0, 0]
    effects = []
    for index, design in enumerate(prompts.designs.values()):
        mine = rows[12 * index : 12 * (index + 1)]
        values = prompts.values[12 * index : 12 * (index + 1)][mine].astype(np.float64)
        _, results = run_glm(values, design[mine].to_numpy(), noise_model="ols")
        (result,) = results.values()
        effects.append(result.Tcontrast(np.array([1.0, 0, 0])).effect)
    np.testing.assert_allclose(part, np.mean(effects, axis=0).ravel(), atol=1e-5)


def test_models_without_parts_say_why(inputs):
    for options in ({"unit_of_analysis": "token", "noise_model": "ols"}, {"noise_model": "ar1"}):
        assert why_no_parts(AnalysisOptions(**options))
        with pytest.raises(InferenceError, match="analyse one image per prompt with 'ols'"):
            read_prompts(inputs, AnalysisOptions(**options))


def test_subsets_of_participants_tasks_and_units(inputs):
    every = read_prompts(inputs).prompts
    mask = np.zeros(98, dtype=bool)
    mask[[0, 30, 97]] = True
    some = read_prompts(
        inputs.within(mask), participant_label=["sub-02"], task=["tea", "milk"]
    ).prompts
    assert some.values.shape == (2 * 2 * 12, 3)
    assert [condition.label for condition in some.conditions] == ["milk", "tea"]
    row = every.prompt_ids.tolist().index(some.prompt_ids[7])
    np.testing.assert_array_equal(some.values[7], every.values[row, mask])


def test_a_scratch_file_gives_the_same(inputs, tmp_path):
    in_memory = read_prompts(inputs, mem_gb=1).prompts
    on_disk = read_prompts(inputs, mem_gb=1e-6, work_dir=tmp_path / "work").prompts
    assert in_memory.values.flags.owndata and not on_disk.values.flags.owndata
    np.testing.assert_array_equal(on_disk.values, in_memory.values)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_participant_or_a_task_that_is_not_there(inputs):
    with pytest.raises(UsageError, match="has no sub-07"):
        read_prompts(inputs, participant_label=["07"])
    with pytest.raises(UsageError, match="has no task-beer"):
        read_prompts(inputs, task=["beer"])


def test_a_participant_without_a_task_is_named(recorded, tmp_path):
    path = recorded.write_dataset(tmp_path / "d", n_participants=2, without={(2, "milk")})
    with pytest.raises(InferenceError, match="no run of sub-02 task-milk"):
        read_prompts(open_inputs(path))


def test_a_truncated_run_is_named(recorded, tmp_path):
    path = recorded.write_dataset(tmp_path / "d", n_participants=1)
    for image in path.rglob("sub-01_task-tea*_bold.nii.gz"):
        whole = image.read_bytes()
        image.unlink()
        image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpaceError, match=r"sub-01_task-tea.*truncated or damaged"):
        read_prompts(open_inputs(path))
