"""Group analysis of a brain or of a model
=======================================

One group analysis for any fMRIPrep-like folder: a scanned brain, or a scanned language model::

    python group_analysis.py HUMAN main MNI out/human --contrast c0
    python group_analysis.py MY-SCAN pathology SmolLM2135M out/model --beside out/human

Shown: the same lines of nilearn fit every participant of a task, test the mean effect over
participants, and write a z map, a table of clusters and a figure. `--beside` draws another
output of this script to the right. A model has no haemodynamic response: where the dataset has
series that were convolved with one (`record --hrf glover`: `desc-hrf_bold`), they are taken, and
both sides get the same model; else give `--hrf none`. Nothing here knows llm2bids.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn import plotting
from nilearn.datasets import load_mni152_template
from nilearn.glm import threshold_stats_img
from nilearn.glm.first_level import first_level_from_bids
from nilearn.glm.second_level import SecondLevelModel
from nilearn.image import load_img, new_img_like
from nilearn.masking import intersect_masks
from nilearn.reporting import get_clusters_table

mpl.use("Agg")
SHOWN = 3.1
"""Least |z| in the figure, p < 0.001 at one side, not corrected; the table and the count are."""


def find_derivative(bids_dir):
    """Find the folder of preprocessed series: `derivatives`, or the only one in it with any."""
    derivatives = Path(bids_dir) / "derivatives"
    found = sorted({path.parents[2] for path in derivatives.rglob("sub-*/func/*_bold.nii*")})
    found += sorted({path.parents[3] for path in derivatives.rglob("sub-*/ses-*/func/*_bold.nii*")})
    if len(found) != 1:
        names = ", ".join(str(path) for path in found) or "none"
        raise SystemExit(f"{derivatives}: expected one folder of series, found {names}; "
                         "name it with --derivatives")  # fmt: skip
    return str(found[0].relative_to(bids_dir))


def choose_series(bids_dir, derivative, hrf):
    """Take series with a haemodynamic response where the model has one and the dataset too."""
    with_response = hrf != "none" and any((bids_dir / derivative).rglob("sub-*_desc-hrf_bold.nii*"))
    return "hrf" if with_response else "preproc"


def choose_confounds(table, names):
    """Keep the named columns; without names motion where there is any, and all columns elsewhere.

    fMRIPrep writes hundreds, with gaps in the first rows of derivatives; nobody wants all of them.
    """
    motion = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    if names is None:
        names = motion if set(motion) <= set(table.columns) else list(table.columns)
    return table[names].fillna(0)


def find_mask(bids_dir, derivative, task, space):
    """Take the voxels that all runs' brain masks have; None, for nilearn's own, without masks."""
    pattern = f"sub-*_task-{task}_*space-{space}*_desc-brain_mask.nii*"
    found = [str(path) for path in sorted((bids_dir / derivative).rglob(pattern))]
    # a model's panels are no connected component
    return intersect_masks(found, threshold=1, connected=False) if found else None


def fit_participants(options, derivative, mask):
    """Fit the first level; return the effect map of each participant."""
    desc = options.desc or choose_series(options.bids_dir, derivative, options.hrf)
    models, imgs, events, confounds = first_level_from_bids(
        options.bids_dir,
        options.task,
        options.space,
        derivatives_folder=derivative,
        hrf_model=None if options.hrf == "none" else options.hrf,
        smoothing_fwhm=options.smoothing,
        # the group level takes effects alone; whitening by AR(1), nilearn's default, leaves of a
        # convolved series little but the edges of its blocks
        noise_model="ols",
        img_filters=[("desc", desc)],
        mask_img=mask,
    )
    conditions = sorted({name for runs in events for run in runs for name in run["trial_type"]})
    contrast = options.contrast or (conditions[0] if len(conditions) == 1 else None)
    if contrast is None:
        raise SystemExit(f"several trial types ({', '.join(conditions)}): choose with --contrast")
    effects = []
    for model, img, event, tables in zip(models, imgs, events, confounds, strict=True):
        chosen = [choose_confounds(table, options.confounds) for table in tables]
        model.fit(img, event, chosen)
        effects.append(model.compute_contrast(contrast, output_type="effect_size"))
    return effects, contrast


def fit_group(effects, mask, alpha):
    """Test the mean over participants; return its z map and the threshold for this FDR."""
    design = pd.DataFrame({"intercept": np.ones(len(effects))})
    group = SecondLevelModel(mask_img=mask).fit(effects, design_matrix=design)
    z_map = group.compute_contrast("intercept", output_type="z_score")
    kept, threshold = threshold_stats_img(z_map, alpha=alpha, height_control="fdr")
    return z_map, kept, float(threshold)


def find_background(bids_dir, derivative, space):
    """Take the first participant's anatomy in the space, or nilearn's template without one."""
    found = sorted((bids_dir / derivative).rglob(f"sub-*_space-{space}*_desc-preproc_T1w.nii*"))
    anatomy = load_img(found[0]) if found else load_mni152_template()
    values = anatomy.get_fdata()
    # a few bright voxels would leave the rest black
    return new_img_like(anatomy, np.minimum(values, np.percentile(values[values > 0], 98)))


def choose_cuts(z_map, n_cuts=3, apart=3):
    """Choose the axial slices with most voxels to show, in mm, at least some slices apart."""
    counts = np.sum(np.abs(np.nan_to_num(z_map.get_fdata())) > SHOWN, axis=(0, 1))
    chosen = []
    for k in np.argsort(-counts, kind="stable"):
        if len(chosen) < n_cuts and all(abs(k - other) >= apart for other in chosen):
            chosen.append(int(k))
    return [float(z_map.affine[2, 2] * k + z_map.affine[2, 3]) for k in sorted(chosen)]


def draw(folders, file):
    """Draw the z maps of one or more output folders side by side, each on its own anatomy."""
    figure, axes = plt.subplots(1, len(folders), figsize=(8 * len(folders), 3), squeeze=False)
    for axis, folder in zip(axes[0], folders, strict=True):
        about = json.loads((folder / "about.json").read_text())
        plotting.plot_stat_map(
            folder / "z.nii.gz",
            bg_img=folder / "background.nii.gz",
            threshold=SHOWN,
            display_mode="z",
            cut_coords=choose_cuts(load_img(folder / "z.nii.gz")),
            axes=axis,
            figure=figure,
            annotate=False,
        )
        axis.set_title(f"{about['title']}, {about['n_participants']} participants, |z| > {SHOWN}")
    figure.savefig(file, dpi=100)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description="Group analysis of a brain or of a model")
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("task")
    parser.add_argument("space")
    parser.add_argument("out", type=Path)
    parser.add_argument("--contrast", help="as nilearn's; default: the only trial type")
    parser.add_argument("--derivatives", help="folder in BIDS_DIR; default: the only one")
    parser.add_argument("--desc", help="default: hrf where there is one, else preproc")
    parser.add_argument("--hrf", default="glover", choices=["glover", "spm", "none"])
    parser.add_argument("--confounds", nargs="*", help="columns; default: motion, or all")
    parser.add_argument("--smoothing", type=float, help="mm")
    parser.add_argument("--alpha", type=float, default=0.05, help="false discovery rate")
    parser.add_argument("--beside", type=Path, help="another output of this script")
    options = parser.parse_args()

    derivative = options.derivatives or find_derivative(options.bids_dir)
    mask = find_mask(options.bids_dir, derivative, options.task, options.space)
    effects, contrast = fit_participants(options, derivative, mask)
    z_map, kept, threshold = fit_group(effects, mask, options.alpha)
    clusters = get_clusters_table(z_map, stat_threshold=2.3, cluster_threshold=3)

    options.out.mkdir(parents=True, exist_ok=True)
    z_map.to_filename(options.out / "z.nii.gz")
    find_background(options.bids_dir, derivative, options.space).to_filename(
        options.out / "background.nii.gz"
    )
    clusters.to_csv(options.out / "clusters.tsv", sep="\t", index=False)
    peak = np.unravel_index(np.nanargmax(z_map.get_fdata()), z_map.shape)
    about = {
        "title": f"{options.bids_dir.name}: {contrast} ({options.space})",
        "n_participants": len(effects),
        "n_voxels": int(np.count_nonzero(kept.get_fdata())),
        "threshold": threshold,
        "peak": (z_map.affine @ [*peak, 1])[:3].tolist(),
        "peak_z": float(z_map.get_fdata()[peak]),
    }
    (options.out / "about.json").write_text(json.dumps(about, indent=2))
    draw([options.out, *([options.beside] if options.beside else [])], options.out / "figure.png")
    print(f"{about['title']}: {len(effects)} participants, {about['n_voxels']} voxels above "
          f"z = {threshold:.2f} (FDR {options.alpha}), peak {about['peak_z']:.1f} at "
          f"{about['peak']} mm")  # fmt: skip


if __name__ == "__main__":
    main()
