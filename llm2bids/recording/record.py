"""Recording a run: prompts in, values of every unit at every generated token out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Tokens and layer outputs of one run.

    Parameters
    ----------
    design : RunDesign
        What was shown.
    sites : tuple of Site
        What was recorded, in the order of the columns of `values`.
    values : ndarray of float32, shape (n_tokens, n_units)
        Layer outputs at the position that produces each recorded token; rows in the order of the
        trials, then of the tokens: one row per volume.
    tokens : DataFrame
        One row for each generated token, in the same order. Columns: ``volume`` (Int64, row of
        `values`; <NA> for a first token that was left out), ``trial`` (int, index in
        ``design.trials``), ``block`` (int), ``trial_type`` (str, <NA> when off), ``prompt_id``
        (str), ``position`` (int, 0 for the first generated token of the prompt), ``token_id``
        (int), ``token`` (str), ``surprisal`` and ``entropy`` (float64, bit, of the model's
        untempered distribution), ``prompt_tokens`` (int, length of the prompt in tokens).
    provenance : mapping
        What a reader needs to know how the values came about (dtype, device, batch size, whether
        the first token was kept, seconds of generation, ...), for the sidecar.
    """

    design: RunDesign
    sites: tuple[Site, ...]
    values: npt.NDArray[np.float32]
    tokens: pd.DataFrame
    provenance: Mapping[str, object] = field(default_factory=dict)
