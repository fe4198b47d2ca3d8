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
from llm2bids.recording.batches import (
    OnToken,
    check_batch_size,
    check_finite,
    in_batches,
)
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
        ``design.n_volumes`` volumes. Tokens depend on the design's seed and on the state of no
        random number generator; on `batch_size` only where rounding tips a draw.

    Raises
    ------
    UsageError
        If `batch_size` is below 1, or `out` is of another shape or type.
    RecordingError
        If a prompt does not fit the model's context, memory does not suffice for one prompt, or a
        value is not finite.
    """
    (recording,) = record_runs(
        loaded, [design], sites, keep_first=keep_first, batch_size=batch_size, on_token=on_token,
        out=out,
    )  # fmt: skip
    return recording


def record_runs(
    loaded: "LoadedModel",
    designs: Sequence[RunDesign],
    sites: Sequence[Site],
    *,
    keep_first: bool = False,
    batch_size: int | None = None,
    on_token: Callable[[int], None] | None = None,
    out: npt.NDArray[np.float32] | None = None,
) -> list[Recording]:
    """Record several runs, of one participant or of more, whose prompts run together.

    Parameters
    ----------
    loaded, sites, keep_first, batch_size, on_token
        As :func:`record_run` takes them.
    designs : sequence of RunDesign
        Runs of one paradigm; see :func:`group_runs`. Only one if it carries its context.
    out : ndarray of float32, shape (n_volumes of all runs, n_units), optional
        Where to write the values.

    Returns
    -------
    list of Recording
        One for each run, as from :func:`record_run` within float tolerance; their values are
        parts of one array.

    Raises
    ------
    UsageError
        As :func:`record_run`; also if the runs do not go together.
    RecordingError
        As :func:`record_run`.
    """
    from llm2bids.model.choose import Answers
    from llm2bids.model.hooks import new_values

    _check_alike(designs)
    n_volumes, first = designs[0].tokens_per_prompt, first_step(keep_first)
    prompts = [trial.prompt for design in designs for trial in design.trials]
    shape = (len(prompts), n_volumes, sum(site.width for site in sites))
    values = new_values(shape, loaded.device) if out is None else shaped(out, shape)
    began = time.perf_counter()
    size, parts, lengths = _generate(
        loaded, designs, sites, values, first=first, batch_size=batch_size, on_token=on_token
    )
    seconds = time.perf_counter() - began
    check_finite(values, sites, [prompt.prompt_id for prompt in prompts], first)
    answers = Answers.joined(parts)
    recordings = []
    start = 0
    for design in designs:
        part = slice(start, start + len(design.trials))
        start = part.stop
        share = len(design.trials) / len(prompts)
        recordings.append(
            make_recording(
                loaded, design, sites, values[part], answers[part], lengths[part],
                method="record", first=first, batch_size=size, seconds=share * seconds,
            )
        )  # fmt: skip
    return recordings


def make_recording(
    loaded: "LoadedModel",
    design: RunDesign,
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    answers: "Answers",
    lengths: Sequence[int],
    *,
    method: str,
    first: int,
    batch_size: int,
    seconds: float,
) -> Recording:
    """Put together what a model gave for one run.

    Parameters
    ----------
    loaded : LoadedModel
        The model.
    design : RunDesign
        The run.
    sites : sequence of Site
        What was recorded.
    values : ndarray of float32, shape (n_trials, n_volumes of a trial, n_units)
        Layer outputs; not copied.
    answers : Answers
        Tokens of each trial.
    lengths : sequence of int
        Length of each prompt in tokens.
    method : {"record", "replay"}
        Whether the model generated the tokens or was given them.
    first : {0, 1}
        First token of each answer that was recorded.
    batch_size : int
        Prompts in a batch.
    seconds : float
        Time that the run took.

    Returns
    -------
    Recording
        The run.
    """
    return Recording(
        design=design,
        sites=tuple(sites),
        values=values.reshape(design.n_volumes, values.shape[2]),
        tokens=token_table(loaded, design, answers, lengths, first),
        provenance=provenance(
            loaded,
            method=method,
            seed=design.seed,
            keep_first=first == 0,
            batch_size=batch_size,
            n_tokens=answers.token_ids.size,
            seconds=seconds,
        ),
    )


def group_runs(
    designs: Sequence[RunDesign], *, batch_size: int | None = None
) -> list[tuple[RunDesign, ...]]:
    """Find the runs that are recorded together: with a batch size, as many as fill a batch.

    Parameters
    ----------
    designs : sequence of RunDesign
        All runs, in order: groups must not depend on which of them are recorded already, as
        values of another batch differ by rounding.
    batch_size : int, optional
        Prompts that run together. Without it each run is by itself: then its values do not depend
        on which other runs there are, and a fault costs no other run.

    Returns
    -------
    list of tuple of RunDesign
        Consecutive runs. Those that carry their context are alone.

    Raises
    ------
    UsageError
        If `batch_size` is below 1.
    """
    check_batch_size(batch_size)
    groups: list[tuple[RunDesign, ...]] = []
    n_prompts = 0
    for design in designs:
        n_prompts += len(design.trials)
        if groups and n_prompts <= (batch_size or 1) and design.context != "carry":
            groups[-1] += (design,)
        else:
            groups.append((design,))
            n_prompts = len(design.trials)
    return groups


def _generate(
    loaded: "LoadedModel",
    designs: Sequence[RunDesign],
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    *,
    first: int,
    batch_size: int | None,
    on_token: OnToken | None,
) -> tuple[int, "list[Answers]", list[int]]:
    """Generate all answers; return the batches' size, what each gave, and the prompts' lengths."""
    from llm2bids.model.generate import generate_batch

    n_tokens = values.shape[1] + first
    carry = designs[0].context == "carry"
    contexts = (
        []
        if carry
        else [text for one in designs for text in trial_tokens(loaded, one, n_tokens=n_tokens)]
    )
    uniforms = np.concatenate(
        [token_uniforms(one.seed, range(len(one.trials)), n_tokens) for one in designs]
    )
    answers: list[Answers] = []

    def generate(part: slice, tell: OnToken) -> "Answers":
        if carry:
            said = [*contexts[-1], *answers[-1].token_ids[0].tolist()] if contexts else []
            contexts[part.start :] = [
                carried_tokens(loaded, designs[0], part.start, said, n_tokens=n_tokens)
            ]
        answers.append(
            generate_batch(
                loaded,
                contexts[part],
                sites,
                values[part],
                sampling=designs[0].sampling,
                uniforms=uniforms[part],
                first_step=first,
                on_step=tell,
            )
        )
        return answers[-1]

    size, _ = in_batches(
        len(values), generate, batch_size=1 if carry else batch_size, on_token=on_token
    )
    return size, answers, [len(context) for context in contexts]


def _check_alike(designs: Sequence[RunDesign]) -> None:
    kinds = {(one.tokens_per_prompt, one.sampling, one.context) for one in designs}
    if len(kinds) != 1 or (len(designs) > 1 and designs[0].context == "carry"):
        raise UsageError(
            f"{len(designs)} runs: expected runs of one paradigm that do not carry their context; "
            "record each by itself"
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
