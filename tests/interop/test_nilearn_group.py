"""nilearn's second level, thresholds, clusters, permutations, reports and pictures."""

import numpy as np
import pandas as pd
import pytest
from nilearn import plotting
from nilearn.glm import cluster_level_inference, threshold_stats_img
from nilearn.glm.first_level import first_level_from_bids
from nilearn.glm.second_level import SecondLevelModel, non_parametric_inference
from nilearn.reporting import get_clusters_table

from llm2bids.dataset.locate import locate

pytestmark = pytest.mark.interop

int64 = pytest.mark.filterwarnings("ignore:Data array used to create a new image contains 64-bit")
"""nilearn's own count of cluster sizes."""


@pytest.fixture(scope="module")
def effects(planted):
    models, imgs, events, confounds = first_level_from_bids(
        planted.path,
        "pathology",
        "Tiny",
        derivatives_folder="derivatives/llm2bids",
        hrf_model=None,
    )
    return [
        model.fit(*run).compute_contrast("pathology", output_type="effect_size")
        for model, *run in zip(models, imgs, events, confounds, strict=True)
    ]


@pytest.fixture(scope="module")
def design(effects):
    return pd.DataFrame({"intercept": np.ones(len(effects))})


@pytest.fixture(scope="module")
def units_mask(planted):
    return str(planted.derivative / "tpl-Tiny/anat/tpl-Tiny_label-GM_mask.nii.gz")


@pytest.fixture(scope="module")
def group(effects, design, units_mask):
    return SecondLevelModel(mask_img=units_mask).fit(effects, design_matrix=design)


@pytest.fixture(scope="module")
def z_map(group):
    return group.compute_contrast("intercept", output_type="z_score")


@pytest.fixture(scope="module")
def background(planted):
    return str(planted.path / "sub-01/anat/sub-01_T1w.nii.gz")


def test_effects_have_the_planted_size(group, voxels_of):
    effect = group.compute_contrast("intercept", output_type="effect_size").get_fdata()
    # 200 counts of 10000 are 2 % of the mean; the mean of a run has a third of it already
    assert effect[voxels_of("pathology")].mean() == pytest.approx(200 / 10067 * 100, rel=0.05)
    assert np.abs(effect[voxels_of("archeology")]).mean() < 0.4


@pytest.fixture(scope="module")
def group_of_defaults(effects, design):
    return SecondLevelModel().fit(effects, design_matrix=design)


def test_a_mask_of_its_own_takes_every_unit(group_of_defaults, planted):
    mask = group_of_defaults.masker_.mask_img_.get_fdata() > 0
    assert mask[planted.space.grey].all()


def test_threshold_stats_img_keeps_the_planted_units(z_map, planted, voxels_of):
    kept, threshold = threshold_stats_img(
        z_map, alpha=0.05, height_control="fdr", cluster_threshold=5, two_sided=False
    )
    found = kept.get_fdata() > 0
    assert found[voxels_of("pathology")].all()
    assert not found[voxels_of("archeology")].any()
    assert found.sum() <= 20
    table = locate(kept, planted.space, threshold=0)
    assert (table["module"] == "model.layers.1.mlp.up_proj").sum() == 12
    assert table["value"].min() >= threshold


def test_clusters_are_listed_at_the_planted_place(z_map, planted, voxels_of):
    table = get_clusters_table(z_map, stat_threshold=2.3, cluster_threshold=5)
    largest = table.iloc[0]
    at = np.linalg.solve(planted.space.affine, [*largest[["X", "Y", "Z"]], 1])[:3].round()
    assert tuple(at.astype(int)) in set(zip(*voxels_of("pathology"), strict=True))
    assert float(largest["Cluster Size (mm3)"]) >= 12 * 2**3


def test_cluster_level_inference_bounds_the_true_share(z_map, voxels_of):
    share = cluster_level_inference(z_map, threshold=2.3, alpha=0.05).get_fdata()
    assert (share[voxels_of("pathology")] >= 0.25).all()
    assert (share[voxels_of("archeology")] == 0).all()


@int64
def test_permutations_find_the_planted_cluster(effects, design, units_mask, voxels_of):
    found = non_parametric_inference(
        effects,
        design_matrix=design,
        mask=units_mask,
        n_perm=200,
        two_sided_test=True,
        threshold=0.01,
        random_state=1,
    )
    sizes = found["size"].get_fdata()
    assert set(sizes[voxels_of("pathology")]) == {sizes.max()}
    # six participants have 2 ** 6 sign flips: no p below 2 / 64 exists
    p = 10 ** -found["logp_max_size"].get_fdata()[voxels_of("pathology")]
    assert p.min() < 0.1


@int64
@pytest.mark.slow
def test_tfce_is_largest_in_the_planted_cluster(effects, design, units_mask, voxels_of):
    found = non_parametric_inference(
        effects,
        design_matrix=design,
        mask=units_mask,
        n_perm=20,
        two_sided_test=True,
        tfce=True,
        random_state=1,
    )
    tfce = found["tfce"].get_fdata()
    peak = tuple(map(int, np.unravel_index(tfce.argmax(), tfce.shape)))
    assert peak in set(zip(*voxels_of("pathology"), strict=True))
    assert np.median(tfce[voxels_of("pathology")]) > 10 * np.median(tfce[tfce > 0])


def test_generate_report(group_of_defaults, background, tmp_path):
    report = group_of_defaults.generate_report(contrasts="intercept", bg_img=background)
    report.save_as_html(str(tmp_path / "group.html"))
    text = (tmp_path / "group.html").read_text()
    assert "Statistical Report" in text or "Second Level" in text
    assert text.count("data:image") >= 2


def test_plot_stat_map_draws_on_our_anatomy(z_map, background, tmp_path):
    drawn = plotting.plot_stat_map(z_map, bg_img=background, threshold=2.3, cut_coords=(0, 14, 0))
    left, right = drawn.axes["y"].ax.get_xlim()
    drawn.savefig(tmp_path / "map.png")
    drawn.close()
    assert -40 < left < right < 40  # the grid of the tiny model, not that of a human head
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.filterwarnings("ignore:Warning. 'partition' will ignore the 'mask'")  # numpy, inside
def test_view_img_has_a_page(z_map, background, tmp_path):
    page = plotting.view_img(z_map, bg_img=background, threshold=2.3)
    page.save_as_html(str(tmp_path / "map.html"))
    assert "brainsprite" in (tmp_path / "map.html").read_text()
