"""The second level and the pooled prompt test, against nilearn and simulations with known truth."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import threshold_stats_img
from nilearn.glm.second_level import SecondLevelModel
from nilearn.masking import apply_mask, unmask
from nilearn.reporting import get_clusters_table
from scipy import ndimage, stats

from llm2bids.exceptions import InferenceError
from llm2bids.inference.second_level import (
    cluster,
    group_statistics,
    height_threshold,
    permutation_test,
    pooled_test,
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


def kept_and_listed(z_img, threshold, *, cluster_threshold=0, min_distance=8.0):
    """What clusters leave of a map, and their table."""
    grid = z_img.get_fdata(dtype=np.float32)
    return cluster(grid, z_img.affine, threshold, cluster_threshold, min_distance)


def test_the_mean_of_the_participants_against_scipy(mask_img):
    values, images = group(mask_img, effect=1.0)
    fit = group_statistics(values)
    expected = stats.ttest_1samp(values, 0)
    np.testing.assert_allclose(fit.t, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(fit.effect, values.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(
        fit.cohensd, values.mean(axis=0) / values.std(axis=0, ddof=1), rtol=1e-9
    )
    np.testing.assert_allclose(fit.pfdr, stats.false_discovery_control(expected.pvalue), rtol=1e-9)
    model = SecondLevelModel(mask_img=mask_img).fit(
        images, design_matrix=pd.DataFrame({"intercept": np.ones(N)})
    )
    theirs = model.compute_contrast("intercept", output_type="all")
    for ours, key in (
        *((fit.effect, "effect_size"), (fit.variance, "effect_variance")),
        *((fit.t, "stat"), (fit.z, "z_score")),
    ):
        np.testing.assert_allclose(ours, apply_mask(theirs[key], mask_img), rtol=1e-4, atol=1e-6)


def test_a_unit_without_variance_has_no_evidence(mask_img):
    values, _ = group(mask_img)
    values[:, 5] = 0.3
    fit = group_statistics(values)
    for statistic in (fit.t, fit.z, fit.cohensd):
        assert statistic[5] == 0
        assert np.isfinite(statistic).all()
    assert fit.pfdr[5] == 1


def test_thresholds_are_nilearns_and_control_what_they_say(mask_img):
    values, _ = group(mask_img, effect=3.0)
    z = group_statistics(values).z
    z_img = unmask(z, mask_img)
    found = thresholds(z, alpha=0.05)
    for height_control, ours in found.items():
        image, threshold = threshold_stats_img(
            z_img, mask_img=mask_img, alpha=0.05, height_control=height_control, two_sided=True
        )
        assert ours["z"] == pytest.approx(threshold)
        assert np.count_nonzero(image.get_fdata()) == ours["n_units"]
    assert found["bonferroni"]["z"] == pytest.approx(stats.norm.isf(0.025 / z.size))
    assert found["fpr"]["n_units"] > found["fdr"]["n_units"] >= found["bonferroni"]["n_units"] > 0
    rejected = stats.false_discovery_control(2 * stats.norm.sf(np.abs(z))) <= 0.05
    assert found["fdr"]["n_units"] == rejected.sum()


def test_nothing_above_the_threshold_is_an_empty_map_and_table(mask_img):
    z_img = unmask(np.full(int(mask_img.get_fdata().sum()), 0.1), mask_img)
    for height_control in ("fdr", "bonferroni", "fpr"):
        threshold = height_threshold(apply_mask(z_img, mask_img), height_control=height_control)
        kept, table = kept_and_listed(z_img, threshold)
        assert not kept.any()
        assert table.empty
    assert thresholds(apply_mask(z_img, mask_img))["fdr"] == {"z": None, "n_units": 0}


def test_the_cluster_table_finds_the_planted_block(mask_img):
    values = np.zeros((7, 8, 9))
    values[2:5, 2:5, 2:5] = 6
    values[5, 6, 7] = -7
    z_img = unmask(values[mask_img.get_fdata() > 0], mask_img)
    _, table = kept_and_listed(z_img, 3.0, cluster_threshold=5)
    sizes = table["Cluster Size (mm3)"].dropna().astype(float).tolist()
    assert max(sizes) == 27 * 8
    assert len(kept_and_listed(z_img, 3.0)[1]) > len(table)


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
    _, ours = kept_and_listed(z_img, 3.5, cluster_threshold=cluster_threshold, min_distance=5.0)
    columns = ["X", "Y", "Z", "Peak Stat"]
    np.testing.assert_allclose(
        ours[columns].astype(float).sort_values(columns),
        theirs[columns].astype(float).sort_values(columns),
        rtol=1e-6,
    )
    assert len(ours) > 3
    sizes = pd.to_numeric(ours["Cluster Size (mm3)"], errors="coerce").dropna()
    assert sizes.is_monotonic_decreasing
    threshold = height_threshold(apply_mask(z_img, mask_img), alpha=0.01, height_control="fpr")
    kept, _ = kept_and_listed(z_img, threshold, cluster_threshold=cluster_threshold)
    expected, _ = threshold_stats_img(
        z_img, mask_img=mask_img, alpha=0.01, height_control="fpr",
        cluster_threshold=cluster_threshold,
    )  # fmt: skip
    np.testing.assert_allclose(kept, expected.get_fdata(), rtol=1e-6)


def test_true_discoveries_bound_the_share_in_the_planted_block(mask_img):
    values, _ = group(mask_img, effect=4.0)
    z_img = unmask(group_statistics(values).z, mask_img)
    bound = true_discoveries(z_img, mask_img=mask_img, threshold=3.0).get_fdata()
    assert 0.3 < bound[2:5, 2:5, 2:5].max() <= 1
    assert bound[6:, 6:, 7:].max() == 0


def test_permutation_finds_the_planted_block_family_wise(mask_img):
    values, _ = group(mask_img, effect=4.0, n=10)
    maps = permutation_test(values, mask_img=mask_img, n_perm=100, tfce=True, threshold=0.01)
    inside = maps["logp_max_t"].get_fdata()[2:5, 2:5, 2:5]
    assert (inside > -np.log10(0.05)).mean() > 0.8
    assert maps["logp_max_tfce"].get_fdata()[3, 3, 3] > -np.log10(0.05)
    assert {"t", "tfce", "size", "mass", "logp_max_size", "logp_max_mass"} < set(maps)


def test_permutation_without_tfce_gives_the_voxel_map_alone(mask_img):
    values, _ = group(mask_img)
    assert list(permutation_test(values, mask_img=mask_img, n_perm=20)) == ["logp_max_t"]


def test_one_participant_is_refused(mask_img):
    values, _ = group(mask_img, n=1)
    message = r"found 1 participant\(s\), a group needs at least 2"
    with pytest.raises(InferenceError, match=message):
        group_statistics(values)
    with pytest.raises(InferenceError, match=message):
        permutation_test(values, mask_img=mask_img)


def simulate(rng, *, n_units=60, n_participants=4, n_prompts=12, effect=0.0, n_active=0):
    participants = np.repeat(np.arange(n_participants), n_prompts)
    on = np.tile(np.arange(n_prompts) >= n_prompts // 2, n_participants)
    values = rng.standard_normal((on.size, n_units))
    values += 3 * rng.standard_normal((n_participants, n_units))[participants]
    values[np.ix_(on, np.arange(n_active))] += effect
    return values, on, participants


def test_one_participant_is_the_two_sample_t_test():
    values, on, participants = simulate(np.random.default_rng(0), n_participants=1)
    result = pooled_test(values, on, participants, n_perm=10)
    expected = stats.ttest_ind(values[on], values[~on])
    np.testing.assert_allclose(result.t, expected.statistic, rtol=1e-4)
    np.testing.assert_allclose(result.effect, values[on].mean(0) - values[~on].mean(0), rtol=1e-4)
    assert result.dof == values.shape[0] - 2


def test_participants_have_their_own_intercept():
    values, on, participants = simulate(np.random.default_rng(1))
    design = np.column_stack([on, *(participants == label for label in range(4))]).astype(float)
    beta, residual, *_ = np.linalg.lstsq(design, values, rcond=None)
    error = np.sqrt(residual / 43 * np.linalg.inv(design.T @ design)[0, 0])
    result = pooled_test(values, on, participants, n_perm=10)
    assert result.dof == 43
    np.testing.assert_allclose(result.t, beta[0] / error, rtol=1e-4)
    np.testing.assert_allclose(result.d, beta[0] / np.sqrt(residual / 43), rtol=1e-4)


def test_family_wise_rate_and_uncorrected_rate_under_the_null():
    rng = np.random.default_rng(2)
    hits, exceed = 0, []
    for simulation in range(200):
        result = pooled_test(*simulate(rng), n_perm=199, random_state=simulation)
        hits += bool((result.p_fwe <= 0.05).any())
        exceed.append((result.p <= 0.05).mean())
    assert 3 <= hits <= 19  # binomial, 200 draws at 0.05: 99.8 % of outcomes
    assert np.mean(exceed) == pytest.approx(0.05, abs=0.006)


def test_planted_units_are_found_and_no_others():
    rng = np.random.default_rng(3)
    result = pooled_test(*simulate(rng, effect=2.0, n_active=5), n_perm=999)
    assert (result.p_fwe[:5] <= 0.05).all()
    assert (result.p_fwe[5:] > 0.05).all()
    np.testing.assert_allclose(result.effect[:5], 2, atol=1)
    assert (np.abs(result.t) >= result.threshold(0.05)).tolist() == (result.p_fwe <= 0.05).tolist()
    assert result.threshold(0.0005) == np.inf


def test_shared_baseline_shift_of_a_participant_is_no_effect():
    values, on, participants = simulate(np.random.default_rng(4))
    shifted = values + 50.0 * participants[:, np.newaxis]
    first, second = (pooled_test(v, on, participants, n_perm=49) for v in (values, shifted))
    np.testing.assert_allclose(first.t, second.t, rtol=1e-3, atol=1e-4)


def test_a_still_unit_has_no_evidence():
    values, on, participants = simulate(np.random.default_rng(5))
    values[:, 7] = 1.5
    result = pooled_test(values, on, participants, n_perm=49)
    assert (result.t[7], result.p[7], result.p_fwe[7], result.d[7]) == (0, 1, 1, 0)


def test_bad_input_is_refused():
    values, on, participants = simulate(np.random.default_rng(6))
    with pytest.raises(InferenceError, match="participant 2 has 0 on and 12 off prompts"):
        pooled_test(values, on & (participants != 2), participants)
    with pytest.raises(InferenceError, match="leave no residual"):
        pooled_test(values[5:7], on[5:7], participants[5:7])
