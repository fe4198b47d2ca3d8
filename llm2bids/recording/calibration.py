"""Calibration: mean and standard deviation of each unit over a separate resting scan."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """The scanner's receive gain: fixed for a whole dataset.

    Parameters
    ----------
    mean : ndarray of float32, shape (n_units,)
        Mean of each unit over the resting scan, in the model's own scale.
    sd : ndarray of float32, shape (n_units,)
        Standard deviation of each unit; 0 where the unit did not vary (such a unit is scaled by 1).
    prompt_ids : tuple of str
        Prompts of the resting scan; no run uses them.
    n_tokens : int
        Tokens that the statistics were taken over.
    """

    mean: npt.NDArray[np.float32]
    sd: npt.NDArray[np.float32]
    prompt_ids: tuple[str, ...]
    n_tokens: int

    @property
    def scale(self) -> npt.NDArray[np.float32]:
        """Divisor of each unit, shape (n_units,): `sd`, with 1 where it is 0."""
        return np.where(self.sd > 0, self.sd, np.float32(1)).astype(np.float32)
