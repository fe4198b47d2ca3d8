"""Group tests against scipy, thresholds against nilearn, permutation on known truth."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import threshold_stats_img
from nilearn.masking import apply_mask, unmask
from nilearn.reporting import get_clusters_table
from scipy import ndimage, stats

from llm2bids.exceptions import InferenceError
from llm2bids.inference.second_level import (
    against_others,
    fit_second_level,
    permutation_test,
    smallest_p,
)
from llm2bids.inference.threshold import (
    cluster_table,
    height_threshold,
    thresholded,
    thresholds,
    true_discoveries,
)

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
N = 9


@pytest.fixture
def mask_img():
    mask = np.zeros((7, 8, 9), dtype=np.uint8)
    mask[1:-1, 1:-1, 1:-1] = 1
    return nib.Nifti1Image(mask, AFFINE)


def group(mask_img, *, effect=0.0, n=N, seed=0):
    """Effects of n participants; a block of 3 x 3 x 3 voxels responds."""
    values = np.random.default_rng(seed).standard_normal((n, *mask_img.shape))
    values[:, 2:5, 2:5, 2:5] += effect
    mask = mask_img.get_fdata() > 0
    return values[:, mask], [unmask(row[mask], mask_img) for row in values]


def test_the_mean_of_the_participants_against_scipy(mask_img):
    values, images = group(mask_img, effect=1.0)
    fit = fit_second_level(images, mask_img=mask_img)
    expected = stats.ttest_1samp(values, 0)
    np.testing.assert_allclose(apply_mask(fit.t, mask_img), expected.statistic, rtol=1e-4)
    np.testing.assert_allclose(apply_mask(fit.effect, mask_img), values.mean(axis=0), atol=1e-5)
    d = values.mean(axis=0) / values.std(axis=0, ddof=1)
    np.testing.assert_allclose(apply_mask(fit.d, mask_img), d, rtol=1e-4)
    adjusted = stats.false_discovery_control(expected.pvalue)
    np.testing.assert_allclose(apply_mask(fit.p_fdr, mask_img), adjusted, rtol=1e-3)
    assert fit.p_fdr.get_fdata()[0, 0, 0] == 1
    assert fit.n_participants == N


def test_a_unit_without_variance_has_no_evidence(mask_img):
    values, _ = group(mask_img)
    values[:, 5] = 0.3
    fit = fit_second_level([unmask(row, mask_img) for row in values], mask_img=mask_img)
    for image in (fit.t, fit.z, fit.d):
        assert apply_mask(image, mask_img)[5] == 0
        assert np.isfinite(image.get_fdata()).all()


def test_thresholds_are_nilearns_and_control_what_they_say(mask_img):
    _, images = group(mask_img, effect=3.0)
    fit = fit_second_level(images, mask_img=mask_img)
    z = apply_mask(fit.z, mask_img)
    found = thresholds(z, alpha=0.05)
    for height_control, one in found.items():
        image, threshold = thresholded(fit.z, mask_img=mask_img, height_control=height_control)
        assert threshold == pytest.approx(one["z"])
        assert np.count_nonzero(image.get_fdata()) == one["n_units"]
    assert found["bonferroni"]["z"] == pytest.approx(stats.norm.isf(0.025 / z.size))
    assert found["fpr"]["n_units"] > found["fdr"]["n_units"] >= found["bonferroni"]["n_units"] > 0
    rejected = stats.false_discovery_control(2 * stats.norm.sf(np.abs(z))) <= 0.05
    assert found["fdr"]["n_units"] == rejected.sum()


def test_nothing_above_the_threshold_is_an_empty_map_and_table(mask_img):
    z_img = unmask(np.full(int(mask_img.get_fdata().sum()), 0.1), mask_img)
    for height_control in ("fdr", "bonferroni", "fpr"):
        image, threshold = thresholded(z_img, mask_img=mask_img, height_control=height_control)
        assert not image.get_fdata().any()
        assert cluster_table(z_img, stat_threshold=threshold).empty
    assert thresholds(apply_mask(z_img, mask_img))["fdr"] == {"z": None, "n_units": 0}


def test_the_cluster_table_finds_the_planted_block(mask_img):
    values = np.zeros((7, 8, 9))
    values[2:5, 2:5, 2:5] = 6
    values[5, 6, 7] = -7
    z_img = unmask(values[mask_img.get_fdata() > 0], mask_img)
    table = cluster_table(z_img, stat_threshold=3.0, cluster_threshold=5)
    sizes = table["Cluster Size (mm3)"].dropna().astype(float).tolist()
    assert max(sizes) == 27 * 8
    assert len(cluster_table(z_img, stat_threshold=3.0, cluster_threshold=0)) > len(table)


@pytest.mark.filterwarnings("ignore:.*No clusters found")
@pytest.mark.parametrize("cluster_threshold", [0, 1, 2, 4])
def test_clusters_are_nilearns(mask_img, cluster_threshold):
    rng = np.random.default_rng(8)
    smooth = ndimage.gaussian_filter(rng.standard_normal(mask_img.shape), 0.8)
    inside = mask_img.get_fdata() > 0
    z_img = unmask((4 * smooth / smooth.std())[inside], mask_img)
    theirs = get_clusters_table(
        z_img, stat_threshold=3.5, cluster_threshold=cluster_threshold, two_sided=True,
        min_distance=5.0,
    )  # fmt: skip
    ours = cluster_table(
        z_img, stat_threshold=3.5, cluster_threshold=cluster_threshold, min_distance=5.0
    )
    columns = ["X", "Y", "Z", "Peak Stat"]
    np.testing.assert_allclose(
        ours[columns].astype(float).sort_values(columns),
        theirs[columns].astype(float).sort_values(columns),
        rtol=1e-6,
    )
    assert len(ours) > 3
    sizes = pd.to_numeric(ours["Cluster Size (mm3)"], errors="coerce").dropna()
    assert sizes.is_monotonic_decreasing
    image, _ = thresholded(
        z_img, mask_img=mask_img, alpha=0.01, height_control="fpr",
        cluster_threshold=cluster_threshold,
    )  # fmt: skip
    expected, _ = threshold_stats_img(
        z_img, mask_img=mask_img, alpha=0.01, height_control="fpr",
        cluster_threshold=cluster_threshold,
    )  # fmt: skip
    np.testing.assert_allclose(image.get_fdata(), expected.get_fdata(), rtol=1e-6)


def test_true_discoveries_bound_the_share_in_the_planted_block(mask_img):
    _, images = group(mask_img, effect=4.0)
    fit = fit_second_level(images, mask_img=mask_img)
    bound = true_discoveries(fit.z, mask_img=mask_img, threshold=3.0).get_fdata()
    assert 0.3 < bound[2:5, 2:5, 2:5].max() <= 1
    assert bound[6:, 6:, 7:].max() == 0


def test_permutation_finds_the_planted_block_family_wise(mask_img):
    _, images = group(mask_img, effect=4.0, n=10)
    maps = permutation_test(images, mask_img=mask_img, n_perm=100, tfce=True, threshold=0.01)
    inside = maps["logp_max_t"].get_fdata()[2:5, 2:5, 2:5]
    assert (inside > -np.log10(0.05)).mean() > 0.8
    assert maps["logp_max_tfce"].get_fdata()[3, 3, 3] > -np.log10(0.05)
    assert {"t", "tfce", "size", "mass", "logp_max_size", "logp_max_mass"} < set(maps)


def test_permutation_without_tfce_gives_the_voxel_map_alone(mask_img):
    _, images = group(mask_img)
    assert list(permutation_test(images, mask_img=mask_img, n_perm=20)) == ["logp_max_t"]


def test_sign_flips_of_few_participants_cannot_be_significant():
    assert smallest_p(5) > 0.05
    assert smallest_p(8) < 0.05


def test_one_participant_is_refused(mask_img):
    _, images = group(mask_img, n=1)
    message = r"found 1 participant\(s\), a group needs at least 2"
    with pytest.raises(InferenceError, match=message):
        fit_second_level(images, mask_img=mask_img)
    with pytest.raises(InferenceError, match=message):
        permutation_test(images, mask_img=mask_img)


def test_images_of_another_grid_are_refused(mask_img):
    _, images = group(mask_img)
    other = nib.Nifti1Image(np.zeros((7, 8, 10), dtype=np.float32), AFFINE)
    with pytest.raises(InferenceError, match=r"\(7, 8, 10\).*expected one space"):
        fit_second_level([*images[:-1], other], mask_img=mask_img)


def test_against_others_is_within_participant():
    effects = np.array([[4.0, 1.0], [1.0, 1.0], [3.0, 1.0]])
    assert against_others(effects, 0).tolist() == [2, 0]
    with pytest.raises(InferenceError, match="found one task"):
        against_others(effects[:1], 0)


@pytest.mark.parametrize(("alpha", "control"), [(0, "fdr"), (1.5, "fdr"), (0.05, "tukey")])
def test_thresholds_that_do_not_exist_are_refused(alpha, control):
    with pytest.raises(InferenceError, match="expected alpha between 0 and 1"):
        height_threshold(np.zeros(3), alpha=alpha, height_control=control)
