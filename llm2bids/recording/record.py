"""Recording a run: prompts in, values of every unit at every generated token out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import UsageError
from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.batches import OnToken, check_finite, in_batches
from llm2bids.recording.table import provenance, token_table
from llm2bids.recording.trials import carried_tokens, first_step, token_uniforms, trial_tokens

if TYPE_CHECKING:
    from llm2bids.model.choose import Answers
    from llm2bids.model.load import LoadedModel


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
        untempered distribution), ``prompt_tokens`` (int, length of the prompt in tokens; with a
        carried context, of all that stands before the answer).
    provenance : mapping
        What a reader needs to know how the values came about (dtype, device, batch size, whether
        the first token was kept, seconds of generation, ...), for the sidecar.
    """

    design: RunDesign
    sites: tuple[Site, ...]
    values: npt.NDArray[np.float32]
    tokens: pd.DataFrame
    provenance: Mapping[str, object] = field(default_factory=dict)


def record_run(
    loaded: "LoadedModel",
    design: RunDesign,
    sites: Sequence[Site],
    *,
    keep_first: bool = False,
    batch_size: int | None = None,
    on_token: Callable[[int], None] | None = None,
    out: npt.NDArray[np.float32] | None = None,
) -> Recording:
    """Let the model answer the prompts of a run and record it.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    design : RunDesign
        The run.
    sites : sequence of Site
        What to record.
    keep_first : bool
        Record the first generated token too, which the prompt's last position produces. Without
        it a prompt that gives ``n`` volumes generates ``n + 1`` tokens.
    batch_size : int, optional
        Prompts that run together; 32 by default. Halved when memory does not suffice. A carried
        context runs prompt by prompt.
    on_token : callable, optional
        Told the number of volumes that were added; a negative number takes back those of a batch
        that is tried again in halves.
    out : ndarray of float32, shape (n_volumes, n_units), optional
        Where to write the values; by default a new array. Giving the array of a recording that is
        done with saves the time that the system takes to hand out fresh memory (a tenth of a run).

    Returns
    -------
    Recording
        ``design.n_volumes`` volumes. Tokens depend on the design's seed, and neither on
        `batch_size` nor on the state of any random number generator.

    Raises
    ------
    UsageError
        If `batch_size` is below 1, or `out` is of another shape or type.
    RecordingError
        If a prompt does not fit the model's context, memory does not suffice for one prompt, or a
        value is not finite.
    """
    from llm2bids.model.generate import generate_batch
    from llm2bids.model.hooks import new_values

    n_volumes, first = design.tokens_per_prompt, first_step(keep_first)
    n_trials, n_units = len(design.trials), sum(site.width for site in sites)
    uniforms = token_uniforms(design.seed, range(n_trials), n_volumes + first)
    shape = (n_trials, n_volumes, n_units)
    values = new_values(shape, loaded.device) if out is None else shaped(out, shape)
    carry = design.context == "carry"
    contexts = [] if carry else trial_tokens(loaded, design, n_tokens=n_volumes + first)
    answers: list[Answers] = []

    def generate(part: slice, tell: OnToken) -> "Answers":
        if carry:
            said = [*contexts[-1], *answers[-1].token_ids[0].tolist()] if contexts else []
            contexts[part.start :] = [
                carried_tokens(loaded, design, part.start, said, n_tokens=n_volumes + first)
            ]
        answers.append(
            generate_batch(
                loaded,
                contexts[part],
                sites,
                values[part],
                sampling=design.sampling,
                uniforms=uniforms[part],
                first_step=first,
                on_step=tell,
            )
        )
        return answers[-1]

    began = time.perf_counter()
    size, _ = in_batches(
        n_trials, generate, batch_size=1 if carry else batch_size, on_token=on_token
    )
    seconds = time.perf_counter() - began
    check_finite(values, sites, [trial.prompt.prompt_id for trial in design.trials], first)
    return Recording(
        design=design,
        sites=tuple(sites),
        values=values.reshape(n_trials * n_volumes, n_units),
        tokens=token_table(loaded, design, answers, [len(c) for c in contexts], first),
        provenance=provenance(
            loaded,
            method="record",
            seed=design.seed,
            keep_first=keep_first,
            batch_size=size,
            n_tokens=n_trials * (n_volumes + first),
            seconds=seconds,
        ),
    )


def shaped(out: npt.NDArray[np.float32], shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """View an array that the caller gave as prompts, volumes, units.

    Parameters
    ----------
    out : ndarray of float32, shape (n_prompts * n_volumes, n_units)
        The array.
    shape : tuple of int
        ``(n_prompts, n_volumes, n_units)``.

    Returns
    -------
    ndarray of float32
        The same memory in that shape.

    Raises
    ------
    UsageError
        If it is of another shape or type, or not contiguous.
    """
    expected = (shape[0] * shape[1], shape[2])
    if out.dtype != np.float32 or out.shape != expected or not out.flags.c_contiguous:
        raise UsageError(
            f"out: {out.dtype} array of shape {out.shape}; expected a contiguous float32 array of "
            f"shape {expected}"
        )
    return out.reshape(shape)
