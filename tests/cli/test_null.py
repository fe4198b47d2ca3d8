"""``llm2bids null`` on tiny models and datasets: files, messages, exit codes."""

import json

import pandas as pd
import pytest

from llm2bids.cli import main as cli

SIZE = ["--prompts-per-block", "3", "--tokens-per-prompt", "2"]
FAST = ["-q", "--units", "60", "--groups", "2", "--group-size", "3", "--n-perm", "99"]


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return str(tiny_model_dir("llama"))


def record(path, model, participants, *more):
    argv = ["record", path, "--model", model, "--device", "cpu", "--participants", participants]
    assert cli.main([*map(str, argv), *SIZE, "-q", *more]) == 0
    return path


@pytest.fixture(scope="module")
def null_dataset(model, tmp_path_factory):
    """Four participants, three null runs each; not to be changed."""
    path = tmp_path_factory.mktemp("null") / "dataset"
    tasks = [word for task in ("null1", "null2", "null3") for word in ("--task", task)]
    return record(path, model, 4, "--paradigm", "null", *tasks)


def null(*argv):
    return cli.main(["null", *map(str, argv)])


def test_a_dataset_with_a_null_design_is_measured(null_dataset, tmp_path, capsys):
    assert null(null_dataset, tmp_path / "out", *FAST) == 0
    said = capsys.readouterr()
    assert "prompts, t test *" in said.out
    assert "4 files written to" in said.out
    assert said.err == ""
    about = json.loads((tmp_path / "out/calibration.json").read_text())["about"]
    # no prompt comes twice, so that every run is a replicate
    assert (about["n_runs"], about["n_participants"], about["n_groups"]) == (12, 12, 2)
    assert (about["prompts_on"], about["prompts_off"], about["tokens_per_prompt"]) == (3, 6, 2)


def test_confounds_go_into_every_first_level_model(null_dataset, model, tmp_path, capsys):
    plain, with_them = tmp_path / "plain", tmp_path / "with"
    few = [*FAST, "--groups", "0"]
    assert null(null_dataset, plain, *few) == 0
    assert null(null_dataset, with_them, *few, "--confounds", "surprisal", "global_signal") == 0
    told = [json.loads((one / "calibration.json").read_text()) for one in (plain, with_them)]
    assert [one["about"]["confounds"] for one in told] == [[], ["surprisal", "global_signal"]]
    shares = [
        pd.read_csv(one / "calibration_shares.tsv", sep="\t").set_index(["pipeline", "index"])
        for one in (plain, with_them)
    ]
    for pipeline in ("token_ols", "prompt_ols"):
        assert not shares[0].loc[pipeline].equals(shares[1].loc[pipeline])


@pytest.mark.slow
def test_a_model_gives_the_rates_of_its_dataset(model, tmp_path, capsys):
    argv = [model, tmp_path / "out", "--runs", "12", "--device", "cpu", "--sites", "all", *SIZE]
    assert null(*argv, *FAST) == 0
    about = json.loads((tmp_path / "out/calibration.json").read_text())["about"]
    assert (about["n_runs"], about["n_participants"]) == (12, 12)
    capsys.readouterr()
    whole = record(tmp_path / "whole", model, 2, "--paradigm", "null")
    assert null(whole, tmp_path / "again", *FAST) == 0
    assert null(tmp_path / "out/dataset", tmp_path / "again2", *FAST) == 0
    tables = [tmp_path / name / "calibration.tsv" for name in ("out", "again", "again2")]
    assert len({path.read_bytes() for path in tables}) == 1


def test_a_dataset_that_is_no_null_design_is_refused(model, tmp_path, capsys):
    tasks = [word for task in ("pathology", "archeology") for word in ("--task", task)]
    path = record(tmp_path / "dataset", model, 5, *tasks)
    assert null(path, tmp_path / "out", *FAST) == 2
    said = capsys.readouterr().err
    for words in ("no null design", "sub-01_task-archeology", "of archeology on", "of offtopic off",
                  "--paradigm null"):  # fmt: skip
        assert words in said
    assert not (tmp_path / "out").exists()


def test_too_few_runs_are_refused(model, tmp_path, capsys):
    path = record(tmp_path / "dataset", model, 2, "--paradigm", "null", "--task", "null1")
    assert null(path, tmp_path / "out", *FAST) == 1
    assert "found 2 null runs, expected at least 10" in capsys.readouterr().err
    assert null(model, tmp_path / "out", "--runs", "4", *FAST) == 2
    assert "--runs: found 4 null runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--group-size", "13"], "there are 12 participants"),
        (["--runs", "60"], "--runs: "),
        (["--sites", "mlp", "--device", "cpu"], "--sites, --device: "),
        (["--units", "0"], "--units"),
        (["--seed", "-1"], "--seed -1"),
        (["--n-cpus", "0"], "n_cpus=0"),
        (["--groups", "-1"], "--groups -1"),
    ],
)
def test_wrong_options_are_refused(null_dataset, tmp_path, capsys, argv, message):
    assert null(null_dataset, tmp_path / "out", *FAST, *argv) == 2
    assert message in capsys.readouterr().err


def test_a_paradigm_that_is_no_null_design_is_refused(model, tmp_path, capsys):
    argv = ["--paradigm", "off_on_off", "--runs", "12", *FAST]
    assert null(model, tmp_path / "out", *argv) == 2
    assert "paradigm off_on_off: no null design: task" in capsys.readouterr().err


def test_a_file_in_place_of_the_folder_is_refused(null_dataset, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert null(null_dataset, tmp_path / "out", *FAST) == 2
    assert "found a file" in capsys.readouterr().err


def test_more_runs_than_the_bank_has_prompts_for_are_refused_before_the_model_loads(
    tmp_path, capsys
):
    assert null("no/such/model", tmp_path / "out", "--runs", "500", "-q") == 1
    assert "offtopic" in capsys.readouterr().err
