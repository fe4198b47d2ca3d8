"""nilearn's tools, one after the other
====================================

nilearn from the first level to decoding, on a dataset of ours, one tool after the other::

    python nilearn_tour.py MY-SCAN TASK OUT

Shown: every step is nilearn's own call on our files; only opening the dataset (for the names of
files and prompts) and `llm2bids.locate`, the last line, are ours. OUT gets figures, reports and
`tour.tsv`, with one number from each tool.

Decoders see some sites only, TFCE permutes little: on 250,000 units each takes minutes otherwise.
SpaceNet and SearchLight see the site of the strongest unit, which was chosen with the same
participants' map: their accuracy says that they run, not how well one can decode.
"""

import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn import plotting
from nilearn.connectome import ConnectivityMeasure
from nilearn.decoding import Decoder, SearchLight, SpaceNetClassifier
from nilearn.decomposition import CanICA, DictLearning
from nilearn.glm import cluster_level_inference, save_glm_to_bids, threshold_stats_img
from nilearn.glm.first_level import first_level_from_bids
from nilearn.glm.second_level import SecondLevelModel, non_parametric_inference
from nilearn.image import concat_imgs, index_img
from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
from nilearn.reporting import get_clusters_table
from sklearn.model_selection import LeaveOneGroupOut

import llm2bids

mpl.use("Agg")
# of no use here: "smaller than a human brain", int64 images of its own, few iterations
for words in ("Brain mask is", "Data array used", ".* did not converge", "Warning. 'partition'"):
    warnings.filterwarnings("ignore", message=words)

COMPONENTS = 5
LEAST_CLUSTER = 20
"""Units of a cluster that is listed. nilearn goes over the whole grid for each cluster: with ten
thousand clusters of single units that takes half an hour."""


class Tour:
    """The dataset, where figures go, and what was found so far."""

    def __init__(self, bids_dir, task, out):
        self.dataset = llm2bids.open_dataset(bids_dir)
        self.task = task
        self.runs = self.dataset.select(task=task)
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.space = self.dataset.space.label
        self.anatomy = self.dataset.derivative / f"tpl-{self.space}/anat"
        self.t1w = self.template("T1w.nii.gz")
        self.units = self.template("label-GM_mask.nii.gz")
        self.found = []

    def template(self, name):
        """Name a file of the template."""
        return str(self.anatomy / f"tpl-{self.space}_{name}")

    def note(self, tool, what, value):
        """Print one number, and keep it for the table."""
        print(f"{tool:26} {what}: {value:.3g}", flush=True)
        self.found.append({"tool": tool, "what": what, "value": float(value)})


def first_level(tour):
    """Folder in, models out; BIDS derivative with report of the first participant."""
    models, imgs, events, confounds = first_level_from_bids(
        tour.dataset.path,
        tour.task,
        tour.space,
        derivatives_folder="derivatives/llm2bids",
        hrf_model=None,
        mask_img=tour.units,  # nilearn's own takes the white matter too, for three times as long
    )
    effects = []
    for run in zip(imgs, events, confounds, strict=True):
        model = models.pop(0)  # a fitted model that keeps all for its report is large
        model.minimize_memory = len(effects) > 0  # the reports need what is thrown away otherwise
        model.fit(*run)
        effects.append(model.compute_contrast(tour.task, output_type="effect_size"))
        if len(effects) == 1:
            save_glm_to_bids(
                model,
                contrasts=tour.task,
                out_dir=tour.out / "first-level",
                bg_img=tour.t1w,
                cluster_threshold=LEAST_CLUSTER,
            )
            files = list((tour.out / "first-level").rglob("*.*"))
            tour.note("save_glm_to_bids", "files", len(files))
    tour.note("first_level_from_bids", "participants fitted", len(effects))
    return effects


def second_level(tour, effects):
    """Group map, thresholds, clusters, permutations, pictures."""
    design = pd.DataFrame({"intercept": np.ones(len(effects))})
    group = SecondLevelModel(mask_img=tour.units).fit(effects, design_matrix=design)
    z_map = group.compute_contrast("intercept", output_type="z_score")
    tour.note("SecondLevelModel", "largest z", np.nanmax(z_map.get_fdata()))
    kept, threshold = threshold_stats_img(z_map, alpha=0.05, height_control="fdr")
    tour.note("threshold_stats_img", "z threshold for FDR 0.05", threshold)
    tour.note("threshold_stats_img", "units above it", np.count_nonzero(kept.get_fdata()))
    clusters = get_clusters_table(z_map, stat_threshold=2.3, cluster_threshold=LEAST_CLUSTER)
    tour.note("get_clusters_table", f"clusters of {LEAST_CLUSTER} units or more", len(clusters))
    share = cluster_level_inference(z_map, threshold=2.3)
    tour.note(
        "cluster_level_inference", "largest sure share of true units", share.get_fdata().max()
    )
    permuted = non_parametric_inference(
        effects,
        design_matrix=design,
        mask=tour.units,
        n_perm=10,
        two_sided_test=True,
        tfce=True,
        threshold=0.01,
        random_state=0,
    )
    tour.note("non_parametric_inference", "largest TFCE", permuted["tfce"].get_fdata().max())
    report = group.generate_report(
        contrasts="intercept", bg_img=tour.t1w, cluster_threshold=LEAST_CLUSTER
    )
    report.save_as_html(str(tour.out / "group.html"))
    tour.note(
        "generate_report", "pictures", (tour.out / "group.html").read_text().count("data:image")
    )
    peak = np.unravel_index(np.nanargmax(z_map.get_fdata()), z_map.shape)
    place = (z_map.affine @ [*peak, 1])[:3]
    plotting.plot_stat_map(
        z_map,
        bg_img=tour.t1w,
        threshold=2.3,
        display_mode="z",
        cut_coords=4,
        output_file=tour.out / "map.png",
    )
    page = plotting.view_img(z_map, bg_img=tour.t1w, threshold=2.3, cut_coords=place)
    page.save_as_html(str(tour.out / "map.html"))
    return z_map


def series(tour):
    """Series of all units, of the atlas's regions, and what goes with what."""
    one = NiftiMasker(mask_img=tour.units, standardize=None).fit_transform(
        str(tour.runs[0].preproc)
    )
    tour.note("NiftiMasker", "units", one.shape[1])
    table = tour.template("atlas-sites_dseg.tsv")
    masker = NiftiLabelsMasker(
        tour.template("atlas-sites_dseg.nii.gz"), lut=table, standardize="zscore_sample"
    )
    regions = [masker.fit_transform(str(run.preproc)) for run in tour.runs]
    tour.note("NiftiLabelsMasker", "regions", regions[0].shape[1])
    measure = ConnectivityMeasure(kind="correlation", standardize="zscore_sample")
    mean = measure.fit_transform(regions).mean(axis=0)
    roles = pd.read_csv(table, sep="\t", keep_default_na=False)["role"].to_numpy()
    order = np.argsort(roles, kind="stable")
    same = (roles[:, None] == roles) & ~np.eye(len(roles), dtype=bool)
    tour.note("ConnectivityMeasure", "mean r, sites of one role", mean[same].mean())
    tour.note(
        "ConnectivityMeasure", "mean r, sites of two roles", mean[roles[:, None] != roles].mean()
    )
    shown = plotting.plot_matrix(mean[np.ix_(order, order)], vmin=-1, vmax=1, cmap="RdBu_r")
    shown.axes.set(xlabel="site, sorted by role", ylabel="site, sorted by role")
    shown.figure.savefig(tour.out / "connectome.png", dpi=80)


def decomposition(tour):
    """Networks without a design."""
    for method, options in ((CanICA, {"n_init": 3}), (DictLearning, {"n_epochs": 1})):
        model = method(
            n_components=COMPONENTS, mask=tour.units, smoothing_fwhm=None, random_state=0, **options
        )
        model.fit([str(run.preproc) for run in tour.runs])
        components = model.components_img_.get_fdata()
        used = np.any(components != 0, axis=(0, 1, 2)).sum()
        tour.note(method.__name__, "components", used)
        file = tour.out / f"{method.__name__.lower()}.png"
        first = index_img(model.components_img_, int(np.abs(components).sum((0, 1, 2)).argmax()))
        plotting.plot_stat_map(
            first, bg_img=tour.t1w, output_file=file, display_mode="z", cut_coords=4
        )


def prompt_images(tour, sites):
    """Take one image for each prompt, on or off, and its participant, of some sites."""
    images = [tour.dataset.image(run, sites=sites, by="prompt") for run in tour.runs]
    labels = pd.concat([tour.dataset.labels(run, by="prompt") for run in tour.runs])
    on = np.where(labels["label"] == "off", "off", "on")
    return concat_imgs(images), on, labels["participant"].to_numpy()


def mask_of(space, units):
    """Make the mask of some units of a space, or of a part of it."""
    inside = np.zeros(space.n_units, dtype=np.uint8)
    inside[units] = 1
    return nib.Nifti1Image(space.to_grid(inside), space.affine)


def decoding(tour, z_map):
    """Tell on from off prompts in participants that the decoder has not seen."""
    others = LeaveOneGroupOut()
    space = tour.dataset.space
    # the widest modules of all layers, a tenth or so of the model
    role = max(space.sites, key=lambda site: 0 if site.layer is None else site.width).role
    widest = [site.name for site in space.sites if site.role == role]
    images, on, participants = prompt_images(tour, widest)
    decoder = Decoder(
        mask=mask_of(space.crop(widest), slice(None)),
        cv=others,
        screening_percentile=10,
        scoring="balanced_accuracy",
        standardize="zscore_sample",
    ).fit(images, on, groups=participants)
    tour.note("Decoder", "balanced accuracy, others", np.mean(decoder.cv_scores_["on"]))
    values = space.to_units(z_map)
    site = space.address_of(int(values.argmax())).partition("[")[0]  # of the strongest unit
    part, inside = space.crop(site), values[space.site_slices[site]]
    images, on, participants = prompt_images(tour, site)
    first = participants == participants[0]
    sparse = SpaceNetClassifier(
        mask=mask_of(part, slice(None)), penalty="tv-l1", cv=2, n_alphas=3, l1_ratios=0.5,
        max_iter=30, standardize=True,
    ).fit(index_img(images, ~first), on[~first])  # fmt: skip
    correct = sparse.predict(index_img(images, first)) == on[first]
    tour.note("SpaceNet", "accuracy, one left out", correct.mean())
    tour.note("SpaceNet", "units with a weight", np.count_nonzero(sparse.coef_img_.get_fdata()))
    light = SearchLight(
        mask_of(part, slice(None)), process_mask_img=mask_of(part, np.argsort(-inside)[:50]),
        radius=4, cv=others, scoring="balanced_accuracy",
    ).fit(images, on, groups=participants)  # fmt: skip
    tour.note("SearchLight", "best balanced accuracy", light.scores_.max())


def main(bids_dir, task, out):
    tour = Tour(bids_dir, task, out)
    effects = first_level(tour)
    z_map = second_level(tour, effects)
    z_map.to_filename(tour.out / "z.nii.gz")
    series(tour)
    decomposition(tour)
    decoding(tour, z_map)
    pd.DataFrame(tour.found).to_csv(tour.out / "tour.tsv", sep="\t", index=False)
    named = llm2bids.locate(z_map, tour.dataset.space, top_percent=1)
    print("\nBack in the model:")
    print(named.head(3)[["address", "value"]].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
