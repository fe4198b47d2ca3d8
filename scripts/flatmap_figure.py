#!/usr/bin/env python3
"""Draw a task's network on the flat map in index order and in functional order.

    scripts/flatmap_figure.py dataset analysis docs/figures/flatmap --task pathology

writes docs/figures/flatmap-light.png and flatmap-dark.png. The functional order is learned from the
prompts of the last participants (--learn-from), the map is the mean effect of all the others: no
prompt is in both. Needs what `scripts/demo` installs, and a dataset with the output folder of
`llm2bids analyze ... participant`.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from llm2bids import plot_flatmap
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.inference.inputs import open_inputs
from llm2bids.inference.prompts import Prompts, read_prompts
from llm2bids.space.arrange import rearrange
from llm2bids.space.definition import Layout
from llm2bids.space.functional import METHOD, learn_cells
from llm2bids.space.smoothness import morans_i
from llm2bids.space.space import Space
from llm2bids.space.stat_map import unit_values

OFF = "off"


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, average, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="a dataset in index arrangement")
    parser.add_argument("analysis", type=Path, help="output folder of llm2bids analyze")
    parser.add_argument("figure", type=Path, help="path without -light.png and -dark.png")
    parser.add_argument("--task", default="pathology", help="default pathology")
    parser.add_argument("--title", help="default: the task's label")
    parser.add_argument("--learn-from", type=int, default=2, metavar="N", help="participants")
    args = parser.parse_args(arguments)
    dataset = open_dataset(args.dataset)
    labels = sorted({run.participant_label for run in dataset.runs})
    shown, held_out = labels[: -args.learn_from], labels[-args.learn_from :]
    if not shown:
        sys.stderr.write(f"{args.dataset}: {len(labels)} participants; --learn-from takes all\n")
        return 1
    values = mean_effect(dataset, args.analysis, args.task, shown)
    inputs = open_inputs(args.dataset)
    means = read_prompts(inputs, participant_label=held_out, progress=True).prompts
    functional = functional_space(dataset.space, means)
    spaces = {"Index order": dataset.space, "Functional order": functional}
    for name, space in spaces.items():
        print(f"{name}: Moran's I {np.nanmedian(morans_i([values], space)):.3f}, median of panels")
    print(f"map: {len(shown)} participants; order: {len(means.prompt_ids)} prompts of {held_out}")
    draw(values, spaces, args.figure, title=args.title or args.task)
    return 0


def mean_effect(
    dataset: Dataset, analysis: Path, task: str, participants: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Average the effect of a task over participants, shape (n_units,)."""
    images = [
        path
        for label in participants
        for path in sorted((analysis / f"sub-{label}" / "func").glob(
            f"sub-{label}_task-{task}_*contrast-{task}_stat-effect_statmap.nii.gz"
        ))
    ]  # fmt: skip
    if len(images) < len(participants):
        raise SystemExit(f"{analysis}: {len(images)} effect maps of {task}; analyze it first")
    allowed = (dataset.fingerprint, dataset.space.fingerprint())
    maps = [unit_values(image, dataset.space, fingerprint=allowed) for image in images]
    return np.asarray(np.mean(maps, axis=0))


def functional_space(space: Space, means: Prompts) -> Space:
    """Arrange the units by their responses to these prompts."""
    conditions = [kind or OFF for kind in means.trial_types]
    order = learn_cells(space, means.values, conditions, baseline=OFF)
    layout = Layout(
        method=METHOD,
        prompt_ids=tuple(map(str, means.prompt_ids)),
        n_constant=int(order.constant.sum()),
    )
    return rearrange(space, order.cells, arrangement="functional", layout=layout)


def draw(
    values: npt.NDArray[np.float64], spaces: dict[str, Space], figure: Path, *, title: str
) -> None:
    """Draw the figure for light and for dark pages, in 256 colours so that it stays small."""
    for theme in ("light", "dark"):
        drawn = plot_flatmap(
            values,
            list(spaces.values()),
            labels=list(spaces),
            title=title,
            cbar_label="effect (rest sd)",
            theme=theme,
        )
        picture = io.BytesIO()
        drawn.savefig(picture, format="png", dpi=drawn.dpi, facecolor=drawn.get_facecolor())
        path = figure.with_name(f"{figure.name}-{theme}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = Image.open(picture).convert("RGB")
        colours.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    raise SystemExit(main())
