"""Mean responses of units to groups of volumes: trials, prompts, words."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.layout import Run
from llm2bids.dataset.read import Dataset
from llm2bids.exceptions import DatasetError
from llm2bids.space.image import decode

Float32 = npt.NDArray[np.float32]


def deviations(dataset: Dataset, run: Run) -> Iterator[tuple[int, Float32]]:
    """Read a run a few volumes at a time: first volume, (n_volumes, n_units) in sd of the rest."""
    dataset.sidecar(run)  # refuses another gain
    image, calibration = dataset.open_series(run), dataset.calibration
    for start, block in image.blocks():
        values = decode(block.T, dataset.space, calibration, name=image.label)
        yield start, (values - calibration.mean) / calibration.scale


def require_word_clock(dataset: Dataset, run: Run) -> None:
    """Refuse a story whose volumes are not its words."""
    if dataset.sidecar(run).get("Clock") is None:
        raise DatasetError(
            f"{dataset.path}: volumes lie on a scan's clock, several words in each; expected one "
            "volume a word (llm2bids read --per-word)"
        )


def group_sums(
    dataset: Dataset,
    run: Run,
    group: npt.NDArray[np.int64],
    n_groups: int,
    units: npt.NDArray[np.int64] | slice = slice(None),
) -> tuple[Float32, npt.NDArray[np.int64]]:
    """Add up the volumes of each group: (n_groups, n_units), and how many they were.

    `group` (n_volumes,) is the number of each volume's group, negative for none.
    """
    n_units = len(np.arange(dataset.space.n_units)[units])
    total = np.zeros((n_groups, n_units), dtype=np.float32)
    for start, values in deviations(dataset, run):
        for index, row in zip(group[start : start + len(values)], values, strict=True):
            if index >= 0:
                total[index] += row[units]
    return total, np.bincount(group[group >= 0], minlength=n_groups)
