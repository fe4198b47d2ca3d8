"""A small synthetic human dataset
===============================

Make a small synthetic human dataset in fMRIPrep's layout, with nilearn's own generators::

    python synthetic_human.py FOLDER [PARTICIPANTS]

Shown: the other half of a comparison with `group_analysis.py`, for those without a human dataset
at hand. Folders, events, sidecars and confounds come from `nilearn._utils.data_gen`. Its noise of a
few voxels is then replaced by two minutes of noise on the MNI152 template that comes with nilearn,
in voxels of 6 mm, where two spheres (left and right superior temporal gyrus) respond to the trial
type ``c0``. Nobody was scanned.
"""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn._utils.data_gen import _basic_confounds, create_fake_bids_dataset
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from nilearn.glm.first_level import compute_regressor
from nilearn.image import smooth_img

TASK, SPACE, RESPONDS_TO = "main", "MNI", "c0"
T_R, N_VOLUMES = 1.5, 80
CENTRES = ((-58, -22, 4), (58, -22, 4))
RADIUS = 14
RESOLUTION = 6


def sphere_mask(shape, affine):
    """Mark the voxels that respond."""
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    places = nib.affines.apply_affine(affine, voxels)
    near = [np.linalg.norm(places - centre, axis=-1) <= RADIUS for centre in CENTRES]
    return np.any(near, axis=0)


def make_series(events, anatomy, mask, rng):
    """Make one series: the anatomy as baseline, smooth noise, and a response in the spheres."""
    rows = events[events["trial_type"] == RESPONDS_TO]
    condition = np.vstack([rows["onset"], rows["duration"], np.ones(len(rows))])
    response, _ = compute_regressor(condition, "glover", np.arange(N_VOLUMES) * T_R)
    noise = nib.Nifti1Image(rng.normal(size=(*mask.shape, N_VOLUMES)), anatomy.affine)
    noise = smooth_img(noise, 8).get_fdata()
    signal = sphere_mask(mask.shape, anatomy.affine)[..., np.newaxis] * response[:, 0]
    change = 8 * noise / noise.std() + 20 * signal / response.max() * rng.uniform(0.7, 1.3)
    baseline = 800 + 400 * anatomy.get_fdata() / anatomy.get_fdata().max()
    counts = np.where(mask, baseline, 100)[..., np.newaxis] + change
    image = nib.Nifti1Image(counts.round().astype(np.int16), anatomy.affine)
    image.header.set_zooms((*anatomy.header.get_zooms()[:3], T_R))
    image.header.set_xyzt_units("mm", "sec")
    return image


def make(folder, n_participants=6):
    """Make the dataset; return its folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    root = create_fake_bids_dataset(
        base_dir=folder, n_sub=n_participants, n_ses=0, tasks=[TASK], n_runs=[1], spaces=[SPACE]
    )
    anatomy = load_mni152_template(resolution=RESOLUTION)
    brain = load_mni152_brain_mask(resolution=RESOLUTION)
    mask = brain.get_fdata() > 0
    rng = np.random.default_rng(0)
    for raw in sorted(root.glob("sub-*/func/*_bold.nii.gz")):
        name = raw.name.removesuffix("_bold.nii.gz")
        prepared = root / "derivatives" / raw.parent.relative_to(root)
        events = pd.read_csv(raw.with_name(f"{name}_events.tsv"), sep="\t")
        confounds = _basic_confounds(N_VOLUMES, rand_gen=rng)
        confounds.to_csv(prepared / f"{name}_desc-confounds_timeseries.tsv", sep="\t", index=False)
        about = {"RepetitionTime": T_R, "StartTime": 0.0, "SkullStripped": False}
        sidecar = prepared / f"{name}_space-{SPACE}_desc-preproc_bold.json"
        sidecar.write_text(json.dumps(about))
        series = make_series(events, anatomy, mask, rng)
        series.to_filename(prepared / f"{name}_space-{SPACE}_desc-preproc_bold.nii.gz")
        brain.to_filename(prepared / f"{name}_space-{SPACE}_desc-brain_mask.nii.gz")
        label = name.partition("_")[0]
        place = prepared.parent / "anat" / f"{label}_space-{SPACE}_desc-preproc_T1w.nii.gz"
        place.parent.mkdir(exist_ok=True)
        anatomy.to_filename(place)
    return root


if __name__ == "__main__":
    print(make(sys.argv[1], *map(int, sys.argv[2:])))
