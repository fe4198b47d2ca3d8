"""Every line of the table "Pass this mask or option": what is passed, and what happens without."""

import re
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn import plotting
from nilearn.decomposition import CanICA, DictLearning
from nilearn.glm import save_glm_to_bids
from nilearn.glm.first_level import FirstLevelModel
from nilearn.glm.second_level import SecondLevelModel, non_parametric_inference
from nilearn.image import concat_imgs, math_img
from nilearn.interfaces.fmriprep import load_confounds
from nilearn.masking import compute_brain_mask, compute_epi_mask, intersect_masks
from nilearn.reporting import get_clusters_table

import llm2bids
from tests.brought import environment

pytestmark = [
    pytest.mark.interop,
    # nilearn's own, on a small grid: human sizes, nothing above a threshold, few iterations
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Generation of a mask has been requested"),
]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "analyse-with-nilearn.md"


@pytest.fixture(scope="module")
def anatomy(planted):
    return f"{planted.derivative}/tpl-Tiny/anat/tpl-Tiny"


@pytest.fixture(scope="module")
def units(anatomy):
    return f"{anatomy}_label-GM_mask.nii.gz"


@pytest.fixture(scope="module")
def t1w(anatomy):
    return f"{anatomy}_T1w.nii.gz"


@pytest.fixture(scope="module")
def runs(planted):
    return planted.select(task="pathology")


def fitted(planted, run, units, **options):
    model = FirstLevelModel(mask_img=units, t_r=planted.t_r(run), **options)
    return model.fit(str(run.preproc), planted.events(run))


@pytest.fixture(scope="module")
def effects(planted, runs, units):
    return [
        fitted(planted, run, units, hrf_model=None).compute_contrast(
            "pathology", output_type="effect_size"
        )
        for run in runs
    ]


@pytest.fixture(scope="module")
def z_map(effects, units):
    design = pd.DataFrame({"intercept": np.ones(len(effects))})
    return SecondLevelModel(mask_img=units).fit(effects, design_matrix=design).compute_contrast()


def n_units(planted, mask):
    return int((planted.space.to_units(mask) > 0).sum())


def test_the_table_has_these_lines_and_no_others():
    text = PAGE.read_text().partition("## Pass this")[2].partition("\n## ")[0]
    cells = [row.split(" | ")[0] for row in re.findall(r"^\| (.*`.*) \|$", text, re.M)]
    named = {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}
    assert named == {
        *("FirstLevelModel", "first_level_from_bids", "SecondLevelModel"),
        *("non_parametric_inference", "save_glm_to_bids", "generate_report"),
        *("get_clusters_table", "plot_stat_map", "view_img", "plot_carpet", "CanICA"),
        *("DictLearning", "compute_brain_mask", "intersect_masks", "Decoder", "SearchLight"),
        *("SpaceNetClassifier", "load_confounds", "Brain_Data", "Dataset"),
    }


def test_without_hrf_model_none_planted_units_are_lost(planted, runs, units, voxels_of):
    z = {
        hrf: fitted(planted, runs[0], units, hrf_model=hrf)
        .compute_contrast("pathology", output_type="z_score")
        .get_fdata()[voxels_of("pathology")]
        for hrf in (None, "glover")
    }
    assert np.median(z[None]) > np.median(z["glover"]) + 1, {k: np.median(v) for k, v in z.items()}


def test_the_second_level_takes_the_units_and_nothing_else(planted, effects, units):
    design = pd.DataFrame({"intercept": np.ones(len(effects))})
    model = SecondLevelModel(mask_img=units).fit(effects, design_matrix=design)
    assert n_units(planted, model.masker_.mask_img_) == planted.space.n_units
    assert not model.masker_.mask_img_.get_fdata()[~planted.space.grey].any()
    z = non_parametric_inference(
        effects, design_matrix=design, mask=units, n_perm=3, model_intercept=True
    )
    assert np.count_nonzero(z.get_fdata()[~planted.space.grey]) == 0


def test_save_glm_to_bids_wants_a_model_that_keeps_all(planted, runs, units, t1w, tmp_path):
    options = {"contrasts": "pathology", "bg_img": t1w, "cluster_threshold": 20}
    small = fitted(planted, runs[0], units, hrf_model=None)
    with pytest.raises(AttributeError, match="minimize_memory"):
        save_glm_to_bids(small, out_dir=tmp_path / "small", **options)
    whole = fitted(planted, runs[0], units, hrf_model=None, minimize_memory=False)
    # nilearn's table is of what it wrote last, whose largest value lies below the threshold of z;
    # if this fails, the page can say that it was mended
    save_glm_to_bids(whole, out_dir=tmp_path / "whole", **options)
    (table,) = (tmp_path / "whole").rglob("*_clusters.tsv")
    assert pd.read_csv(table, sep="\t").empty
    z = whole.compute_contrast("pathology", output_type="z_score")
    assert get_clusters_table(z, 3.1, 2)["Peak Stat"].max() > 5


def test_reports_and_tables_with_a_cluster_threshold(effects, units, t1w, z_map):
    model = SecondLevelModel(mask_img=units)
    model.fit(effects, design_matrix=pd.DataFrame({"intercept": np.ones(len(effects))}))
    report = model.generate_report(contrasts="intercept", bg_img=t1w, cluster_threshold=20)
    assert "data:image" in report.get_standalone()
    few = get_clusters_table(z_map, 2.3, cluster_threshold=5)
    assert 1 <= len(few) < len(get_clusters_table(z_map, 2.3, cluster_threshold=0))


@pytest.mark.filterwarnings("ignore:Warning. 'partition' will ignore the 'mask'")  # numpy, inside
def test_pictures_lie_on_our_anatomy(z_map, t1w, planted):
    ours = plotting.plot_stat_map(z_map, bg_img=t1w, cut_coords=(0, 0, 0))
    left, right = ours.axes["z"].ax.get_xlim()
    ours.close()
    human = plotting.plot_stat_map(z_map, cut_coords=(0, 0, 0))
    assert right - left < np.ptp(human.axes["z"].ax.get_xlim()) / 2
    human.close()
    assert "brainsprite" in plotting.view_img(z_map, bg_img=t1w).get_standalone()


def test_a_carpet_of_the_units_alone(runs, units, planted):
    drawn = {}
    for name, mask in (("units", units), ("none", None)):
        figure = plotting.plot_carpet(str(runs[0].preproc), mask_img=mask, t_r=planted.t_r(runs[0]))
        drawn[name] = max(image.get_array().shape[0] for a in figure.axes for image in a.images)
        plt.close(figure)
    assert drawn["units"] < drawn["none"] / 2


def test_decompositions_without_smoothing(runs, units, planted):
    series = [str(run.preproc) for run in runs[:2]]
    for method in (CanICA, DictLearning):
        model = method(n_components=3, mask=units, smoothing_fwhm=None, random_state=0).fit(series)
        components = model.components_img_.get_fdata()
        assert np.count_nonzero(components[planted.space.grey])
        assert not components[~planted.space.grey].any()
        assert method().smoothing_fwhm >= 4


def test_automatic_masks(runs, planted):
    series = str(runs[0].preproc)
    assert n_units(planted, compute_epi_mask(series)) == planted.space.n_units
    assert n_units(planted, compute_brain_mask(series)) < planted.space.n_units
    masks = [str(run.mask) for run in runs]
    whole = intersect_masks(masks, threshold=1, connected=False)
    assert n_units(planted, whole) == planted.space.n_units
    widest = max(site.width for site in planted.space.sites)
    assert n_units(planted, intersect_masks(masks)) <= widest


def test_confounds(runs):
    with pytest.raises(ValueError, match="motion"):
        load_confounds(str(runs[0].preproc), strategy=("motion",))
    confounds, _ = llm2bids.load_confounds(runs[0].preproc, strategy=("surprisal",))
    assert len(confounds) == nib.load(runs[0].preproc).shape[3]


def run_elsewhere(python, code, *arguments):
    command = [str(python), "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


NLTOOLS = """
import sys, warnings
warnings.simplefilter("ignore")
from nltools.data import Brain_Data
images, units = sys.argv[1:]
with_mask = Brain_Data(images, mask=units)
print(*with_mask.shape(), *Brain_Data(images).shape(), with_mask.ttest()["t"].data.argmax())
"""


@pytest.mark.slow
def test_nltools(effects, units, planted, tmp_path, voxels_of):
    python = environment("nltools", "nltools==0.5.1", "setuptools<81")
    concat_imgs(effects).to_filename(tmp_path / "effects.nii.gz")
    said = run_elsewhere(python, NLTOOLS, tmp_path / "effects.nii.gz", units)
    n_maps, n_ours, again, n_human, peak = map(int, said)
    assert (n_maps, n_ours) == (again, planted.space.n_units) == (len(effects), n_ours)
    assert n_human == 238955  # the human mask, without a word
    voxel = np.argwhere(planted.space.grey)[peak]  # in the order of numpy's masks
    assert tuple(voxel) in set(zip(*voxels_of("pathology"), strict=True))


NIMARE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from nimare.dataset import Dataset
from nimare.meta.ibma import Stouffers
units, *images = sys.argv[1:]
coordinates = {"space": "MNI", "x": [0], "y": [0], "z": [0]}  # NiMARE wants some
source = {
    f"s{n}": {"contrasts": {"1": {"coords": coordinates, "images": {"z": image},
                                  "metadata": {"sample_sizes": [24]}}}}
    for n, image in enumerate(images)
}
for options in ({"mask": units}, {}):
    found = Stouffers(use_sample_size=False).fit(Dataset(source, target="mni152_2mm", **options))
    z = found.get_map("z")
    print(*z.shape, *np.unravel_index(np.nanargmax(z.get_fdata()), z.shape))
"""


@pytest.mark.slow
def test_nimare(planted, runs, units, tmp_path, voxels_of):
    python = environment("nimare", "nimare==0.22.1")
    for run in runs:
        model = fitted(planted, run, units, hrf_model=None)
        z = model.compute_contrast("pathology", output_type="z_score")
        math_img("np.nan_to_num(img)", img=z).to_filename(tmp_path / f"{run.name}_z.nii.gz")
    said = list(
        map(int, run_elsewhere(python, NIMARE, units, *sorted(tmp_path.glob("*_z.nii.gz"))))
    )
    assert tuple(said[:3]) == planted.space.shape
    assert tuple(said[3:6]) in set(zip(*voxels_of("pathology"), strict=True))
    assert said[6:9] == [91, 109, 91]  # resampled to a human template, without a word
