"""Where in the model is the topic?
================================

Decoding with nilearn, layer by layer: which topic was a prompt about?

    python decoding.py MY-SCAN OUT [SITES]

Shown: a sample is a prompt, the mean of its volumes (`Dataset.labels` and `Dataset.image`, with
`by="prompt"`), of the residual stream alone: its 30 layers of 576 units fit into a box of 23,000
voxels, where the whole space has 600,000. nilearn's `Decoder` learns to tell the topics apart
and is tested on a participant that it has not seen (`LeaveOneGroupOut`); participants share no
prompts.

Beside the layers stand the same decoder on as many units drawn from all layers, and on labels that
were shuffled within each participant: a topic that can be read in a layer may be read elsewhere
just as well. The `SearchLight` goes through the best layer, beside sets of as many of its units
drawn at random. In native order a unit's neighbours are arbitrary, so spheres are such sets too.
The layer was chosen with the same prompts: its map shows that the tool runs, not how well one can
decode.
"""

import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.decoding import Decoder, SearchLight
from nilearn.image import concat_imgs, index_img
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import llm2bids

mpl.use("Agg")
# of no use here: nilearn on few features, and on an estimator that is not named
for words in ("The decoding model will be trained only on", "Use a custom estimator"):
    warnings.filterwarnings("ignore", message=words)

N_DRAWS = 20
"""Draws of random units, and of shuffled labels."""
RADIUS = 4.5
"""Millimetres of a searchlight's sphere: 39 to 47 voxels inside a panel of three slices."""


def read_prompts(dataset, sites):
    """Read an image for each prompt that is about a topic, of some sites, and its labels."""
    images, labels = [], []
    for run in dataset.runs:
        table = dataset.labels(run, by="prompt")
        on = table["label"] != "off"
        images.append(index_img(dataset.image(run, sites=sites, by="prompt"), on.to_numpy()))
        labels.append(table[on])
    return concat_imgs(images), pd.concat(labels, ignore_index=True)


def mask_of(space, units):
    """Make the mask of some units, bool (n_units,)."""
    return nib.Nifti1Image(space.to_grid(units.astype(np.uint8)), space.affine)


def decode(images, topics, participants, mask):
    """Tell topics apart; return the area under the ROC curve of each participant left out."""
    decoder = Decoder(
        estimator="ridge_classifier",
        mask=mask,
        cv=LeaveOneGroupOut(),
        scoring="roc_auc",
        screening_percentile=100,
        standardize="zscore_sample",
    ).fit(images, topics, groups=participants)
    return np.mean(list(decoder.cv_scores_.values()), axis=0)


def shuffled(labels, rng):
    """Shuffle topics over the prompts of each participant."""
    topics = labels["label"].to_numpy(copy=True)
    for rows in labels.groupby("participant").indices.values():
        topics[rows] = rng.permutation(topics[rows])
    return topics


def layers(part, images, labels):
    """Decode from each site, from as many units of all, and with shuffled labels."""
    rng = np.random.default_rng(0)
    topics, participants = labels["label"].to_numpy(), labels["participant"].to_numpy()
    rows = []
    for site in part.sites:
        units = np.zeros(part.n_units, dtype=bool)
        units[part.site_slices[site.name]] = True
        scores = decode(images, topics, participants, mask_of(part, units))
        rows.append({"units": site.name, "layer": site.layer, "auc": scores.mean(),
                     "least": scores.min(), "most": scores.max()})  # fmt: skip
        print(f"{site.name:20} {scores.mean():.3f}", flush=True)
    width = part.sites[0].width
    for draw in range(N_DRAWS):
        units = np.zeros(part.n_units, dtype=bool)
        units[rng.choice(part.n_units, width, replace=False)] = True
        for name, labelled in (("random units", topics), ("shuffled", shuffled(labels, rng))):
            scores = decode(images, labelled, participants, mask_of(part, units))
            rows.append({"units": name, "auc": scores.mean(), "least": scores.min(),
                         "most": scores.max()})  # fmt: skip
        print(f"draw {draw + 1} of {N_DRAWS}", flush=True)
    return pd.DataFrame(rows)


def searchlight(dataset, site, labels):
    """Go through a site with a sphere; return accuracies of spheres, and of random sets."""
    images, _ = read_prompts(dataset, site)
    part = dataset.space.crop(site)
    topics, participants = labels["label"].to_numpy(), labels["participant"].to_numpy()
    classifier = make_pipeline(StandardScaler(), RidgeClassifier())
    everywhere = mask_of(part, np.ones(part.n_units))
    light = SearchLight(
        everywhere, radius=RADIUS, estimator=classifier, cv=LeaveOneGroupOut(), scoring="accuracy"
    ).fit(images, topics, groups=participants)
    spheres = part.to_units(np.asarray(light.scores_, dtype=np.float64))
    values = part.to_units(images)
    distances = np.linalg.norm(part.voxels[:, None] - part.voxels, axis=2) * 2  # voxels of 2 mm
    sizes = (distances <= RADIUS).sum(axis=1)
    rng = np.random.default_rng(0)
    by_chance = [
        cross_val_score(
            classifier,
            values[:, rng.choice(part.n_units, size, replace=False)],
            topics,
            groups=participants,
            cv=LeaveOneGroupOut(),
        ).mean()
        for size in sizes
    ]
    return part, spheres, np.array(by_chance)


def draw(table, spheres, by_chance, best, n_topics, file):
    """Draw scores by layer, and spheres beside random sets."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(3, 2))
    of_layer = table.dropna(subset="layer")
    left.fill_between(of_layer["layer"], of_layer["least"], of_layer["most"], color="#2c7a64",
                      alpha=0.15, label="least to most, participants")  # fmt: skip
    left.plot(of_layer["layer"], of_layer["auc"], "o-", ms=3, color="#2c7a64", label="a layer")
    for name, color, label in (
        ("random units", "#b8652a", "as many units of all layers"),
        ("shuffled", "grey", "the same, labels shuffled"),
    ):
        scores = table.loc[table["units"] == name, "auc"]
        left.axhspan(scores.min(), scores.max(), color=color, alpha=0.35, lw=0, label=label)
    left.axhline(0.5, color="black", lw=0.8, ls=":")
    left.set(xlabel="layer", ylabel="topic: area under the ROC curve",
             ylim=(0.4, 1.01))  # fmt: skip
    left.legend(frameon=False, fontsize=8, loc="center right")
    bins = np.linspace(min(spheres.min(), by_chance.min()), max(spheres.max(), by_chance.max()), 25)
    right.hist(by_chance, bins, color="#b8652a", alpha=0.5, label="as many units at random")
    right.hist(spheres, bins, histtype="step", color="#2c7a64", lw=1.5, label="spheres")
    right.axvline(1 / n_topics, color="black", lw=0.8, ls=":")
    right.set(xlabel=f"accuracy, one of {n_topics} topics", ylabel="units",
              title=f"searchlight in {best}")  # fmt: skip
    right.title.set_fontsize(9)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=80, bbox_inches="tight")
    plt.close(figure)


def main(bids_dir, out, sites="residual"):
    dataset = llm2bids.open_dataset(bids_dir)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    images, labels = read_prompts(dataset, sites)
    part = dataset.space.crop(sites)
    n_topics = labels["label"].nunique()
    print(f"{len(labels)} prompts on {n_topics} topics, {labels['participant'].nunique()} "
          f"participants, grid {images.shape}")  # fmt: skip
    table = layers(part, images, labels)
    best = str(table.dropna(subset="layer").set_index("units")["auc"].idxmax())
    best_part, spheres, by_chance = searchlight(dataset, best, labels)
    table.to_csv(out / "layers.tsv", sep="\t", index=False, na_rep="n/a")
    scores = nib.Nifti1Image(best_part.to_grid(spheres.astype(np.float32)), best_part.affine)
    scores.to_filename(out / "searchlight.nii.gz")
    print(f"\nbest: {best}, {table['auc'][table['units'] == best].iloc[0]:.3f}")
    for name in ("random units", "shuffled"):
        drawn = table.loc[table["units"] == name, "auc"]
        print(f"{name}: {drawn.mean():.3f} ({drawn.min():.3f} to {drawn.max():.3f})")
    for name, accuracies in (("spheres", spheres), ("random sets", by_chance)):
        print(f"searchlight, {name}: {accuracies.mean():.3f} (best {accuracies.max():.3f})")
    print(f"chance: {1 / n_topics:.3f}\n")
    centres = llm2bids.locate(scores, best_part, top_percent=1)
    print(centres[["address", "value"]].head(3).to_string(index=False))
    draw(table, spheres, by_chance, best, n_topics, out / "decoding.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
