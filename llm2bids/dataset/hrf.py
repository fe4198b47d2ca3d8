"""A haemodynamic response on export, for tools that insist on one."""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.signal import oaconvolve

from llm2bids.exceptions import DatasetError

HrfModel = Literal["spm", "glover"]  # names of responses, as nilearn spells them

_UNITS_AT_A_TIME = 16384

_LENGTH = 36.0  # seconds after which a response of 32 s has died away


def convolve(
    values: npt.NDArray[np.float32],
    t_r: float,
    hrf_model: HrfModel,
    *,
    baseline: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Convolve values (n_tokens, n_units) along time; baseline (n_units,)."""
    # Glover 1999, NeuroImage 9:416, and SPM's difference of gamma functions, as in nilearn
    if hrf_model not in get_args(HrfModel):
        raise DatasetError(f"hrf_model {hrf_model!r} is not known; use 'spm', 'glover' or None")
    kernel = _response_to_one_volume(t_r, hrf_model)
    convolved = np.empty_like(values)
    for start in range(0, values.shape[1], _UNITS_AT_A_TIME):
        part = slice(start, start + _UNITS_AT_A_TIME)
        deviation = values[:, part] - baseline[part]
        convolved[:, part] = oaconvolve(deviation, kernel, axes=0)[: len(values)] + baseline[part]
    return convolved


def _response_to_one_volume(t_r: float, hrf_model: HrfModel) -> npt.NDArray[np.float32]:
    """Sample the response to activity of one volume where nilearn samples its regressors."""
    from nilearn.glm.first_level import compute_regressor  # takes seconds, and few need it

    frame_times = np.arange(0.0, _LENGTH, t_r)
    volume = np.array([[0.0], [t_r], [1.0]])
    regressor, _ = compute_regressor(volume, hrf_model, frame_times)
    return np.asarray(regressor / regressor.sum(), dtype=np.float32)
