"""Does a functional arrangement find more, and is what it finds true? Second level, held out.

From the prompt means of a recorded dataset: the arrangement is learned from the first participants'
prompts and tested on the others', whose prompts are disjoint. Each of these is split into
``--n-split`` participants with prompts of their own (a participant is a draw of prompts; contexts
are fresh), so that there are enough sign flips. One panel at a time, in functional,
index and random arrangement, with and without smoothing, by sign flips at the second level
(peak height, cluster size beyond p 0.01, TFCE; two-sided; all flips are
labelled at once, which is what makes hundreds of null groups affordable). Null designs
deal each run's off prompts at random into two halves. Writes a table and prints it.

    python scripts/arrangement_proof.py BIDS_DIR OUT.tsv --cache FOLDER
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from nilearn.image import smooth_img
from scipy import ndimage
from scipy.stats import binomtest
from scipy.stats import t as t_distribution

from llm2bids.inference.inputs import Inputs, open_inputs
from llm2bids.inference.prompts import OFF, read_prompts
from llm2bids.space.arrange import build_space, rearrange
from llm2bids.space.definition import Layout
from llm2bids.space.functional import METHOD, learn_cells, random_space
from llm2bids.space.smoothness import arrangement_stability, morans_i, neighbour_correlation
from llm2bids.space.space import Space

ALPHA = 0.05
FORMING = 0.01


def main() -> None:
    """Measure every panel and write the tables."""
    args = arguments()
    rows: list[dict[str, Any]] = []
    measures: list[dict[str, Any]] = []
    inputs = open_inputs(args.bids_dir)
    for site in args.site:
        units = inputs.space.site_slices[site]
        means = read_cached(inputs, units, args.cache)
        spaces, learned = arranged(inputs.space, site, means, args.n_learn)
        held_out = split(pick(means, ~np.isin(means.participants, learned)), args.n_split)
        measures += smooth(site, spaces, held_out)
        for name, space in spaces.items():
            if name == "functional again":
                continue
            for fwhm in args.smoothing:
                began = time.perf_counter()
                found = survivors(space, held_out, fwhm, args)
                nulls = null_rates(space, held_out, fwhm, args)
                rows.append({"site": site, "n_units": space.n_units, "arrangement": name,
                             "fwhm": fwhm, **found, **nulls,
                             "seconds": time.perf_counter() - began})  # fmt: skip
                print(rows[-1], flush=True)
                pd.DataFrame(rows).to_csv(args.output, sep="\t", index=False, na_rep="n/a")
        pd.DataFrame(measures).to_csv(
            args.output.with_suffix(".measures.tsv"), sep="\t", index=False, na_rep="n/a"
        )
    print(pd.DataFrame(measures).to_string())
    print(pd.DataFrame(rows).to_string())


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--cache", type=Path, help="folder that keeps the prompt means of a panel")
    parser.add_argument(
        "--site", nargs="+",
        default=["model.layers.15.mlp.act_fn", "model.layers.5.mlp.down_proj", "model.layers.15"],
    )  # fmt: skip
    parser.add_argument("--n-learn", type=int, default=2, help="participants to learn from")
    parser.add_argument("--n-split", type=int, default=2, help="parts of each held-out participant")
    parser.add_argument("--n-perm", type=int, default=1000)
    parser.add_argument("--n-null", type=int, default=100)
    parser.add_argument("--smoothing", nargs="+", type=float, default=[0.0, 4.0])
    return parser.parse_args()


@dataclass(frozen=True)
class PromptMeans:
    """One image per prompt, (n_prompts, n_units), and what each prompt was."""

    values: npt.NDArray[np.float32]
    participants: npt.NDArray[np.str_]
    runs: npt.NDArray[np.str_]
    trial_types: npt.NDArray[np.str_]
    prompt_ids: npt.NDArray[np.str_]


def read_cached(inputs: Inputs, units: slice, cache: Path | None) -> PromptMeans:
    """Read the prompt means of a panel, once."""
    file = None if cache is None else cache / f"means_{units.start}.npz"
    if file is not None and file.exists():
        return PromptMeans(**dict(np.load(file)))
    panel = np.zeros(inputs.space.n_units, dtype=np.bool_)
    panel[units] = True
    prompts = read_prompts(inputs.within(panel), progress=True).prompts
    means = PromptMeans(
        values=prompts.values,
        participants=prompts.participants,
        runs=np.array([name.partition("_")[2] for name in prompts.run_names]),
        trial_types=prompts.trial_types,
        prompt_ids=prompts.prompt_ids,
    )
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **vars(means))
    return means


def pick(means: PromptMeans, chosen: npt.NDArray[np.bool_]) -> PromptMeans:
    """Take some prompts."""
    return PromptMeans(**{name: value[chosen] for name, value in vars(means).items()})


def split(means: PromptMeans, n_parts: int) -> PromptMeans:
    """Part the prompts of each participant, run and trial type into several participants."""
    order = pd.DataFrame({name: getattr(means, name) for name in
                          ("participants", "runs", "trial_types")})  # fmt: skip
    part = order.groupby(list(order)).cumcount() % n_parts
    labels = [f"{one}{place}" for one, place in zip(means.participants, part, strict=True)]
    return replace(means, participants=np.asarray(labels))


def arranged(
    whole: Space, site: str, means: PromptMeans, n_learn: int
) -> tuple[dict[str, Space], list[str]]:
    """Arrange one panel, from the prompts of the first participants."""
    (one,) = [found for found in whole.sites if found.name == site]
    index = build_space(
        [one], label="Panel", model_name=whole.model_name, weights_sha256=whole.weights_sha256
    )
    learned = sorted(set(means.participants.tolist()))[: 2 * n_learn]
    spaces = {"index": index}
    # the second half of `learned` serves to tell how stable the arrangement is
    for name, people in (
        ("functional", learned[:n_learn]),
        ("functional again", learned[n_learn:]),
    ):
        used = pick(means, np.isin(means.participants, people))
        conditions = np.where(used.trial_types == OFF, "off", used.trial_types).tolist()
        order = learn_cells(index, used.values, conditions, baseline="off")
        layout = Layout(method=METHOD, prompt_ids=tuple(used.prompt_ids.tolist()))
        spaces[name] = rearrange(index, order.cells, arrangement="functional", layout=layout)
    spaces["random"] = random_space(index, seed=1)
    return spaces, learned[:n_learn]


def smooth(site: str, spaces: dict[str, Space], means: PromptMeans) -> Iterator[dict[str, Any]]:
    """Measure the smoothness of held-out maps, and the stability of the arrangement."""
    maps = np.stack([effects(means, task).mean(axis=0) for task in tasks(means)])
    for name, space in spaces.items():
        near = neighbour_correlation(means.values, space).set_index("distance")["correlation"]
        yield {
            "site": site,
            "arrangement": name,
            "morans_i": float(np.median(morans_i(maps, space))),
            **{f"r_at_{distance}": value for distance, value in near.items()},
            "stability": float(arrangement_stability(space, spaces["functional again"])[0]),
        }


def tasks(means: PromptMeans) -> list[str]:
    """List the tasks."""
    return sorted(set(means.trial_types.tolist()) - {OFF})


def effects(means: PromptMeans, task: str) -> npt.NDArray[np.float32]:
    """On minus off of each participant in a task, shape (n_participants, n_units)."""
    rows = []
    for person in sorted(set(means.participants.tolist())):
        on = (means.participants == person) & (means.trial_types == task)
        off = (means.participants == person) & (means.trial_types == OFF)
        off &= np.isin(means.runs, means.runs[on])
        rows.append(means.values[on].mean(axis=0) - means.values[off].mean(axis=0))
    return np.stack(rows)


def null_effects(means: PromptMeans, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Make a null group: half of each participant's off prompts of a run minus the other half."""
    run = rng.choice(sorted(set(means.runs.tolist())))
    rows = []
    for person in sorted(set(means.participants.tolist())):
        off = np.flatnonzero(
            (means.participants == person) & (means.trial_types == OFF) & (means.runs == run)
        )
        one, other = np.array_split(rng.permutation(off), 2)
        rows.append(means.values[one].mean(axis=0) - means.values[other].mean(axis=0))
    return np.stack(rows)


def test(
    values: npt.NDArray[np.float32], space: Space, fwhm: float, n_perm: int, seed: int
) -> dict[str, npt.NDArray[np.bool_]]:
    """Family-wise significant voxels by peak height, cluster size and TFCE; flips of signs."""
    first, last = space.voxels.min(axis=0), space.voxels.max(axis=0)
    box = tuple(slice(low, high + 1) for low, high in zip(first, last, strict=True))
    grey = space.grey[box].astype(np.float32)
    panel = space.to_grid(values.astype(np.float32))[box]
    if fwhm:  # within the panel alone: what lies around it holds no values
        weight = smooth_img(nib.Nifti1Image(grey, space.affine), fwhm).get_fdata()
        smoothed = smooth_img(nib.Nifti1Image(panel, space.affine), fwhm).get_fdata()
        panel = (smoothed / np.maximum(weight, 1e-6)[..., np.newaxis]).astype(np.float32)
    grids = flipped_t(panel, n_perm, seed)
    alive = {}
    sizes = partial(cluster_sizes, n=len(values))
    for name, statistic in {"peak": np.abs, "cluster": sizes, "tfce": tfce}.items():
        enhanced = np.where(grey > 0, statistic(grids), 0)
        largest = enhanced.reshape(len(grids), -1).max(axis=1)
        rank = (largest >= enhanced[0][..., np.newaxis] - 1e-6).mean(axis=-1)  # the p value
        alive[name] = np.zeros(space.shape, dtype=bool)
        alive[name][box] = (rank <= ALPHA) & (enhanced[0] > 0)
    return alive


def flipped_t(panel: npt.NDArray[np.float32], n_perm: int, seed: int) -> npt.NDArray[np.float32]:
    """Give t maps (n_perm + 1, *shape) of participants (last axis): as they are, then flipped."""
    n = panel.shape[-1]
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (n_perm + 1, n))
    signs[0] = 1
    mean = np.moveaxis(panel @ signs.T / n, -1, 0)
    variance = ((panel**2).sum(axis=-1) / n - mean**2) * n / (n - 1)
    return (mean / np.sqrt(np.maximum(variance, 1e-12) / n)).astype(np.float32)


def labelled(active: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Label the clusters of all maps at once, and give each voxel the size of its cluster."""
    faces = ndimage.generate_binary_structure(active.ndim, 1)
    faces[[0, 2]] = False  # maps are not neighbours
    labels, _ = ndimage.label(active, faces)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return sizes[labels]


def cluster_sizes(grids: npt.NDArray[np.float32], *, n: int) -> npt.NDArray[Any]:
    """Give each voxel the size of its cluster beyond the cluster-forming t, of either sign."""
    threshold = t_distribution.isf(FORMING / 2, n - 1)
    return labelled(grids > threshold) + labelled(grids < -threshold)


def tfce(grids: npt.NDArray[np.float32], steps: int = 50) -> npt.NDArray[Any]:
    """Threshold-free cluster enhancement of each sign (Smith & Nichols 2009: E 0.5, H 2)."""
    step = float(np.abs(grids[0]).max()) / steps
    enhanced = np.zeros(grids.shape)
    for sign in (1, -1):
        height = step
        while (active := sign * grids > height).any():
            enhanced += np.sqrt(labelled(active)) * height**2 * step
            height += step
    return enhanced


def survivors(
    space: Space, means: PromptMeans, fwhm: float, args: argparse.Namespace
) -> dict[str, float]:
    """Count units and clusters that survive, mean over tasks."""
    counts: list[dict[str, float]] = []
    for task in tasks(means):
        found = test(effects(means, task), space, fwhm, args.n_perm, seed=0)
        counts.append(
            {name: float(alive.sum()) for name, alive in found.items()}
            | {f"{name}_clusters": float(ndimage.label(alive)[1]) for name, alive in found.items()}
        )
    return pd.DataFrame(counts).mean().round(1).to_dict()


def null_rates(
    space: Space, means: PromptMeans, fwhm: float, args: argparse.Namespace
) -> dict[str, Any]:
    """Share of null groups with any surviving unit, with exact 95 % intervals."""
    rng = np.random.default_rng(0)
    hits = dict.fromkeys(("peak", "cluster", "tfce"), 0)
    n_perm = min(args.n_perm, 200)
    for draw in range(args.n_null):
        for name, alive in test(null_effects(means, rng), space, fwhm, n_perm, seed=draw).items():
            hits[name] += bool(alive.any())
    rates: dict[str, Any] = {"n_null": args.n_null}
    for name, count in hits.items() if args.n_null else ():
        low, high = binomtest(count, args.n_null).proportion_ci()
        rates |= {f"null_{name}": count / args.n_null, f"null_{name}_low": round(low, 4),
                  f"null_{name}_high": round(high, 4)}  # fmt: skip
    return rates


if __name__ == "__main__":
    main()
