"""The verbs on a recorded dataset with known truth, and every bad input of the specification."""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel
from scipy import stats

from llm2bids.dataset.read import open_dataset
from llm2bids.exceptions import DatasetError, InferenceError, SpaceError, UsageError
from llm2bids.inference.analyze import analyze_group, analyze_participants
from llm2bids.inference.options import AnalysisOptions, GroupOptions

STATS = ("effect", "variance", "t", "z")


def units(dataset, path):
    return dataset.space.to_units(nib.load(path))


def statmap(out_dir, label, task, stat, contrast=None):
    name = f"sub-{label}_task-{task}_space-Drinks_contrast-{contrast or task}_stat-{stat}"
    return out_dir / f"sub-{label}" / "func" / f"{name}_statmap.nii.gz"


def group_map(out_dir, contrast, stat, task=None, desc=None):
    parts = [f"task-{task}" if task else None, "space-Drinks", f"contrast-{contrast}",
             f"stat-{stat}", f"desc-{desc}" if desc else None, "statmap.nii.gz"]  # fmt: skip
    return out_dir / "group" / "_".join(part for part in parts if part)


def mean_of_on_prompts(dataset, recorded, task):
    """Mean over participants of the on prompts, in calibration sd."""
    found = []
    for run in dataset.select(task=task):
        values = (dataset.values(run) - dataset.calibration.mean) / dataset.calibration.scale
        found.append(values.reshape(12, recorded.tokens_per_prompt, -1)[4:8].mean(axis=(0, 1)))
    return np.mean(found, axis=0)


def sidecar(path):
    return json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())


def test_first_level_is_the_t_test_of_prompt_means_in_calibration_sd(drinks, analysed, recorded):
    dataset = open_dataset(drinks)
    run = dataset.select(participant_label=["02"], task="cocoa")[0]
    values = (dataset.values(run) - dataset.calibration.mean) / dataset.calibration.scale
    means = values.reshape(12, recorded.tokens_per_prompt, -1).mean(axis=1)
    on = np.arange(12) // 4 == 1
    expected = stats.ttest_ind(means[on], means[~on])
    maps = {stat: units(dataset, statmap(analysed, "02", "cocoa", stat)) for stat in STATS}
    np.testing.assert_allclose(maps["t"], expected.statistic, rtol=1e-4, atol=1e-5)
    difference = means[on].mean(axis=0) - means[~on].mean(axis=0)
    np.testing.assert_allclose(maps["effect"], difference, atol=1e-4)
    np.testing.assert_allclose(maps["t"], maps["effect"] / np.sqrt(maps["variance"]), rtol=1e-4)
    planted = recorded.planted["cocoa"]
    assert int(np.argmax(maps["t"])) == planted
    assert maps["effect"][planted] == pytest.approx(4, abs=1)


def test_sidecars_carry_provenance_fingerprint_and_model(drinks, analysed):
    dataset = open_dataset(drinks)
    path = statmap(analysed, "01", "tea", "t")
    found = sidecar(path)
    prompts = dataset.transcript(dataset.select(participant_label=["01"], task="tea")[0])
    assert found["Participants"] == ["01"]
    assert found["Runs"] == ["sub-01_task-tea"]
    assert found["Prompts"] == sorted(set(prompts["prompt_id"]))
    assert found["SpaceFingerprint"] == dataset.fingerprint
    assert found["DegreesOfFreedom"] == 10
    assert found["ModelParameters"]["noise_model"] == "ols"
    assert "Caution" not in found
    assert dataset.fingerprint[:16].encode() in nib.load(path).header["descrip"].tobytes()
    source = found["Sources"][0].removeprefix("bids:llm2bids:")
    assert (dataset.derivative / source).is_file()


def test_headers_of_z_and_t_maps_say_what_they_are(analysed, grouped):
    assert nib.load(statmap(analysed, "01", "tea", "z")).header.get_intent()[0] == "z score"
    name, parameters, _ = nib.load(statmap(analysed, "01", "tea", "t")).header.get_intent()
    assert (name, parameters) == ("t test", (10.0,))
    assert nib.load(statmap(analysed, "01", "tea", "effect")).header.get_intent()[0] == "none"
    name, parameters, _ = nib.load(group_map(grouped[0], "tea", "t", "tea")).header.get_intent()
    assert (name, parameters) == ("t test", (3.0,))


def test_design_matrices_and_residual_checks_are_written(analysed):
    func = analysed / "sub-01" / "func"
    design = pd.read_csv(func / "sub-01_task-tea_design.tsv", sep="\t")
    assert list(design.columns) == ["tea", "constant"]
    assert design["tea"].sum() == 4
    assert len(json.loads((func / "sub-01_task-tea_design.json").read_text())["PromptIds"]) == 12
    for stat in ("rsquared", "residualar1"):
        found = json.loads(
            (func / f"sub-01_task-tea_space-Drinks_stat-{stat}_statmap.json").read_text()
        )
        assert -1 < found["Quantiles"]["0.5"] < 1


@pytest.mark.parametrize("options", [{}, {"mem_gb": 1e-5}, {"n_cpus": 2}])
def test_token_level_equals_nilearn_on_the_whole_brain(drinks, recorded, tmp_path, options):
    analyze_participants(
        drinks, tmp_path / "out", participant_label=["sub-01"], task=["task-tea"],
        unit_of_analysis="token", noise_model="ols", high_pass=0.05, progress=False,
        work_dir=tmp_path / "work", **options,
    )  # fmt: skip
    dataset = open_dataset(drinks)
    path = statmap(tmp_path / "out", "01", "tea", "t")
    run = dataset.select(participant_label=["01"], task="tea")[0]
    model = FirstLevelModel(
        t_r=recorded.t_r, hrf_model=None, noise_model="ols", high_pass=0.05, signal_scaling=False,
        mask_img=nib.Nifti1Image(dataset.space.grey.astype(np.uint8), dataset.space.affine),
    )  # fmt: skip
    with warnings.catch_warnings():  # nilearn's, in some versions, of a mask that is given
        warnings.filterwarnings("ignore", ".*Generation of a mask")
        model.fit(run.preproc, dataset.events(run))
    expected = model.compute_contrast("tea", output_type="stat")
    np.testing.assert_allclose(
        units(dataset, path), dataset.space.to_units(expected), rtol=1e-5, atol=1e-6
    )
    assert "0.21 / 0.11 / 0.045" in sidecar(path)["Caution"]
    assert not any((tmp_path / "work").glob("**/*.f32"))


def test_smoothing_confounds_mask_and_contrasts(drinks, tmp_path):
    dataset = open_dataset(drinks)
    half = dataset.space.to_grid((np.arange(dataset.space.n_units) < 40).astype(np.uint8))
    nib.Nifti1Image(half, dataset.space.affine).to_filename(tmp_path / "mask.nii.gz")
    result = analyze_participants(
        drinks, tmp_path / "out", participant_label=["01"], task=["tea"], smoothing_fwhm=4.0,
        confounds=["prompt_tokens"], contrasts={"twice": "2 * tea", "other": "cocoa"},
        mask_img=tmp_path / "mask.nii.gz", progress=False,
    )  # fmt: skip
    assert result.done == (("01", "tea"),)
    values = units(dataset, statmap(tmp_path / "out", "01", "tea", "effect", contrast="twice"))
    assert (values[:40] != 0).all()
    assert not values[40:].any()
    assert not statmap(tmp_path / "out", "01", "tea", "effect", contrast="other").exists()
    design = pd.read_csv(tmp_path / "out/sub-01/func/sub-01_task-tea_design.tsv", sep="\t")
    assert list(design.columns) == ["tea", "prompt_tokens", "constant"]


def test_several_runs_are_fixed_effects(recorded, tmp_path):
    data = recorded.write_dataset(tmp_path / "bids", n_participants=1, n_runs=2)
    analyze_participants(data, tmp_path / "out", task=["tea"], progress=False)
    dataset = open_dataset(data)
    effects = []
    for run in dataset.select(task="tea"):
        values = (dataset.values(run) - dataset.calibration.mean) / dataset.calibration.scale
        means = values.reshape(12, recorded.tokens_per_prompt, -1).mean(axis=1)
        on = np.arange(12) // 4 == 1
        effects.append(means[on].mean(axis=0) - means[~on].mean(axis=0))
    path = statmap(tmp_path / "out", "01", "tea", "effect")
    np.testing.assert_allclose(units(dataset, path), np.mean(effects, axis=0), atol=1e-4)
    assert sidecar(path)["Runs"] == ["sub-01_task-tea_run-1", "sub-01_task-tea_run-2"]
    assert sidecar(path)["DegreesOfFreedom"] == 20
    assert (tmp_path / "out/sub-01/func/sub-01_task-tea_run-2_design.tsv").exists()


@pytest.fixture(scope="module")
def grouped(drinks, analysed, tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("grouped") / "out"
    shutil.copytree(analysed, out_dir)
    result = analyze_group(
        drinks, out_dir, contrasts=["tea - cocoa"], progress=False,
        n_perm=10, tfce=True, pooled_n_perm=99, true_discovery_threshold=2.5,
    )  # fmt: skip
    return out_dir, result


def test_group_maps_against_scipy(drinks, analysed, grouped):
    out_dir, result = grouped
    dataset = open_dataset(drinks)
    tasks = ("cocoa", "milk", "tea")
    effects = np.array(
        [
            [units(dataset, statmap(analysed, f"0{p}", task, "effect")) for task in tasks]
            for p in range(1, 5)
        ]
    )
    others = effects[:, 2] - effects[:, :2].mean(axis=1)
    for name, task, values in (
        ("tea", "tea", effects[:, 2]),
        ("teaVsOthers", "tea", others),
        ("teaMinusCocoa", None, effects[:, 2] - effects[:, 0]),
    ):
        expected = stats.ttest_1samp(values, 0).statistic
        t = units(dataset, group_map(out_dir, name, "t", task))
        np.testing.assert_allclose(t, expected, rtol=1e-3)
        d = np.mean(values, axis=0) / np.std(values, axis=0, ddof=1)
        np.testing.assert_allclose(
            units(dataset, group_map(out_dir, name, "cohensd", task)), d, rtol=1e-3
        )
    assert [one.label for one in result.contrasts] == [
        "cocoa", "milk", "tea", "cocoaVsOthers", "milkVsOthers", "teaVsOthers", "teaMinusCocoa",
    ]  # fmt: skip
    assert result.failed == ()


def test_group_outputs_thresholds_permutation_and_pooled_test(drinks, grouped, recorded):
    out_dir, result = grouped
    dataset = open_dataset(drinks)
    z = sidecar(group_map(out_dir, "tea", "z", "tea"))
    assert z["TwoSidedThresholds"]["bonferroni"]["z"] == pytest.approx(
        stats.norm.isf(0.025 / recorded.n_units), rel=1e-6
    )
    assert z["Participants"] == ["01", "02", "03", "04"]
    assert len(z["Runs"]) == 4
    assert len(z["Prompts"]) == 4 * 12
    assert "SharedPromptsCaution" not in z
    assert len(sidecar(group_map(out_dir, "teaVsOthers", "z", "tea"))["Runs"]) == 12
    permutation = sidecar(group_map(out_dir, "tea", "logpmaxtfce", "tea", desc="permutation"))
    assert permutation["SmallestP"] == 0.125
    pooled = group_map(out_dir, "tea", "logpmaxt", "tea", desc="pooled")
    significant = np.flatnonzero(units(dataset, pooled) > -np.log10(0.05))
    assert significant.tolist() == [recorded.planted["tea"]]
    others = group_map(out_dir, "teaVsOthers", "logpmaxt", "tea", desc="pooled")
    significant = np.flatnonzero(units(dataset, others) > -np.log10(0.05)).tolist()
    assert recorded.planted["tea"] in significant
    assert set(significant) <= set(recorded.planted.values())
    effect = group_map(out_dir, "teaVsOthers", "effect", "tea", desc="pooled")
    on = {task: mean_of_on_prompts(dataset, recorded, task) for task in ("tea", "milk", "cocoa")}
    expected = on["tea"] - (on["milk"] + on["cocoa"]) / 2
    np.testing.assert_allclose(units(dataset, effect), expected, atol=1e-4)
    assert nib.load(group_map(out_dir, "tea", "pfdr", "tea")).get_fdata()[0, 0, 0] == 1
    assert group_map(out_dir, "tea", "truediscoveries", "tea").exists()
    assert all(path.is_file() for path in result.files)


@pytest.mark.interop
def test_group_passes_the_validator(grouped):
    validator = Path(sys.executable).with_name("bids-validator-deno")
    found = subprocess.run(
        [str(validator), str(grouped[0]), "--format", "json"], capture_output=True, check=False
    )
    issues = json.loads(found.stdout)["issues"]["issues"]
    assert {one["code"] for one in issues if one["severity"] != "ignore"} <= {"TOO_FEW_AUTHORS"}


def test_shared_prompts_are_said(recorded, tmp_path, monkeypatch):
    make = recorded.make_design
    shared = lambda self, p, task, run=None: with_label(make, p, task)  # noqa: E731
    monkeypatch.setattr(type(recorded), "make_design", shared)
    data = recorded.write_dataset(tmp_path / "bids", n_participants=2)
    analyze_participants(data, tmp_path / "out", task=["tea"], progress=False)
    analyze_group(data, tmp_path / "out", task=["tea"], progress=False)
    found = sidecar(group_map(tmp_path / "out", "tea", "z", "tea"))
    assert found["SharedPromptsCaution"].startswith("12 of 12 prompts")


def with_label(original, participant, task):
    shown = original(1, task)
    return replace(shown, participant_label=f"{participant:02d}", seed=shown.seed + participant)


@pytest.fixture
def copied(drinks, tmp_path):
    return shutil.copytree(drinks, tmp_path / "bids")


def bold(data, label, task):
    folder = data / "derivatives" / "llm2bids" / f"sub-{label}" / "func"
    return folder / f"sub-{label}_task-{task}_space-Drinks_desc-preproc_bold.nii.gz"


def test_missing_and_truncated_runs_are_named_and_the_others_go_on(recorded, tmp_path):
    data = recorded.write_dataset(tmp_path / "bids", without=[(3, "milk")])
    whole = bold(data, "02", "tea").read_bytes()
    bold(data, "02", "tea").unlink()
    bold(data, "02", "tea").write_bytes(whole[: len(whole) // 2])
    result = analyze_participants(data, tmp_path / "out", progress=False)
    reasons = {(one.participant_label, one.task): one.reason for one in result.failed}
    assert set(reasons) == {("02", "tea"), ("03", "milk")}
    assert "truncated or damaged" in reasons["02", "tea"]
    assert "the run is missing" in reasons["03", "milk"]
    assert len(result.done) == 10
    assert "sub-02 task-tea" in str(result.failed[0])

    group = analyze_group(data, tmp_path / "out", progress=False)
    assert {(one.participant_label, one.task) for one in group.failed} == set(reasons)
    by_label = {one.label: one for one in group.contrasts}
    assert by_label["tea"].left_out == ("02",)
    assert by_label["teaVsOthers"].participants == ("01", "04")


def test_a_failed_participant_leaves_no_stale_maps(drinks, tmp_path):
    data = shutil.copytree(drinks, tmp_path / "bids")
    analyze_participants(data, tmp_path / "out", task=["tea"], progress=False)
    bold(data, "02", "tea").unlink()
    result = analyze_participants(data, tmp_path / "out", task=["tea"], progress=False)
    assert [one.participant_label for one in result.failed] == ["02"]
    assert not statmap(tmp_path / "out", "02", "tea", "effect").exists()


def test_nothing_that_can_be_analysed_is_an_error(copied, tmp_path):
    for label in ("01", "02", "03", "04"):
        bold(copied, label, "tea").unlink()
    with pytest.raises(
        InferenceError, match=r"nothing could be analysed:\nsub-01 task-tea: .*does not exist"
    ):
        analyze_participants(copied, tmp_path / "out", task=["tea"], progress=False)


def test_empty_and_foreign_folders(drinks, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "none"):
        with pytest.raises(DatasetError, match=folder):
            analyze_participants(tmp_path / folder, tmp_path / "out", progress=False)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(InferenceError, match="holds no results of llm2bids analyze"):
        analyze_participants(drinks, tmp_path / "taken", progress=False)
    with pytest.raises(InferenceError, match="holds no results of llm2bids analyze"):
        analyze_group(drinks, tmp_path / "none", progress=False)


def test_participants_tasks_and_contrasts_that_do_not_exist(drinks, tmp_path):
    with pytest.raises(UsageError, match=r"no sub-09; expected some of 01, 02, 03, 04"):
        analyze_participants(drinks, tmp_path, participant_label=["09"], progress=False)
    with pytest.raises(UsageError, match=r"no task-beer; expected some of cocoa, milk, tea"):
        analyze_participants(drinks, tmp_path, task=["beer"], progress=False)
    with pytest.raises(InferenceError, match=r"'tea - beer' does not exist here.*over tea"):
        analyze_participants(
            drinks, tmp_path / "out", task=["tea"], contrasts=["tea - beer"], progress=False
        )


def test_a_group_contrast_that_does_not_exist(drinks, analysed):
    with pytest.raises(InferenceError, match=r"'tea - beer' does not exist here.*cocoa, milk, tea"):
        analyze_group(drinks, analysed, contrasts=["tea - beer"], progress=False)


def test_a_group_contrast_has_a_label_of_its_own(drinks, analysed):
    with pytest.raises(InferenceError, match="'teaVsOthers' is that of a contrast that every"):
        analyze_group(drinks, analysed, contrasts={"teaVsOthers": "tea - milk"}, progress=False)


def test_a_map_that_was_changed_is_named(drinks, analysed, tmp_path, caplog):
    out_dir = Path(shutil.copytree(analysed, tmp_path / "out"))
    (path,) = out_dir.glob("sub-02/func/*_contrast-tea_stat-effect_statmap.nii.gz")
    shutil.copy(next(out_dir.glob("sub-01/func/*_contrast-tea_stat-effect_statmap.nii.gz")), path)
    assert analyze_group(drinks, out_dir, progress=False).contrasts
    assert f"{path.name}: changed after llm2bids wrote it" in caplog.text


def test_the_sidecar_of_another_participant_is_refused(drinks, analysed, tmp_path):
    out_dir = Path(shutil.copytree(analysed, tmp_path / "out"))
    (path,) = out_dir.glob("sub-02/func/*_contrast-tea_stat-effect_statmap.json")
    shutil.copy(next(out_dir.glob("sub-01/func/*_contrast-tea_stat-effect_statmap.json")), path)
    with pytest.raises(InferenceError, match=r"of participant '01', its name says another"):
        analyze_group(drinks, out_dir, progress=False)


def test_one_participant_is_no_group(drinks, analysed):
    with pytest.raises(InferenceError, match=r"found 1 participant\(s\)"):
        analyze_group(drinks, analysed, participant_label=["01"], task=["tea"], progress=False)


def test_group_without_the_participant_level(drinks, tmp_path):
    analyze_participants(drinks, tmp_path / "out", task=["tea"], progress=False)
    with pytest.raises(InferenceError, match="run the participant level first"):
        analyze_group(drinks, tmp_path / "out", task=["milk"], progress=False)


def test_a_mask_of_another_grid_or_without_units(drinks, tmp_path):
    dataset = open_dataset(drinks)
    other = np.ones((7, 8, 9), dtype=np.uint8)
    nib.Nifti1Image(other, dataset.space.affine).to_filename(tmp_path / "mask.nii.gz")
    with pytest.raises(SpaceError, match=r"mask\.nii\.gz is not on the grid of Drinks"):
        analyze_participants(drinks, tmp_path / "o", mask_img=tmp_path / "mask.nii.gz")
    nothing = np.zeros(dataset.space.shape, dtype=np.uint8)
    nib.Nifti1Image(nothing, dataset.space.affine).to_filename(tmp_path / "zero.nii.gz")
    with pytest.raises(InferenceError, match="holds no unit"):
        analyze_participants(drinks, tmp_path / "o", mask_img=tmp_path / "zero.nii.gz")
    with pytest.raises(SpaceError, match=r"none\.nii\.gz does not exist"):
        analyze_participants(drinks, tmp_path / "o", mask_img=tmp_path / "none.nii.gz")


def test_mixed_spaces_are_refused(analysed, recorded, tmp_path):
    other = recorded.write_dataset(tmp_path / "other", n_participants=2, weights_sha256="cd" * 32)
    with pytest.raises(InferenceError, match="mixed spaces"):
        analyze_group(other, analysed, progress=False)


def half_mask(dataset, path):
    """Write a mask of the first 40 units."""
    half = dataset.space.to_grid((np.arange(dataset.space.n_units) < 40).astype(np.uint8))
    nib.Nifti1Image(half, dataset.space.affine).to_filename(path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_model": "ar1"}, "noise model ar1"),
        ({"smoothing_fwhm": 4.0}, "smoothing 4 mm"),
        ({"confounds": ["prompt_tokens"]}, "confounds prompt_tokens"),
        ({"unit_of_analysis": "token"}, "every token"),
        ({"mask_img": "mask.nii.gz"}, "over 40 units"),
    ],
)
def test_participants_analysed_in_different_ways_are_refused(
    drinks, analysed, tmp_path, options, message
):
    if "mask_img" in options:
        options = {"mask_img": half_mask(open_dataset(drinks), tmp_path / "mask.nii.gz")}
    out_dir = shutil.copytree(analysed, tmp_path / "out")
    analyze_participants(
        drinks, out_dir, participant_label=["02"], task=["tea"], progress=False, **options
    )
    with pytest.raises(InferenceError, match=f"first-level model.*{message}.*empty folder"):
        analyze_group(drinks, out_dir, progress=False)


def test_an_image_of_another_space_is_named(copied, recorded, tmp_path):
    other = recorded.write_dataset(tmp_path / "other", n_participants=1, weights_sha256="cd" * 32)
    bold(copied, "01", "tea").unlink()
    shutil.copy(bold(other, "01", "tea"), bold(copied, "01", "tea"))
    result = analyze_participants(copied, tmp_path / "out", task=["tea"], progress=False)
    assert "mixed spaces" in result.failed[0].reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit_of_analysis": "word"}, "expected 'prompt', 'token'"),
        ({"hrf_model": "spm"}, "it has no meaning"),
        ({"high_pass": 0.01}, "it has no meaning"),
        ({"smoothing_fwhm": -1}, "above 0"),
        ({"unit_of_analysis": "token", "high_pass": -1}, "above 0"),
        ({"drift_order": 2}, "2 with one image per prompt, where it has no meaning"),
        ({"unit_of_analysis": "token", "drift_order": 2}, "take --drift-model polynomial"),
        (
            {"unit_of_analysis": "token", "drift_model": "polynomial", "high_pass": 0.01},
            "with polynomial drifts, where it has no meaning",
        ),
        ({"contrasts": {1: "tea"}}, "expected a mapping"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UsageError, match=message):
        AnalysisOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "above 0 and below 1"),
        ({"height_control": "tukey"}, "expected 'fpr', 'fdr', 'bonferroni'"),
        ({"threshold": 3.1, "n_perm": 10}, "not a z value"),
        ({"n_perm": -1}, "0 or more"),
        ({"tfce": True}, "give n_perm"),
        ({"two_sided_test": False}, "give n_perm"),
        ({"true_discovery_threshold": -1}, "0 or more"),
    ],
)
def test_group_options_that_do_not_fit(options, message):
    with pytest.raises(UsageError, match=message):
        GroupOptions(**options)


def test_confounds_that_say_nothing_at_the_prompt_level_are_refused(drinks, tmp_path):
    with pytest.raises(InferenceError, match="prompt_position has the same mean in every prompt"):
        analyze_participants(
            drinks, tmp_path / "out", task=["tea"], confounds=["prompt_position"], progress=False
        )
