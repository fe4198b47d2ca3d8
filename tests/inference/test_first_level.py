"""The maps against scipy's t test and against nilearn's whole-brain model."""

import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel
from nilearn.image import get_data, new_img_like
from scipy import stats

from llm2bids.exceptions import InferenceError
from llm2bids.inference.design import prompt_design, token_design, trial_table, volume_rows
from llm2bids.inference.first_level import fit_first_level
from llm2bids.inference.options import AnalysisOptions, check_noise_model
from llm2bids.inference.runs import block_edges, prompt_means, transposed, unit_volumes
from llm2bids.space.grid import open_image

OUTPUTS = {"effect": "effect_size", "variance": "effect_variance", "t": "stat", "z": "z_score"}


def prompt_series(run):
    n_voxels = int(run.mask.sum())
    trials = volume_rows(run.transcript, run.counts.shape[3])["trial"].to_numpy()
    return prompt_means(
        unit_volumes(open_image(run.path), run.voxels, n_volumes=7), trials, n_voxels
    )[0]


def fit_prompts(run, *, n_blocks=1):
    series = (prompt_series(run) - 10000) / 100
    table = trial_table(volume_rows(run.transcript, run.counts.shape[3]))
    edges = np.linspace(0, series.shape[1], n_blocks + 1).astype(int)
    return (
        series,
        table,
        fit_first_level(
            lambda b: [series[:, edges[b] : edges[b + 1]]],
            edges,
            [prompt_design(table["trial_type"])],
            {"tea": "tea"},
        ),
    )


def test_prompt_series_is_the_mean_of_each_prompts_volumes(run):
    series = prompt_series(run)
    expected = run.counts[run.mask].T.reshape(9, 5, -1).mean(axis=1)
    np.testing.assert_allclose(series, expected, rtol=1e-12)


def test_prompt_level_is_the_pooled_two_sample_t_test(run):
    series, table, fit = fit_prompts(run, n_blocks=3)
    on = table["trial_type"].to_numpy() == "tea"
    expected = stats.ttest_ind(series[on], series[~on], equal_var=True)
    live = ~fit.constant
    assert fit.constant.sum() == 1
    np.testing.assert_allclose(fit.maps["tea", "t"][live], expected.statistic[live], rtol=1e-6)
    difference = series[on].mean(axis=0) - series[~on].mean(axis=0)
    np.testing.assert_allclose(fit.maps["tea", "effect"], difference, atol=1e-6)
    assert fit.dof == len(table) - 2
    p = stats.norm.sf(np.abs(fit.maps["tea", "z"][live])) * 2
    np.testing.assert_allclose(p, expected.pvalue[live], rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*Generation of a mask")
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")
def test_prompt_level_is_first_level_model_on_the_prompt_images(run):
    series, table, fit = fit_prompts(run)
    volume = np.zeros((*run.mask.shape, len(table)))
    volume[run.mask] = series.T
    model = FirstLevelModel(
        mask_img=run.mask_img, noise_model="ols", signal_scaling=False,
        minimize_memory=False, hrf_model=None, drift_model=None,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="will be ignored"):  # nilearn: drift and hrf, None here
        model.fit(
            new_img_like(run.image, volume), design_matrices=prompt_design(table["trial_type"])
        )
    maps = model.compute_contrast(["tea"] * len(model.labels_), output_type="all")
    live = ~fit.constant
    for ours, theirs in OUTPUTS.items():
        expected = get_data(maps[theirs])[run.mask]
        np.testing.assert_allclose(
            fit.maps["tea", ours][live], expected[live], atol=1e-6, rtol=1e-6
        )
    theirs = model.r_square_ if hasattr(model, "r_square_") else model.r_square  # nilearn 0.13
    r_squared = get_data(theirs[0])[run.mask].ravel()
    np.testing.assert_allclose(fit.r_squared[live], r_squared[live], atol=1e-5)


def test_the_planted_unit_has_the_largest_t_and_its_effect_in_sd(run):
    _, _, fit = fit_prompts(run)
    t = fit.maps["tea", "t"]
    assert int(np.argmax(t)) == 0
    assert fit.maps["tea", "effect"][0] == pytest.approx(2.0, abs=0.8)


def test_an_order_of_noise_that_a_run_cannot_tell_is_refused():
    design = pd.DataFrame({"tea": [0.0, 1, 0, 1, 0, 1], "constant": 1.0})
    with pytest.raises(InferenceError, match="'ar6' for a run of 6 observations"):
        fit_first_level(
            lambda _: [np.eye(6)], np.array([0, 6]), [design], {"tea": "tea"}, noise_model="ar6"
        )


@pytest.mark.parametrize("noise_model", ["ols", "ar1"])
@pytest.mark.parametrize("smoothing_fwhm", [None, 5.0])
@pytest.mark.filterwarnings("ignore:.*Generation of a mask")
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")
def test_token_level_in_blocks_equals_nilearn_on_the_whole_brain(
    make, tmp_path, noise_model, smoothing_fwhm
):
    runs = [make(seed=1, name="a.nii.gz"), make(seed=2, name="b.nii.gz")]
    model = FirstLevelModel(
        t_r=0.25, hrf_model=None, drift_model="cosine", high_pass=0.05, noise_model=noise_model,
        signal_scaling=False, mask_img=runs[0].mask_img, smoothing_fwhm=smoothing_fwhm,
    )  # fmt: skip
    model.fit([run.image for run in runs], events=[run.events for run in runs])
    maps = model.compute_contrast(["tea"] * len(model.labels_), output_type="all")

    n_voxels, n_volumes = int(runs[0].mask.sum()), runs[0].counts.shape[3]
    edges = block_edges(n_voxels, 2 * n_volumes, mem_gb=0.00015)
    assert edges.size > 4
    options = AnalysisOptions(unit_of_analysis="token", high_pass=0.05)
    designs = [token_design(run.events, n_volumes, 0.25, options) for run in runs]
    for design, theirs in zip(designs, model.design_matrices_, strict=True):
        pd.testing.assert_frame_equal(design, theirs)
    streams = [
        unit_volumes(open_image(run.path), run.voxels, smoothing_fwhm=smoothing_fwhm, n_volumes=4)
        for run in runs
    ]
    with (
        transposed(streams[0], edges, n_volumes, work_dir=tmp_path / "w") as first,
        transposed(streams[1], edges, n_volumes, work_dir=tmp_path / "w") as second,
    ):
        fit = fit_first_level(
            lambda b: [(scratch(b) - 10000.0) / 100 for scratch in (first, second)],
            edges, designs, {"tea": "tea"}, noise_model=noise_model,
        )  # fmt: skip
    assert list((tmp_path / "w").iterdir()) == []
    scale = {"effect": 100, "variance": 100**2, "t": 1, "z": 1}
    live = ~fit.constant
    for ours, theirs in OUTPUTS.items():
        expected = get_data(maps[theirs])[runs[0].mask] / scale[ours]
        np.testing.assert_allclose(
            fit.maps["tea", ours][live], expected[live], atol=1e-6, rtol=1e-6
        )


def test_equal_maps_to_a_millionth_whatever_the_blocks(run):
    _, _, whole = fit_prompts(run)
    for n_blocks in (2, 5, 11):
        _, _, parts = fit_prompts(run, n_blocks=n_blocks)
        for key, expected in whole.maps.items():
            np.testing.assert_allclose(parts.maps[key], expected, atol=1e-6)
        np.testing.assert_allclose(parts.residual_ar1, whole.residual_ar1, atol=1e-6)


@pytest.mark.parametrize("noise_model", ["ols", "ar1", "ar2"])
def test_a_unit_that_never_varies_gets_zeros_and_disturbs_nobody(noise_model):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((20, 6))
    values[:, 2] = 0.3
    design = prompt_design(["", "tea"] * 10)
    fit = fit_first_level(
        lambda _: [values], np.array([0, 6]), [design], {"tea": "tea"}, noise_model=noise_model
    )
    assert fit.constant.tolist() == [False, False, True, False, False, False]
    for image in (*fit.maps.values(), fit.r_squared, fit.residual_ar1):
        assert image[2] == 0
        assert np.isfinite(image).all()
    assert values[:, 2].tolist() == [0.3] * 20


def test_residual_autocorrelation_finds_the_planted_one():
    rng = np.random.default_rng(0)
    values = np.zeros((400, 50))
    for row in range(1, 400):
        values[row] = 0.5 * values[row - 1] + rng.standard_normal(50)
    design = prompt_design(["", "tea"] * 200)
    fits = {
        noise_model: fit_first_level(
            lambda _: [values], np.array([0, 50]), [design], {"tea": "tea"}, noise_model=noise_model
        )
        for noise_model in ("ols", "ar1")
    }
    assert fits["ols"].residual_ar1.mean() == pytest.approx(0.5, abs=0.05)
    assert fits["ar1"].residual_ar1.mean() == pytest.approx(0, abs=0.05)


def test_unknown_noise_model_and_contrast_are_refused():
    with pytest.raises(InferenceError, match="found 'white', expected 'ols'"):
        check_noise_model("white")
    with pytest.raises(InferenceError, match=r"'cocoa' does not exist here.*tea, constant"):
        fit_first_level(
            lambda _: [np.ones((4, 1))], np.array([0, 1]),
            [prompt_design(["", "tea", "tea", ""])], {"cocoa": "cocoa"},
        )  # fmt: skip


def test_values_that_are_not_finite_are_refused():
    design = prompt_design(["", "tea", "tea", ""])
    bad = np.ones((4, 2))
    bad[1, 1] = np.nan
    with pytest.raises(InferenceError, match="1 voxels hold values that are not finite"):
        fit_first_level(lambda _: [bad], np.array([0, 2]), [design], {"tea": "tea"})
