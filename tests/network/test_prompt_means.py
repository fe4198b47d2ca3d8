"""Prompt means read from a dataset are the means of the volumes in the model's scale."""

import numpy as np
import pytest

from llm2bids import open_dataset
from llm2bids.exceptions import NetworkError, SpaceError, UsageError
from llm2bids.inference.inputs import open_inputs
from llm2bids.network.effects import task_effects
from llm2bids.network.prompt_means import read_prompt_means, read_samples
from llm2bids.network.token_values import read_token_values


@pytest.fixture(scope="module")
def drinks(recorded, tmp_path_factory):
    """Three participants, three tasks of two runs, 12 prompts of 3 tokens in each."""
    path = tmp_path_factory.mktemp("means") / "bids"
    return recorded.write_dataset(path, n_participants=3, n_runs=2)


@pytest.fixture(scope="module")
def inputs(drinks):
    return open_inputs(drinks)


def expected(drinks, n_tokens):
    """Means of each prompt, from the values in the model's own scale."""
    dataset = open_dataset(drinks)
    means = {}
    for run in dataset.runs:
        z = (dataset.values(run) - dataset.calibration.mean) / dataset.calibration.scale
        ids = dataset.transcript(run).dropna(subset="volume")["prompt_id"].to_numpy()
        for name in dict.fromkeys(ids):
            means[name] = z[ids == name][:n_tokens].mean(axis=0)
    return means


def test_means_are_those_of_the_values(drinks, inputs):
    means = read_prompt_means(inputs)
    assert means.values.shape == (3 * 3 * 2 * 12, 98)
    assert means.values.dtype == np.float32
    truth = expected(drinks, 3)
    np.testing.assert_allclose(means.values, [truth[name] for name in means.prompt_ids], atol=2e-3)
    assert sorted(set(means.runs.tolist()))[0] == "task-cocoa_run-1"
    assert set(means.trial_types.tolist()) == {"", "tea", "cocoa", "milk"}


def test_first_tokens_have_their_own_effects(drinks, inputs):
    samples = read_samples(inputs)
    assert samples.n_tokens == 3
    assert list(samples.first_tokens) == [1, 2]
    for n_tokens, found in samples.first_tokens.items():
        truth = expected(drinks, n_tokens)
        early = type(samples.means)(
            values=np.array([truth[name] for name in samples.means.prompt_ids], dtype=np.float32),
            participants=samples.means.participants,
            runs=samples.means.runs,
            trial_types=samples.means.trial_types,
            prompt_ids=samples.means.prompt_ids,
        )
        wanted = task_effects(early)
        assert (found.tasks, found.participants) == (wanted.tasks, wanted.participants)
        np.testing.assert_allclose(found.effects, wanted.effects, atol=2e-3)
        assert found.on == wanted.on
        assert found.off == wanted.off


def test_subsets_of_participants_tasks_and_units(inputs):
    every = read_prompt_means(inputs)
    units = np.array([97, 0, 30])
    some = read_prompt_means(
        inputs, participant_label=["sub-02"], task=["tea", "milk"], units=units
    )
    assert some.values.shape == (2 * 2 * 12, 3)
    assert list(dict.fromkeys(name for name in some.trial_types.tolist() if name)) == [
        *("tea", "milk")
    ]
    row = every.prompt_ids.tolist().index(some.prompt_ids[7])
    np.testing.assert_array_equal(some.values[7], every.values[row, units])
    mask = np.zeros(98, dtype=bool)
    mask[[0, 30, 97]] = True
    again = read_prompt_means(inputs, participant_label=["02"], task=["tea", "milk"], units=mask)
    np.testing.assert_array_equal(again.values, some.values[:, [1, 2, 0]])


def test_a_scratch_file_gives_the_same(inputs, tmp_path):
    in_memory = read_prompt_means(inputs, mem_gb=1)
    on_disk = read_prompt_means(inputs, mem_gb=1e-6, work_dir=tmp_path / "work")
    assert isinstance(on_disk.values, np.memmap)
    assert not isinstance(in_memory.values, np.memmap)
    np.testing.assert_array_equal(on_disk.values, in_memory.values)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("units", [[98], [-1], [], [0.5], [[1]], [True, False]])
def test_units_that_do_not_exist(inputs, units):
    with pytest.raises(NetworkError, match=r"numbers from 0 to 97, or a mask of 98"):
        read_prompt_means(inputs, units=units)


@pytest.mark.parametrize("n_tokens", [0, 4])
def test_more_tokens_than_there_are(inputs, n_tokens):
    with pytest.raises(NetworkError, match="expected numbers from 1 to 3"):
        read_samples(inputs, n_tokens=[n_tokens])


def test_a_participant_or_a_task_that_is_not_there(inputs):
    with pytest.raises(UsageError, match="has no sub-07"):
        read_prompt_means(inputs, participant_label=["07"])
    with pytest.raises(UsageError, match="has no task-beer"):
        read_prompt_means(inputs, task=["beer"])


def test_a_participant_without_a_task_is_named(recorded, tmp_path):
    path = recorded.write_dataset(tmp_path / "d", n_participants=2, without={(2, "milk")})
    with pytest.raises(NetworkError, match="no run of sub-02 task-milk"):
        read_prompt_means(open_inputs(path))


def test_a_truncated_run_is_named(recorded, tmp_path):
    path = recorded.write_dataset(tmp_path / "d", n_participants=1)
    for image in path.rglob("sub-01_task-tea*_bold.nii.gz"):
        whole = image.read_bytes()
        image.unlink()
        image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpaceError, match=r"sub-01_task-tea.*truncated or damaged"):
        read_prompt_means(open_inputs(path))


def test_volumes_of_some_units_have_the_means_of_their_prompts(inputs):
    units = np.array([3, 40, 97])
    volumes = read_token_values(inputs, units)
    means = read_prompt_means(inputs)
    assert volumes.values.shape == (3 * 3 * 2 * 12, 3, 3)
    for name in ("participants", "runs", "trial_types", "prompt_ids"):
        assert np.array_equal(getattr(volumes, name), getattr(means, name))
    np.testing.assert_allclose(volumes.first_tokens(3).values, means.values[:, units], atol=1e-5)
    one = read_samples(inputs, n_tokens=[1]).first_tokens[1]
    np.testing.assert_allclose(
        task_effects(volumes.first_tokens(1)).effects, one.effects[..., units], atol=1e-5
    )


def test_volumes_that_are_not_there_are_refused(inputs):
    with pytest.raises(NetworkError, match="expected one or more from 0 to 97"):
        read_token_values(inputs, np.array([98]))
    with pytest.raises(NetworkError, match="found 4, expected 1 to 3"):
        read_token_values(inputs, np.array([0]), task=["tea"]).first_tokens(4)
