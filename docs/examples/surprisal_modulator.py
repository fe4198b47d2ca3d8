"""Surprisal as a parametric modulator
===================================

Surprisal as a parametric modulator: which units follow how unexpected a token was?

    python surprisal_modulator.py MY-SCAN TASK OUT

Shown: an event-related design. `events.tsv` has blocks of prompts only; tokens, their times,
prompt ids, texts and surprisal come joined in one pandas table from `Dataset.token_table`. Each
token becomes an event whose height is its surprisal less the mean of its prompt, so that neither
blocks nor prompts can stand in for it. Places in the answer have regressors of their own: the
first tokens of an answer are both early and surprising. nilearn does the rest; OUT gets a z map, a
table of the units that follow surprisal most, and a figure.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from nilearn import plotting
from nilearn.glm import expression_to_contrast_vector, threshold_stats_img
from nilearn.glm.first_level import FirstLevelModel, make_first_level_design_matrix
from nilearn.glm.second_level import SecondLevelModel
from scipy.stats import norm

import llm2bids

mpl.use("Agg")
SHOWN = 2.3
"""Least |z| in the figure, p < 0.01 at one side."""


def make_design(dataset, run):
    """Make the design matrix of a run: one row for each recorded token."""
    tokens = dataset.token_table(run).dropna(subset="volume").sort_values("volume")
    surprisal = tokens["surprisal"] - tokens.groupby("trial")["surprisal"].transform("mean")
    modulated = pd.DataFrame(
        {
            "onset": tokens["onset"].astype(float),
            "duration": tokens["duration"].astype(float),
            "trial_type": "surprisal",
            "modulation": surprisal,
        }
    )
    blocks = dataset.events(run).assign(modulation=1.0)
    design = make_first_level_design_matrix(
        tokens["onset"].to_numpy(dtype=float),
        pd.concat([blocks, modulated], ignore_index=True),
        hrf_model=None,
        drift_model=None,
    )
    places = pd.get_dummies(tokens["position"], prefix="place", drop_first=True, dtype=float)
    return pd.concat([places.set_index(design.index), design], axis=1)


def fit_participants(dataset, task, mask):
    """Fit each run; return the effects of one bit of surprisal, and the first design."""
    effects, designs = [], []
    for run in dataset.select(task=task):
        design = make_design(dataset, run)
        model = FirstLevelModel(mask_img=mask, signal_scaling=False, noise_model="ar1")
        model.fit(str(run.preproc), design_matrices=design)
        contrast = expression_to_contrast_vector("surprisal", design.columns)
        effects.append(model.compute_contrast(contrast, output_type="effect_size"))
        designs.append(design)
    return effects, designs


def draw(z_map, dataset, t1w, file):
    """Draw the map, and how many units of each layer follow surprisal (not corrected)."""
    z = dataset.space.to_units(z_map)
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 3.4), width_ratios=(2, 1))
    plotting.plot_stat_map(
        z_map,
        bg_img=t1w,
        threshold=SHOWN,
        display_mode="z",
        cut_coords=3,
        axes=left,
        figure=figure,
        annotate=False,
    )
    layers = dataset.space.unit_table()["layer"]
    for sign, name, color in ((1, "more", "firebrick"), (-1, "less", "steelblue")):
        share = pd.Series(sign * z > SHOWN).groupby(layers).mean() * 100
        right.plot(share.index, share, color=color, label=f"{name} with surprisal")
    right.axhline(100 * norm.sf(SHOWN), color="grey", linestyle=":", label="by chance")
    right.set(xlabel="layer", ylabel=f"units with |z| > {SHOWN} (%)", ylim=(0, None))
    right.legend(frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=80, bbox_inches="tight")
    plt.close(figure)


def main(bids_dir, task, out):
    dataset = llm2bids.open_dataset(bids_dir)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    label = dataset.space.label
    anatomy = dataset.derivative / f"tpl-{label}/anat"
    mask = str(anatomy / f"tpl-{label}_label-GM_mask.nii.gz")

    table = dataset.token_table(dataset.select(task=task)[0])
    columns = ["onset", "prompt_id", "text", "position", "token", "surprisal"]
    print(table[columns].head(6).to_string(index=False, max_colwidth=34))

    effects, designs = fit_participants(dataset, task, mask)
    designs[0].to_csv(out / "design.tsv", sep="\t", index=False)
    group = SecondLevelModel(mask_img=mask)
    group.fit(effects, design_matrix=pd.DataFrame({"intercept": [1.0] * len(effects)}))
    z_map = group.compute_contrast("intercept", output_type="z_score")
    z_map.to_filename(out / "surprisal_z.nii.gz")
    kept, threshold = threshold_stats_img(z_map, alpha=0.05, height_control="fdr")
    n_units = np.count_nonzero(dataset.space.to_units(kept))
    print(f"\n{len(effects)} runs; {n_units} of {dataset.space.n_units} units follow surprisal "
          f"(FDR 0.05, z > {threshold:.2f}); first of them:")  # fmt: skip
    found = llm2bids.locate(z_map, dataset.space, top_percent=1)
    found.to_csv(out / "units.tsv", sep="\t", index=False)
    print(found.head(5)[["address", "layer", "role", "value"]].to_string(index=False))
    draw(z_map, dataset, str(anatomy / f"tpl-{label}_T1w.nii.gz"), out / "surprisal.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
