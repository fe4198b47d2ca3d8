"""Dissimilarities of items in people's brains
===========================================

How unlike the same words, sentences or pictures are in the voxels of each person, for
``llm2bids compare``::

    python people_rdms.py HUMAN onebacktask MNI people.hdf5 --column word
    llm2bids compare MY-READING people.hdf5 --items words

Shown: nilearn's design with a regressor for each item, in each run of an fMRIPrep-like folder; the
items' patterns are its coefficients over the noise of each voxel; rsatoolbox makes correlation
distances. With `--regions` a labelled image in the same space parts the voxels. A dataset of ours
is taken too (``--hrf none``), as it has fMRIPrep's names.
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from group_analysis import choose_confounds, find_derivative, find_mask
from nilearn.glm.first_level import first_level_from_bids, make_first_level_design_matrix
from nilearn.image import resample_to_img
from nilearn.masking import apply_mask
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs, calc_rdm


def item_patterns(image, events, confounds, mask, options):
    """Give the pattern of each item of a run: names, and (n_items, n_voxels)."""
    events = events[events[options.column].notna()]
    items = sorted(events[options.column].astype(str).unique())
    coded = events.assign(trial_type=events[options.column].astype(str).map(items.index))
    coded["trial_type"] = [f"item{number}" for number in coded["trial_type"]]
    series = apply_mask(image, mask)
    t_r = float(nib.load(image).header.get_zooms()[3])
    design = make_first_level_design_matrix(
        np.arange(len(series)) * t_r + options.start_time,
        coded[["onset", "duration", "trial_type"]],
        hrf_model=None if options.hrf == "none" else options.hrf,
        drift_model=None if options.hrf == "none" else "cosine",
        add_regs=choose_confounds(confounds, options.confounds),
    )
    matrix = design.to_numpy()
    coefficients = np.linalg.lstsq(matrix, series, rcond=None)[0]
    noise = (series - matrix @ coefficients).std(axis=0)
    rows = [list(design).index(f"item{number}") for number in range(len(items))]
    scaled = np.divide(coefficients[rows], noise, where=noise > 0, out=np.zeros_like(series[rows]))
    return items, scaled


def person_patterns(images, events, confounds, mask, options):
    """Average each item over a person's runs."""
    rows = {}
    for run in zip(images, events, confounds, strict=True):
        for item, pattern in zip(*item_patterns(*run, mask, options), strict=True):
            rows.setdefault(item, []).append(pattern)
    items = sorted(rows)
    return items, np.stack([np.mean(rows[item], axis=0) for item in items])


def main():
    """Write the file."""
    parser = argparse.ArgumentParser(description="Dissimilarities of items in people's brains")
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("task")
    parser.add_argument("space")
    parser.add_argument("out", type=Path, help="file, .hdf5")
    parser.add_argument("--column", default="trial_type", help="of events: what an item is")
    parser.add_argument("--regions", type=Path, help="image of labels in the space")
    parser.add_argument("--derivatives", help="folder in BIDS_DIR; default: the only one")
    parser.add_argument("--desc", default="preproc")
    parser.add_argument("--hrf", default="glover", choices=["glover", "spm", "none"])
    parser.add_argument("--start-time", type=float, default=0.0, help="of a volume, s")
    parser.add_argument("--confounds", nargs="*", help="columns; default: motion, or all")
    options = parser.parse_args()

    derivative = options.derivatives or find_derivative(options.bids_dir)
    mask = find_mask(options.bids_dir, derivative, options.task, options.space)
    models, images, events, confounds = first_level_from_bids(
        options.bids_dir, options.task, options.space, derivatives_folder=derivative,
        img_filters=[("desc", options.desc)],
    )  # fmt: skip
    label = np.ones(int(mask.get_fdata().sum()))
    if options.regions:
        at_mask = resample_to_img(options.regions, mask, interpolation="nearest")
        label = apply_mask(at_mask, mask)
    people = [
        person_patterns(*runs, mask, options)
        for runs in zip(images, events, confounds, strict=True)
    ]
    items = sorted(set.intersection(*(set(names) for names, _ in people)))
    distances, participants, regions = [], [], []
    for model, (names, patterns) in zip(models, people, strict=True):
        rows = patterns[[names.index(item) for item in items]]
        for region in sorted(set(label) - {0}):
            chosen = Dataset(rows[:, label == region])
            distances.append(calc_rdm(chosen, method="correlation").dissimilarities)
            participants.append(model.subject_label)
            regions.append(f"{region:g}" if options.regions else "brain")
    rdms = RDMs(
        np.concatenate(distances),
        dissimilarity_measure="correlation",
        rdm_descriptors={"participant": participants, "layer": regions},
        pattern_descriptors={"item": items},
    )
    options.out.unlink(missing_ok=True)
    rdms.save(str(options.out))
    print(f"{options.out}: {len(items)} items, {len(models)} people, {len(set(regions))} regions")


if __name__ == "__main__":
    main()
