"""nilearn's maskers, atlases, decompositions and connectomes."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.connectome import ConnectivityMeasure
from nilearn.decomposition import CanICA, DictLearning
from nilearn.maskers import NiftiLabelsMasker, NiftiMasker

pytestmark = pytest.mark.interop

SOURCES = (
    "model.layers.0.mlp.up_proj",
    "model.layers.1.mlp.gate_proj",
    "model.layers.2.mlp.act_fn",
)
"""Sites that get a time course of their own, for decompositions to find."""


@pytest.fixture(scope="module")
def anatomy(planted):
    return planted.derivative / "tpl-Tiny/anat"


@pytest.fixture(scope="module")
def units_mask(anatomy):
    return str(anatomy / "tpl-Tiny_label-GM_mask.nii.gz")


@pytest.fixture(scope="module")
def runs(planted):
    return planted.select(task="pathology")


def of_site(dataset, module):
    chosen = dataset.space.unit_table()["module"].to_numpy() == module
    return tuple(dataset.space.voxels[chosen].T)


def test_masker_there_and_back(planted, runs, units_mask):
    masker = NiftiMasker(mask_img=units_mask, standardize=None)
    series = masker.fit_transform(str(runs[0].preproc))
    image = nib.load(runs[0].preproc)
    counts = image.get_fdata()
    assert series.shape == (96, planted.space.n_units)
    back = masker.inverse_transform(series)
    np.testing.assert_array_equal(back.get_fdata()[planted.space.grey], counts[planted.space.grey])
    assert np.array_equal(planted.space.to_units(back)[5], planted.space.to_units(image)[5])


@pytest.mark.parametrize("atlas", ["sites", "heads"])
def test_atlas_gives_one_named_series_for_each_label(planted, runs, anatomy, atlas):
    lut = anatomy / f"tpl-Tiny_atlas-{atlas}_dseg.tsv"
    masker = NiftiLabelsMasker(
        str(anatomy / f"tpl-Tiny_atlas-{atlas}_dseg.nii.gz"), lut=str(lut), standardize=None
    )
    series = masker.fit_transform(str(runs[0].preproc))
    table = pd.read_csv(lut, sep="\t", keep_default_na=False)
    assert list(masker.region_names_.values()) == table["name"].tolist()
    assert series.shape == (96, len(table))
    if atlas == "sites":
        row = table.index[table["module"] == "model.layers.1.mlp.up_proj"][0]
        counts = nib.load(runs[0].preproc).get_fdata()
        panel = counts[of_site(planted, "model.layers.1.mlp.up_proj")]
        np.testing.assert_allclose(series[:, row], panel.mean(axis=0), rtol=1e-5)


def test_connectome_joins_sites_that_copy_each_other(runs, anatomy):
    lut = anatomy / "tpl-Tiny_atlas-sites_dseg.tsv"
    masker = NiftiLabelsMasker(
        str(anatomy / "tpl-Tiny_atlas-sites_dseg.nii.gz"),
        lut=str(lut),
        standardize="zscore_sample",
    )
    series = [masker.fit_transform(str(run.preproc)) for run in runs]
    measure = ConnectivityMeasure(kind="correlation", standardize="zscore_sample")
    matrices = measure.fit_transform(series)
    names = pd.read_csv(lut, sep="\t", keep_default_na=False)["module"].tolist()
    assert matrices.shape == (len(runs), len(names), len(names))
    one = names.index("model.layers.0")
    other = names.index("model.layers.1.input_layernorm")
    unrelated = np.abs(matrices[:, one]).mean()
    # the normalised residual stream follows the residual stream
    assert np.abs(matrices[:, one, other]).mean() > unrelated
    tangent = ConnectivityMeasure(kind="tangent", standardize="zscore_sample").fit_transform(series)
    assert np.isfinite(tangent).all()


@pytest.fixture(scope="module")
def with_sources(recorded):
    """Real series, to which three sites add a time course of their own."""
    rng = np.random.default_rng(0)
    images = []
    for run in recorded.select(task="pathology")[:4]:
        image = nib.load(run.preproc)
        counts = np.asarray(image.dataobj, dtype=np.float32)
        for module in SOURCES:
            counts[of_site(recorded, module)] += rng.normal(0, 3000, counts.shape[3])
        images.append(nib.Nifti1Image(counts, image.affine))
    return images


@pytest.mark.filterwarnings("ignore:.* did not converge")  # scikit-learn, on any small brain
@pytest.mark.parametrize(
    ("method", "options"),
    [(CanICA, {"n_init": 3}), (DictLearning, {"n_epochs": 1, "alpha": 1})],
    ids=["CanICA", "DictLearning"],
)
def test_decompositions_find_the_sources(recorded, with_sources, units_mask, method, options):
    model = method(
        n_components=10, mask=units_mask, smoothing_fwhm=None, random_state=0, **options
    ).fit(with_sources)
    components = model.components_img_.get_fdata()
    assert not components[~recorded.space.grey].any()
    weights = components[recorded.space.grey].T
    weights = weights[weights.std(axis=1) > 0]
    for module in SOURCES:
        place = np.zeros(recorded.space.shape)
        place[of_site(recorded, module)] = 1
        alike = [abs(np.corrcoef(row, place[recorded.space.grey])[0, 1]) for row in weights]
        assert max(alike) > 0.8
