"""nilearn's decoders on one image for each prompt, tested on participants they have not seen."""

import nibabel as nib
import numpy as np
import pytest
from nilearn.decoding import Decoder, SearchLight, SpaceNetClassifier
from nilearn.image import concat_imgs, index_img, new_img_like
from sklearn.model_selection import LeaveOneGroupOut

pytestmark = [
    pytest.mark.interop,
    # nilearn compares every brain with a human one
    pytest.mark.filterwarnings("ignore:Brain mask is smaller than"),
]

LAST_OF_PROMPT = slice(3, None, 4)


@pytest.fixture(scope="module")
def samples(planted):
    """Images of the last token of each prompt, whether the task was on, and participants."""
    runs = planted.select(task="pathology", participant_label=["01", "02", "03", "04"])
    images = concat_imgs([index_img(nib.load(run.preproc), LAST_OF_PROMPT) for run in runs])
    labels = np.tile(np.repeat(["off", "on", "off"], 8), len(runs))
    return images, labels, np.repeat(np.arange(len(runs)), 24)


@pytest.fixture(scope="module")
def units_mask(planted):
    return str(planted.derivative / "tpl-Tiny/anat/tpl-Tiny_label-GM_mask.nii.gz")


def test_decoder_generalises_to_other_participants(samples, units_mask, planted, voxels_of):
    images, labels, participants = samples
    decoder = Decoder(
        estimator="svc",
        mask=units_mask,
        cv=LeaveOneGroupOut(),
        screening_percentile=100,
        scoring="balanced_accuracy",
        standardize="zscore_sample",
    )
    decoder.fit(images, labels, groups=participants)
    assert np.mean(decoder.cv_scores_["on"]) > 0.65
    weights = np.abs(decoder.coef_img_["on"].get_fdata())
    others = weights[planted.space.grey].mean()
    assert weights[voxels_of("pathology")].mean() > 2 * others


@pytest.mark.slow
def test_spacenet_puts_weight_on_the_planted_patch(samples, units_mask, planted, voxels_of):
    images, labels, _ = samples
    model = SpaceNetClassifier(
        mask=units_mask,
        penalty="tv-l1",
        cv=2,
        n_alphas=3,
        max_iter=50,
        l1_ratios=0.5,
        standardize=True,
    )
    model.fit(images, labels)
    assert np.mean(model.predict(images) == labels) > 0.8
    weights = np.abs(model.coef_img_.get_fdata()).reshape(planted.space.shape)
    assert weights[voxels_of("pathology")].mean() > 3 * weights[planted.space.grey].mean()


@pytest.mark.slow
def test_searchlight_finds_the_planted_patch(samples, units_mask, planted, voxels_of):
    images, labels, participants = samples
    modules = planted.space.unit_table()["module"].to_numpy()
    wanted = np.isin(modules, ["model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"])
    centres = np.zeros(planted.space.shape, dtype=np.uint8)
    centres[tuple(planted.space.voxels[wanted].T)] = 1
    light = SearchLight(
        units_mask,
        process_mask_img=new_img_like(units_mask, centres),
        radius=3,
        estimator="svc",
        scoring="balanced_accuracy",
        cv=LeaveOneGroupOut(),
    )
    light.fit(images, labels, groups=participants)
    patch = light.scores_[voxels_of("pathology")]
    others = centres.astype(bool)
    others[voxels_of("pathology")] = False
    assert patch.max() > 0.8
    assert patch.mean() > light.scores_[others].mean() + 0.1
