"""``llm2bids analyze`` on a recorded dataset: results, findings, and each message."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from llm2bids.cli import main as cli

TASKS = ("pathology", "archeology")
OPTIONS = ["--device", "cpu", "-q", "--prompts-per-block", "3", "--tokens-per-prompt", "3"]
OPTIONS += [word for task in TASKS for word in ("--task", task)]


def record(path, model, n_participants, *more):
    argv = ["record", str(path), "--model", str(model), "--participants", str(n_participants)]
    assert cli.main([*argv, *OPTIONS, *more]) == 0
    return path


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return tiny_model_dir("llama")


@pytest.fixture(scope="module")
def scanned(model, tmp_path_factory):
    """Three participants, two tasks; not to be changed."""
    return record(tmp_path_factory.mktemp("analyze") / "dataset", model, 3)


@pytest.fixture(scope="module")
def analysed(scanned, tmp_path_factory):
    """Both levels and the findings; not to be changed."""
    out = tmp_path_factory.mktemp("analyze") / "out"
    assert cli.main(["analyze", str(scanned), str(out), "participant", "-q"]) == 0
    assert cli.main(["analyze", str(scanned), str(out), "group", "-q"]) == 0
    return out


@pytest.fixture
def copy(scanned, tmp_path):
    return shutil.copytree(scanned, tmp_path / "copy")


def analyze(*argv):
    return cli.main(["analyze", *map(str, argv), "-q"])


def test_participant_level_writes_maps_and_designs(analysed):
    found = sorted(path.name for path in (analysed / "sub-02/func").glob("*contrast-pathology*"))
    assert {name.partition("_stat-")[2].partition("_")[0] for name in found} == {
        *("effect", "variance", "t", "z")
    }
    assert (analysed / "sub-02/func/sub-02_task-pathology_design.tsv").exists()


def test_group_level_writes_findings(analysed):
    folder = analysed / "group/findings"
    content = json.loads((folder / "findings.json").read_text())
    assert content["participants"] == ["01", "02", "03"]
    assert sorted(content["tasks"]) == sorted(TASKS)
    assert content["n_prompts"] == {"on": 3, "off": 6}
    assert len(content["provenance"]["prompts"]) == 3 * 2 * 9
    tables = {path.stem: pd.read_csv(path, sep="\t") for path in folder.glob("*.tsv")}
    assert len(tables["identification"]) == 3 * 2
    assert len(tables["overlap"]) == 1
    assert tables["repeatability"]["task"].tolist() == content["tasks"]
    assert tables["identification_curve"][["n_tokens", "n_prompts"]].to_numpy().tolist() == [
        *([3, 1], [3, 2], [3, 3], [1, 3], [2, 3])
    ]


def test_group_effect_equals_the_networks_effect(analysed, scanned):
    """The findings take prompts, the maps nilearn's two levels: one and the same effect."""
    from llm2bids import open_dataset
    from llm2bids.network.network import load_network

    space = open_dataset(scanned).space
    for stat in ("effect", "t", "cohensd"):
        image = next((analysed / "group").glob(f"*contrast-pathology_stat-{stat}_*.nii.gz"))
        network = load_network(analysed / "group/findings/networks/pathology_network.tsv")
        mapped = space.to_units(image)[network.units(space)]
        np.testing.assert_allclose(network.table[stat], mapped, rtol=2e-3, atol=2e-3)


def test_findings_are_printed(analysed, scanned, capsys):
    assert analyze(scanned, analysed, "group") == 0
    out = capsys.readouterr().out
    assert "first pair, r" in out
    assert "of 6 maps of left-out participants" in out
    assert "note: 3 participants" in out


def test_controls_stand_beside_the_data(analysed, scanned, model, tmp_path, capsys):
    drawn = record(tmp_path / "drawn", model, 3, "--random-weights", "4")
    name = f"{model.name} with random weights (seed 4)"
    people = pd.read_csv(drawn / "participants.tsv", sep="\t")
    assert set(people["model"]) == {name}
    about = json.loads((drawn / "dataset_description.json").read_text())
    assert name in json.dumps(about)
    sidecar = json.loads(next(drawn.glob("sub-01/func/*pathology*_bold.json")).read_text())
    trained = json.loads(next(scanned.glob("sub-01/func/*pathology*_bold.json")).read_text())
    assert (sidecar["ModelName"], sidecar["RandomWeights"]) == (name, 4)
    assert sidecar["WeightsSHA256"] != trained["WeightsSHA256"]
    assert sidecar["SpaceFingerprint"] != trained["SpaceFingerprint"]
    assert "RandomWeights" not in trained

    out = shutil.copytree(analysed, tmp_path / "out")
    argv = ["--control", "shuffled-labels", "--control", "random-networks"]
    argv += ["--control-dataset", drawn, "--n-control-draws", "4"]
    capsys.readouterr()
    assert analyze(scanned, out, "group", *argv) == 0
    assert f"control  {name}: identification, accuracy" in capsys.readouterr().out
    table = pd.read_csv(out / "group/findings/controls.tsv", sep="\t")
    assert list(dict.fromkeys(table["control"])) == [
        *("100 random units", "shuffled labels", "shuffled-labels", "random-networks", name)
    ]
    assert table.groupby("control")["n_draws"].first()[["shuffled-labels", name]].tolist() == [4, 1]
    real = table[table["measure"] == "identification"].set_index("control")["real"]
    content = json.loads((out / "group/findings/findings.json").read_text())
    assert real["shuffled-labels"] == pytest.approx(content["identification"]["accuracy"])
    assert content["controls"]["about"][name] == "dataset drawn"
    assert len(content["controls"]["rows"]) == len(table) - 2


def test_a_control_that_is_no_dataset_is_refused(analysed, scanned, tmp_path, capsys):
    out = shutil.copytree(analysed, tmp_path / "out")
    assert analyze(scanned, out, "group", "--control-dataset", tmp_path / "none") == 1
    assert "failed: findings" in capsys.readouterr().err


def test_subsets_labels_with_and_without_prefix(scanned, tmp_path):
    argv = ["--participant-label", "sub-01", "03", "--task", "task-pathology"]
    assert analyze(scanned, tmp_path / "out", "participant", *argv) == 0
    subs = sorted(path.name for path in (tmp_path / "out").glob("sub-*"))
    assert subs == ["sub-01", "sub-03"]
    assert not list((tmp_path / "out").rglob("*archeology*"))


def test_too_few_for_findings_is_said_and_nothing_stale_stays(analysed, scanned, tmp_path, capsys):
    out = shutil.copytree(analysed, tmp_path / "out")
    assert analyze(scanned, out, "group", "--participant-label", "01", "02") == 0
    err = capsys.readouterr().err
    assert "no findings: they take 3 participants" in err
    assert "found 2 and 2" in err
    assert not (out / "group/findings").exists()


def test_no_findings(analysed, scanned, tmp_path):
    out = shutil.copytree(analysed, tmp_path / "out")
    assert analyze(scanned, out, "group", "--no-findings") == 0
    assert not (out / "group/findings").exists()


def test_one_task_has_no_findings(scanned, tmp_path, capsys):
    argv = ["--task", "pathology"]
    assert analyze(scanned, tmp_path / "out", "participant", *argv) == 0
    assert analyze(scanned, tmp_path / "out", "group", *argv) == 0
    assert "found 3 and 1" in capsys.readouterr().err


def test_a_contrast_between_tasks(analysed, scanned, tmp_path):
    out = shutil.copytree(analysed, tmp_path / "out")
    argv = ["--contrast", "pathology - archeology", "--no-findings"]
    assert analyze(scanned, out, "group", *argv) == 0
    image = next((out / "group").glob("space-*_stat-effect_statmap.json"))
    assert json.loads(image.read_text())["ContrastWeights"] == {
        "archeology:archeology": -1,
        "pathology:pathology": 1,
    }


def test_tokens_as_observations_say_their_inflation(scanned, tmp_path):
    argv = ["--unit-of-analysis", "token", "--noise-model", "ols", "--hrf-model", "glover"]
    argv += ["--participant-label", "01", "--task", "pathology"]
    assert analyze(scanned, tmp_path / "out", "participant", *argv) == 0
    about = json.loads(next((tmp_path / "out").rglob("*stat-t_statmap.json")).read_text())
    assert about["UnitOfAnalysis"] == "token"
    assert "inflat" in about["Caution"] or "exceed" in about["Caution"]


def test_permutation_pooled_and_scratch_file(analysed, scanned, tmp_path):
    out = shutil.copytree(analysed, tmp_path / "out")
    argv = ["--n-perm", "8", "--one-sided", "--pooled-n-perm", "20", "--height-control"]
    argv += ["bonferroni", "--alpha", "0.2", "-w", tmp_path / "work", "--mem-gb", "0.00001"]
    assert analyze(scanned, out, "group", *argv) == 0
    assert list((out / "group").glob("*desc-permutation_statmap.nii.gz"))
    assert list((out / "group").glob("*desc-pooled_statmap.nii.gz"))
    assert list((out / "group").glob("*desc-bonferroni_clusters.tsv"))
    assert (out / "group/findings/findings.json").exists()
    assert list((tmp_path / "work").iterdir()) == []


def damage(dataset, *, cut):
    """Cut a run's image off, or remove it."""
    for image in dataset.rglob("sub-02_task-pathology*_bold.nii.gz"):
        whole = image.read_bytes()
        image.unlink()
        if cut:
            image.write_bytes(whole[: len(whole) // 2])


def test_a_truncated_run_is_named_and_the_others_go_on(copy, tmp_path, capsys):
    damage(copy, cut=True)
    assert analyze(copy, tmp_path / "out", "participant") == 1
    err = capsys.readouterr().err
    assert "sub-02 task-pathology" in err
    assert "truncated or damaged" in err
    assert list((tmp_path / "out/sub-03").rglob("*pathology*stat-z*"))
    assert analyze(copy, tmp_path / "out", "group") == 1
    err = capsys.readouterr().err
    assert "sub-02 task-pathology: has no effect map" in err
    assert "found 2 and 2" in err


def test_a_run_that_went_after_the_participant_level(analysed, copy, tmp_path, capsys):
    out = shutil.copytree(analysed, tmp_path / "out")
    damage(copy, cut=True)
    assert analyze(copy, out, "group") == 1
    err = capsys.readouterr().err
    assert "failed: findings" in err
    assert "sub-02_task-pathology" in err
    assert "--no-findings" in err
    assert not (out / "group/findings").exists()


def test_participants_who_share_prompts_are_refused_unless_asked_for(model, tmp_path, capsys):
    scanned = record(tmp_path / "dataset", model, 3)
    share_prompts(scanned)
    assert analyze(scanned, tmp_path / "out", "participant") == 0
    assert analyze(scanned, tmp_path / "out", "group") == 1
    err = capsys.readouterr().err
    assert "failed: findings" in err
    assert "share" in err
    assert analyze(scanned, tmp_path / "out", "group", "--allow-circular") == 0
    assert "CIRCULAR" in capsys.readouterr().out


def share_prompts(dataset):
    """Let all participants have been shown the first participant's prompts."""
    first = {}
    for path in sorted(dataset.rglob("*_desc-transcript_tokens.tsv")):
        table = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str, quoting=3)
        key = path.name.partition("_")[2]
        ids = first.setdefault(key, table["prompt_id"])
        table.assign(prompt_id=ids).to_csv(path, sep="\t", index=False, quoting=3)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["participant", "--participant-label", "sub-09"], 2, "has no sub-09"),
        (["participant", "--task", "cooking"], 2, "has no task-cooking"),
        (["participant", "--contrast", "cooking"], 1, "cooking"),
        (["participant", "--noise-model", "ar"], 1, "noise_model"),
        (["participant", "--high-pass", "0.01"], 2, "high_pass"),
        (["participant", "--n-cpus", "0"], 2, "n_cpus (--n-cpus) is 0"),
        (["participant", "--mem-gb", "0"], 2, "mem_gb (--mem-gb) is 0"),
        (["participant", "--mask", "nothing.nii.gz"], 1, "nothing.nii.gz"),
        (["participant", "--confounds", "heartbeat"], 1, "heartbeat"),
        (["group"], 1, "holds no results of llm2bids analyze"),
        (["group", "--alpha", "2"], 2, "alpha"),
        (["group", "--tfce"], 2, "n_perm"),
    ],
)
def test_each_mistake_has_its_message(scanned, argv, code, message, tmp_path, capsys):
    assert analyze(scanned, tmp_path / "out", *argv) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--participant-label", "01"], 1, "at least 2"),
        (["--contrast", "cooking - pathology"], 1, "cooking"),
        (["--task", "cooking"], 2, "has no task-cooking"),
        (["--top-percent", "0"], 2, "top_percent"),
    ],
)
def test_mistakes_at_the_group_level(analysed, scanned, argv, code, message, tmp_path, capsys):
    out = shutil.copytree(analysed, tmp_path / "out")
    assert analyze(scanned, out, "group", *argv) == code
    assert message in capsys.readouterr().err


def test_an_empty_folder_and_a_foreign_dataset(tmp_path, capsys):
    assert analyze(tmp_path, tmp_path / "out", "participant") == 1
    assert "not a BIDS dataset" in capsys.readouterr().err
    (tmp_path / "dataset_description.json").write_text("{}")
    assert analyze(tmp_path, tmp_path / "out", "participant") == 1
    assert "not one that llm2bids wrote" in capsys.readouterr().err


def test_an_output_folder_that_holds_something_else(scanned, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("Dear Sir")
    assert analyze(scanned, tmp_path, "participant") == 1
    assert "is not empty" in capsys.readouterr().err


def test_maps_of_another_model(analysed, tiny_model_dir, tmp_path, capsys):
    other = record(tmp_path / "other", tiny_model_dir("gpt2"), 3)
    out = shutil.copytree(analysed, tmp_path / "out")
    assert analyze(other, out, "group") == 1
    err = capsys.readouterr().err
    assert "mixed spaces" in err


def test_wrong_usage(scanned, tmp_path, capsys):
    for argv in (["voxel"], ["group", "--height-control", "tukey"]):
        with pytest.raises(SystemExit) as exit_:
            analyze(scanned, tmp_path, *argv)
        assert exit_.value.code == 2


def test_a_stats_model_of_the_dataset(scanned, tmp_path, capsys):
    """Effects are per cent of a mean of about 10,000 counts, where 100 are one sd."""
    tasks = sorted(path.name for path in (scanned / "code/models").glob("task-*_smdl.json"))
    model = scanned / "code/models" / tasks[0]
    out = tmp_path / "out"
    assert analyze(scanned, out, "dataset", "--model", model, "--noise-model", "ols") == 0
    assert "files written" in capsys.readouterr().out
    task = tasks[0].removeprefix("task-").removesuffix("_smdl.json")
    options = ("--unit-of-analysis", "token", "--noise-model", "ols", "--task", task)
    assert analyze(scanned, tmp_path / "ours", "participant", *options) == 0
    (ours,) = (tmp_path / "ours").glob(f"sub-01/func/*task-{task}_*stat-effect_statmap.nii.gz")
    (run,) = out.glob(f"node-run/sub-01/*task-{task}_*stat-effect_statmap.nii.gz")
    mine, theirs = (nib.load(path).get_fdata() for path in (run, ours))
    assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.999
    assert (
        "do not generalise"
        in json.loads(run.with_name(run.name[:-7] + ".json").read_text())["Caution"]
    )
    label = nib.load(run).header["descrip"].item().decode().split()[1]
    assert list(out.glob(f"node-dataset/space-{label}_contrast-{task}_stat-z_statmap.nii.gz"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run"], "analysis level run: expected participant or group"),
        (["participant", "--space", "S"], "--space: has a meaning with --model only"),
        (
            ["dataset", "--model", "M", "--confounds", "length"],
            "--confounds: with --model the file",
        ),
        (["dataset", "--model", "M", "--no-findings"], "--no-findings: with --model the file"),
        (["dataset", "--model", "M"], "M: not readable as JSON"),
        (
            ["participant", "--session-label", "cut"],
            "has no ses-cut; expected some of (there are none)",
        ),
    ],
)
def test_options_of_the_other_road(scanned, argv, message, tmp_path, capsys):
    assert analyze(scanned, tmp_path / "out", *argv) == 2
    assert message in capsys.readouterr().err


def test_the_validator_is_asked_before_the_first_level(copy, tmp_path, capsys):
    (copy / "sub-01" / "func" / "sub-01_what-is_this.txt").write_text("no BIDS name")
    assert analyze(copy, tmp_path / "out", "participant") == 1
    error = capsys.readouterr().err
    assert "1 errors" in error
    assert "go on with --skip-bids-validation" in error
    assert not (tmp_path / "out").exists()
    options = ("--skip-bids-validation", "--participant-label", "01", "--task", TASKS[0])
    assert analyze(copy, tmp_path / "out", "participant", *options) == 0


def test_content_that_was_not_fetched_is_named_where_the_validator_says_empty(
    copy, tmp_path, capsys
):
    path = next(copy.glob("sub-01/func/*_bold.nii.gz"))
    path.unlink()
    path.symlink_to("../../.git/annex/objects/aa/bb/x.nii.gz")
    assert analyze(copy, tmp_path / "out", "participant") == 1
    assert f"run `datalad get {path}`" in capsys.readouterr().err


def test_without_the_validator_it_is_said(scanned, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llm2bids.dataset.validate.PROGRAM", "no-such-validator")
    argv = ["analyze", str(scanned), str(tmp_path / "out"), "participant", "--task", TASKS[0]]
    assert cli.main([*argv, "--participant-label", "01"]) == 0
    assert "no-such-validator is not installed: the dataset is not validated" in (
        capsys.readouterr().err
    )


def test_reports_only(analysed, scanned, tmp_path, capsys):
    out = shutil.copytree(analysed, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert analyze(scanned, out, "group", "--reports-only") == 0
    assert (out / "report.html").stat().st_size > 10_000
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before
    assert analyze(scanned, tmp_path / "none", "group", "--reports-only") == 2
    assert "is not a folder" in capsys.readouterr().err
