"""Likeness of maps and of sets of units: correlation, strongest units, Dice, intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from llm2bids.exceptions import NetworkError

Floats = npt.NDArray[np.float64]
Maps = npt.NDArray[np.floating[Any]]
Signs = npt.NDArray[np.int8]
# A scale on which intervals are symmetric: there, and back
Scale = tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]

CHUNK = 16_384  # units that are multiplied at once


def gram_matrix(maps: Maps, *, centre_maps: bool = False) -> Floats:
    """Multiply maps with one another, each centred on its mean over the units.

    All correlations between weighted sums of the maps follow from this matrix (see
    `weighted_correlation`), so resampling participants or prompts never touches the units again.

    Shapes: maps (n_maps, n_units), or (n_participants, n_tasks, n_units) for their maps one after
    another; gives (n_maps, n_maps).

    >>> gram_matrix(np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 3.0]]))
    array([[2., 3.],
           [3., 6.]])
    """
    maps = maps.reshape(-1, maps.shape[-1])
    means = maps.mean(axis=1, dtype=np.float64).astype(maps.dtype)[:, np.newaxis]
    gram = np.zeros((len(maps), len(maps)))
    for start in range(0, maps.shape[1], CHUNK):
        block = maps[:, start : start + CHUNK] - means
        if centre_maps:
            block -= block.mean(axis=0)
        gram += block @ block.T
    return gram


def weighted_correlation(gram: Floats, first: Floats, second: Floats) -> Floats:
    """Correlate weighted sums of maps, given the maps' Gram matrix.

    Shapes: gram (n_maps, n_maps), first (..., n_first, n_maps), second (..., n_second, n_maps);
    gives (..., n_first, n_second).

    >>> gram = gram_matrix(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    >>> weighted_correlation(gram, np.eye(2), np.eye(2)).round(6)
    array([[ 1., -1.],
           [-1.,  1.]])
    """
    left = first @ gram
    right = second @ gram
    products = left @ np.swapaxes(second, -1, -2)
    norms = np.sqrt(
        np.maximum((left * first).sum(axis=-1), 0)[..., :, np.newaxis]
        * np.maximum((right * second).sum(axis=-1), 0)[..., np.newaxis, :]
    )
    floor = 1e-12 * np.trace(gram) / max(len(gram), 1)
    r = np.divide(products, norms, out=np.zeros_like(products), where=norms > floor)
    return np.asarray(np.clip(r, -1, 1))


def correlations(gram: Floats, n_tasks: int) -> Floats:
    """Correlate single maps, given their Gram matrix: (n_participants, n_tasks) twice over."""
    single = np.eye(len(gram))
    n_participants = len(gram) // n_tasks
    shape = (n_participants, n_tasks, n_participants, n_tasks)
    return weighted_correlation(gram, single, single).reshape(shape)


def top_units(maps: Maps, share: float) -> Signs:
    """Mark the units with the largest effects of each map, with their sign.

    Shapes: maps (..., n_units); gives (..., n_units).

    >>> top_units(np.array([0.1, -3.0, 2.0, 0.0]), 0.5)
    array([ 0, -1,  1,  0], dtype=int8)
    """
    n_units = maps.shape[-1]
    count = round(share * n_units)
    if not 0 < share <= 1 or count < 1:
        raise NetworkError(
            f"share of units: found {share:g} of {n_units} units; expected a share above 0, at "
            "most 1, and at least one unit; take a larger share"
        )
    sizes = np.abs(maps)
    least = np.partition(sizes, n_units - count, axis=-1)[..., n_units - count, np.newaxis]
    marked = sizes >= least
    surplus = marked.sum(axis=-1) - count
    for index in np.argwhere(surplus):
        row = tuple(index)
        ties = np.flatnonzero(sizes[row] == least[row])
        marked[row][ties[-surplus[row] :]] = False
    return np.where(marked & (maps < 0), -1, marked).astype(np.int8)


def dice(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Floats:
    """Compare sets of units by Dice's coefficient; first, second (..., n_units); gives (...).

    References
    ----------
    Dice (1945), Measures of the amount of ecologic association between species, Ecology 26, 297.

    >>> float(dice(np.array([1, 1, 0, -1]), np.array([1, -1, 0, -1])))
    0.6666666666666666
    """
    marked = first != 0
    common = (marked & (first == second)).sum(axis=-1)
    sizes = np.asarray(marked.sum(axis=-1) + (second != 0).sum(axis=-1))
    missing = np.full(sizes.shape, np.nan)
    return np.asarray(np.divide(2.0 * common, sizes, out=missing, where=sizes > 0))


def dice_matrix(sets: Signs) -> Floats:
    """Compare every set of units with every other.

    Shapes: sets (n_sets, n_units); gives (n_sets, n_sets).
    """
    signed = [(sets > 0).astype(np.float32), (sets < 0).astype(np.float32)]
    common = np.add(*(part @ part.T for part in signed)).astype(np.float64)
    return dice_of_counts(common, np.diag(common))


def dice_of_counts(common: npt.NDArray[Any], sizes: npt.NDArray[Any]) -> Floats:
    """Give Dice of sets with so many units (n,), of which (..., n, n) are common; NaN if empty."""
    totals = np.broadcast_to(sizes[:, np.newaxis] + sizes, common.shape)
    missing = np.full(common.shape, np.nan)
    return np.asarray(np.divide(2 * common, totals, out=missing, where=totals > 0))


def fisher_mean(r: Floats, axis: int | tuple[int, ...] | None = None) -> Floats:
    """Average correlations on Fisher's z scale."""
    return np.asarray(np.tanh(fisher_z(r).mean(axis=axis)))


def fisher_z(r: Floats) -> Floats:
    """Put correlations on Fisher's z scale."""
    return np.asarray(np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)))


def angle(shares: Floats) -> Floats:
    """Put shares such as Dice on the arcsine scale, on which their spread is about even."""
    return np.asarray(np.arcsin(np.sqrt(np.clip(shares, 0, 1))))


def share_of_angle(angles: Floats) -> Floats:
    """Undo `angle`."""
    return np.asarray(np.sin(np.clip(angles, 0, np.pi / 2)) ** 2)


FISHER: Scale = (fisher_z, np.tanh)
ARCSINE: Scale = (angle, share_of_angle)
CONFIDENCE = 0.95


def student_interval(
    estimate: Floats, error: Floats, dof: int, scale: Scale
) -> tuple[Floats, Floats]:
    """Give the 95 % interval around an estimate, from its standard error on a scale."""
    forth, back = scale
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, dof) * error
    middle = forth(estimate)
    return back(middle - reach), back(middle + reach)


def jackknife_interval(
    estimate: Floats, without: npt.ArrayLike, scale: Scale
) -> tuple[Floats, Floats]:
    """Give the 95 % interval around an estimate, from those that lack one participant each.

    Shapes: estimate (...); without (n_participants, ...), on the scale.

    References
    ----------
    Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 11.

    Examples
    --------
    The interval of a mean:

    >>> data = np.array([1.0, 2.0, 6.0])
    >>> low, high = jackknife_interval(data.mean(), (9 - data) / 2, (np.asarray, np.asarray))
    >>> error = data.std(ddof=1) / np.sqrt(3)
    >>> bool(np.isclose(high - low, 2 * stats.t.ppf(0.975, 2) * error))
    True
    """
    values = np.asarray(without)
    n = len(values)
    error = np.sqrt((n - 1) / n * ((values - values.mean(axis=0)) ** 2).sum(axis=0))
    return student_interval(estimate, error, n - 1, scale)


def intraclass_correlation(ratings: Maps) -> Floats:
    """Compute the ICC(3,1) of each unit from ratings (n_targets, n_measurements, n_units).

    Shrout and Fleiss (1979), Psychological Bulletin 86, 420: consistency of single measurements.
    NaN for a unit that never varies.

    Examples
    --------
    The example of Shrout and Fleiss (table 2): six targets, four judges.

    >>> judges = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8],
    ...                    [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float)
    >>> intraclass_correlation(judges[..., np.newaxis]).round(2)
    array([0.71])
    """
    values = np.empty(ratings.shape[2])
    for start in range(0, values.size, CHUNK):
        values[start : start + CHUNK] = _icc(ratings[..., start : start + CHUNK])
    return values


def _icc(ratings: Maps) -> Floats:
    n_targets, n_measurements, _ = ratings.shape
    data = np.asarray(ratings, dtype=np.float64)
    data = data - data.mean(axis=(0, 1))
    targets = n_measurements * (data.mean(axis=1) ** 2).sum(axis=0)
    between = targets / (n_targets - 1)
    total = np.einsum("tmu,tmu->u", data, data)
    rest = total - targets - n_targets * (data.mean(axis=0) ** 2).sum(axis=0)
    error = np.maximum(rest, 0) / ((n_targets - 1) * (n_measurements - 1))
    spread = between + (n_measurements - 1) * error
    floor = 1e-12 * np.square(np.abs(ratings).max(axis=(0, 1)), dtype=np.float64)
    return np.asarray(
        np.divide(between - error, spread, out=np.full(total.shape, np.nan), where=spread > floor)
    )
