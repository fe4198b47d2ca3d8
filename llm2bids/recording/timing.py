"""How a story is read, and from the times of words to the volumes of a clock."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array

# Lobes of the Lanczos kernel on either side, as in the Huth lab's code.
LOBES = 3

Pool = Literal["last", "mean", "sum"]
At = Literal["word", "before"]
Anchor = Literal["mid", "onset", "end"]
Resampling = Literal["lanczos", "average", "none"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a story is read, and the clock that its values are put on."""

    t_r: float
    n_volumes: int
    start_time: float
    context: str | int  # "story", "sentence", or the tokens of a window
    stride: int | None
    pool: Pool
    at: At
    resampling: Resampling
    anchor: Anchor
    per_word: bool

    def times(self, words: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Time at which each word (n_words,) stands, seconds; NaN where it has none."""
        part = {"onset": 0.0, "mid": 0.5, "end": 1.0}[self.anchor]
        return (words["onset"] + part * words["duration"]).to_numpy(dtype=np.float64)

    def on_images(self, words: pd.DataFrame) -> pd.DataFrame:
        """Put words on the clock of the images: onset, duration, volume (-1 where it has none)."""
        if not self.per_word:
            within = np.floor(np.nan_to_num(self.times(words), nan=-1.0) / self.t_r + 1e-9)
            inside = (within >= 0) & (within < self.n_volumes)
            return words.assign(volume=np.where(inside, within, -1).astype(np.int64))
        timed = words["onset"].notna()
        volume = (timed.cumsum() - 1).where(timed, -1)
        return words.assign(
            spoken_onset=words["onset"],
            spoken_duration=words["duration"],
            onset=(volume * self.t_r).where(timed),
            duration=np.where(timed, self.t_r, np.nan),
            volume=volume,
        )

    def counts(self, words: pd.DataFrame) -> csr_array:
        """Mark the words that lie in each volume, (n_volumes, n_words)."""
        volume = self.on_images(words)["volume"].to_numpy()
        (known,) = np.nonzero(volume >= 0)
        entries = np.ones(len(known)), (volume[known], known)
        return csr_array(entries, shape=(self.n_volumes, len(words)))

    def weights(self, words: pd.DataFrame) -> csr_array:
        """Weigh the words of each volume, (n_volumes, n_words); a word without a time has none.

        A volume stands for its onset plus `start_time`; cutoff of the kernel: 1 / t_r.
        """
        counts = self.counts(words)
        if self.per_word:
            return counts
        if self.resampling == "lanczos":
            times = self.times(words)
            known = np.flatnonzero(np.isfinite(times))
            position = (times[known] - self.start_time) / self.t_r  # in volumes
            volume = np.floor(position).astype(np.int64)[:, None] + np.arange(-LOBES, LOBES + 2)
            weight = lanczos(volume - position[:, None])
            word = np.broadcast_to(known[:, None], volume.shape)
            kept = (volume >= 0) & (volume < self.n_volumes) & (weight != 0)
            return csr_array((weight[kept], (volume[kept], word[kept])), shape=counts.shape)
        n_words = np.diff(counts.indptr)
        if self.resampling == "average":
            counts.data /= np.repeat(n_words, n_words)
            return counts
        (spoken,) = np.nonzero(n_words)
        last = counts.indices[counts.indptr[spoken + 1] - 1]
        return csr_array((np.ones(len(spoken)), (spoken, last)), shape=counts.shape)

    def spoken_share(self, words: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Share of each volume (n_volumes,) in which a word is spoken."""
        timed = words[words["onset"].notna() & words["duration"].notna()]
        start, length = (timed[name].to_numpy(dtype=float) for name in ("onset", "duration"))
        edges = np.arange(self.n_volumes + 1) * self.t_r
        # seconds spoken before each edge: of words that ended, and of the one that lasts
        before = np.clip(edges[:, None] - start, 0, length).sum(axis=1)
        return np.asarray(np.diff(before) / self.t_r, dtype=np.float64)


def lanczos(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Evaluate the Lanczos kernel at distances in volumes (Duchon 1979, J Appl Meteorol 18)."""
    inside = np.abs(distance) < LOBES
    return np.where(inside, np.sinc(distance) * np.sinc(distance / LOBES), 0.0)
