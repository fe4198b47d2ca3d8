"""Runs that `--bids-filter-file` leaves out are in no map, at no level."""

import json

import numpy as np
import pytest

from llm2bids.cli import main as cli
from llm2bids.dataset.read import open_dataset
from llm2bids.inference.effects import read_effects
from llm2bids.inference.inputs import open_inputs


@pytest.fixture(scope="module")
def two_runs(recorded, tmp_path_factory):
    """Four participants, three tasks of two runs each; not to be changed."""
    return recorded.write_dataset(tmp_path_factory.mktemp("filter") / "bids", n_runs=2)


def analyze(bids_dir, out_dir, level, filters=None, *more):
    argv = ["analyze", str(bids_dir), str(out_dir), level, "-q", *more]
    if filters is not None:
        path = out_dir.parent / "filter.json"
        path.write_text(json.dumps({"bold": filters}))
        argv += ["--bids-filter-file", str(path)]
    return cli.main(argv)


def first_runs_only(dataset, recorded, label, task):
    """Mean of on minus off prompts of the first run, in calibration sd, shape (n_units,)."""
    (run,) = [r for r in dataset.select(task=task, participant_label=[label]) if r.run == 1]
    values = (dataset.values(run) - dataset.calibration.mean) / dataset.calibration.scale
    means = values.reshape(12, recorded.tokens_per_prompt, -1).mean(axis=1)
    on = np.arange(12) // 4 == 1
    return means[on].mean(axis=0) - means[~on].mean(axis=0)


def test_both_levels_take_the_chosen_runs(two_runs, recorded, tmp_path, capsys):
    out = tmp_path / "out"
    assert analyze(two_runs, out, "participant", {"run": 1}) == 0
    assert analyze(two_runs, out, "group") == 0
    dataset = open_dataset(two_runs)
    effects = read_effects(open_inputs(two_runs), out)
    expected = [
        [
            first_runs_only(dataset, recorded, label, condition.task)
            for condition in effects.conditions
        ]
        for label in effects.participants
    ]
    assert effects.values.shape == (4, 3, 98)
    np.testing.assert_allclose(effects.values, expected, atol=1e-4)
    sidecars = [json.loads(path.read_text()) for path in out.rglob("*_statmap.json")]
    assert sidecars
    assert all(name.endswith("run-1") for sidecar in sidecars for name in sidecar["Runs"])
    assert "split-half r, prompts" in capsys.readouterr().out  # from the same runs, or refused


def test_participants_that_are_not_asked_for_are_not_missing(two_runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert analyze(two_runs, out, "participant", {"subject": ["02", "04"], "task": "tea"}) == 0
    assert sorted(path.name for path in out.glob("sub-*")) == ["sub-02", "sub-04"]
    assert (
        analyze(two_runs, out, "participant", {"subject": "02"}, "--participant-label", "03") == 2
    )
    assert "has no sub-03; expected some of 02" in capsys.readouterr().err


def test_a_filter_without_a_run_stops_with_its_name(two_runs, tmp_path, capsys):
    assert analyze(two_runs, tmp_path / "out", "participant", {"task": "coffee"}) == 2
    assert 'task: "coffee" matches no run' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
