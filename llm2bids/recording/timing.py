"""From the times of words to the volumes of a clock: which word counts how much in which volume."""

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

LOBES = 3
"""Lobes of the Lanczos kernel on either side, as in the Huth lab's code."""

Resampling = Literal["lanczos", "average", "none"]


def lanczos(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Evaluate the Lanczos kernel at distances in volumes (Duchon 1979, J Appl Meteorol 18:1016).

    Examples
    --------
    >>> lanczos(np.array([0.0, 0.5, 1.0, 3.0, 4.0])).round(4)
    array([1.    , 0.6079, 0.    , 0.    , 0.    ])
    """
    inside = np.abs(distance) < LOBES
    return np.where(inside, np.sinc(distance) * np.sinc(distance / LOBES), 0.0)


def volume_weights(
    times: npt.NDArray[np.float64],
    n_volumes: int,
    *,
    t_r: float,
    start_time: float,
    resampling: Resampling,
) -> csr_array:
    """Weigh the words (n_words,) of each volume: (n_volumes, n_words); NaN is a word without time.

    A volume stands for its onset plus `start_time`; cutoff of the kernel: 1 / t_r.
    """
    known = np.flatnonzero(np.isfinite(times))
    if resampling == "lanczos":
        position = (times[known] - start_time) / t_r  # in volumes
        volume = np.floor(position).astype(np.int64)[:, None] + np.arange(-LOBES, LOBES + 2)
        weight = lanczos(volume - position[:, None])
        word = np.broadcast_to(known[:, None], volume.shape)
        kept = (volume >= 0) & (volume < n_volumes) & (weight != 0)
        entries = weight[kept], (volume[kept], word[kept])
        return csr_array(entries, shape=(n_volumes, len(times)))
    volume = volume_of(times[known], n_volumes, t_r=t_r)
    known, volume = known[volume >= 0], volume[volume >= 0]
    if resampling == "none":  # the last word of each volume
        last = np.append(np.diff(volume) > 0, np.ones(min(len(volume), 1), dtype=bool))
        entries = np.ones(last.sum()), (volume[last], known[last])
    else:
        entries = 1 / np.bincount(volume, minlength=n_volumes)[volume], (volume, known)
    return csr_array(entries, shape=(n_volumes, len(times)))


def volume_of(
    times: npt.NDArray[np.float64], n_volumes: int, *, t_r: float
) -> npt.NDArray[np.int64]:
    """Find the volume within which each time lies; -1 for none."""
    volume = np.floor(np.nan_to_num(times, nan=-1.0) / t_r + 1e-9).astype(np.int64)
    return np.where((volume >= 0) & (volume < n_volumes), volume, -1)


def spoken_share(
    onset: npt.NDArray[np.float64], duration: npt.NDArray[np.float64], n_volumes: int, *, t_r: float
) -> npt.NDArray[np.float64]:
    """Share of each volume (n_volumes,) in which a word is spoken."""
    known = np.isfinite(onset) & np.isfinite(duration)
    start, end = onset[known], (onset + duration)[known]
    edges = np.arange(n_volumes + 1) * t_r
    # seconds spoken before each edge: of words that ended, and of the one that lasts
    before = np.clip(edges[:, None] - start, 0, end - start).sum(axis=1)
    return np.asarray(np.diff(before) / t_r, dtype=np.float64)
