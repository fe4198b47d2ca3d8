"""nilearn's first level with its own defaults: mask, response, drifts, all confounds."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm import save_glm_to_bids
from nilearn.glm.first_level import first_level_from_bids

from llm2bids.dataset.locate import locate

pytestmark = pytest.mark.interop

DERIVATIVE = "derivatives/llm2bids"
LEAST_LEFT = 0.3
"""Least share of the task's variance that the other columns may leave."""


@pytest.fixture(scope="module", params=[{}, {"hrf_model": None}], ids=["defaults", "no-hrf"])
def fitted(request, recorded):
    """Models of all participants; every warning on the way would fail the tests."""
    models, imgs, events, confounds = first_level_from_bids(
        recorded.path, "pathology", "Tiny", derivatives_folder=DERIVATIVE, **request.param
    )
    rows = zip(models, imgs, events, confounds, strict=True)
    return [model.fit(*run) for model, *run in rows]


def test_every_participant_has_a_model(fitted, recorded):
    labels = sorted({run.participant_label for run in recorded.runs})
    assert [model.subject_label for model in fitted] == labels
    assert {model.t_r for model in fitted} == {recorded.t_r(recorded.runs[0])}


def test_designs_have_full_rank_and_all_confounds(fitted, recorded):
    names = set(recorded.confounds(recorded.runs[0]).columns)
    for model in fitted:
        design = model.design_matrices_[0]
        assert np.linalg.matrix_rank(design.to_numpy()) == design.shape[1]
        assert names < set(design.columns)


def test_the_task_is_not_filtered_out(fitted):
    for model in fitted:
        design = model.design_matrices_[0]
        task = design["pathology"].to_numpy()
        others = design.drop(columns="pathology").to_numpy()
        rest = task - others @ np.linalg.lstsq(others, task, rcond=None)[0]
        assert rest.var() / task.var() >= LEAST_LEFT


def test_the_automatic_mask_takes_every_unit(fitted, recorded):
    for model in fitted:
        assert (model.masker_.mask_img_.get_fdata() > 0)[recorded.space.grey].all()


def test_white_matter_is_null_and_maps_are_not_constant(fitted, recorded):
    for model in fitted:
        z = model.compute_contrast("pathology", output_type="z_score").get_fdata()
        assert np.isfinite(z).all()
        assert z[recorded.space.white].std() == pytest.approx(1, abs=0.15)
        assert np.abs(z[recorded.space.grey]).max() > 2


def test_the_raw_folder_can_be_fitted_too(recorded):
    models, imgs, _, _ = first_level_from_bids(
        recorded.path,
        "pathology",
        "",
        derivatives_folder=".",
        sub_labels=["01"],
        slice_time_ref=0.0,
    )
    assert [model.subject_label for model in models] == ["01"]
    assert imgs == [[str(recorded.runs[1].bold)]]
    assert recorded.runs[1].task == "pathology"


# nilearn thresholds, for its table, the statistic that it wrote last: the variance of the effect
@pytest.mark.filterwarnings("ignore:The given float value must not exceed:UserWarning")
@pytest.mark.filterwarnings("ignore:No clusters found with stat higher than:UserWarning")
def test_save_glm_to_bids_and_locate(planted, voxels_of, tmp_path):
    models, imgs, events, confounds = first_level_from_bids(
        planted.path,
        "pathology",
        "Tiny",
        derivatives_folder=DERIVATIVE,
        hrf_model=None,
        minimize_memory=False,
        sub_labels=["01"],
    )
    model = models[0].fit(imgs[0], events[0], confounds[0])
    background = planted.path / "sub-01/anat/sub-01_T1w.nii.gz"
    save_glm_to_bids(model, contrasts="pathology", out_dir=tmp_path, bg_img=str(background))
    names = tmp_path / "sub-01" / "sub-01_task-pathology_space-Tiny_contrast-pathology"
    z_map = f"{names}_stat-z_statmap.nii.gz"
    z = nib.load(z_map).get_fdata()
    inside = np.where(planted.space.grey, z, -np.inf)
    strongest = np.argsort(inside, axis=None)[-12:]
    planted_ones = np.ravel_multi_index(voxels_of("pathology"), z.shape)
    assert len(set(strongest) & set(planted_ones)) >= 10
    found = locate(z_map, planted.space, threshold=float(z[voxels_of("pathology")].min()) - 1e-3)
    assert "model.layers.1.mlp.up_proj" in set(found["module"].head(3))
    design = pd.read_csv(tmp_path / "sub-01/sub-01_task-pathology_space-Tiny_design.tsv", sep="\t")
    assert len(design) == 96
    about = json.loads((tmp_path / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert (tmp_path / "sub-01/report.html").stat().st_size > 10_000
