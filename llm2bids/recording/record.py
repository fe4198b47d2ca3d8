"""Recording a run: prompts in, values of every unit at every generated token out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import UsageError
from llm2bids.model.units import Site
from llm2bids.paradigm.design import RunDesign
from llm2bids.recording.batches import (
    DEFAULT_BATCH_SIZE,
    LARGEST,
    OnToken,
    check_batch_size,
    check_finite,
    in_batches,
)
from llm2bids.recording.tokens import (
    carried_tokens,
    first_step,
    prompt_tokens,
    provenance,
    token_table,
    token_uniforms,
)

if TYPE_CHECKING:
    from llm2bids.model.choose import ChosenTokens
    from llm2bids.model.load import LoadedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """Tokens and layer outputs of one run."""

    design: RunDesign
    sites: tuple[Site, ...]
    values: npt.NDArray[np.float32]  # (n_tokens, n_units): one row per volume, trial by trial
    # One row for each generated token, also for a first one that gave no volume (<NA>): volume,
    # trial, block, trial_type (<NA> when off), prompt_id, position (0 for the first generated
    # token), token_id, token, surprisal and entropy (bit, of the untempered distribution),
    # prompt_tokens (with a carried context, of all that stands before the answer).
    tokens: pd.DataFrame
    provenance: Mapping[str, object] = field(default_factory=dict)  # for the sidecar
    # Of a story: what is on its clock instead of trial by trial. Its tokens have onset and duration
    # (those of their word), word (its number), and a volume that several share or none has.
    events: pd.DataFrame | None = None  # one row for each word that has a time
    confounds: pd.DataFrame | None = None  # one row for each volume
    start_time: float = 0.0  # from a volume's onset to the time that it stands for, seconds


def record_run(
    loaded: "LoadedModel",
    design: RunDesign,
    sites: Sequence[Site],
    **how: Any,
) -> Recording:
    """Let the model answer the prompts of a run; `how` are keywords of `record_runs`."""
    (recording,) = record_runs(loaded, [design], sites, **how)
    return recording


def record_runs(
    loaded: "LoadedModel",
    designs: Sequence[RunDesign],
    sites: Sequence[Site],
    *,
    keep_first: bool = False,
    batch_size: int | None = None,
    on_token: OnToken | None = None,
    out: npt.NDArray[np.float32] | None = None,
) -> list[Recording]:
    """Record several runs of a participant, whose prompts run together.

    Tokens depend on the designs' seeds alone, and on `batch_size` only where rounding tips a draw.
    `on_token` is told how many volumes were added; a negative number takes back those of a batch
    that is tried again in halves. Values are parts of one array; giving that of recordings that are
    done with as `out` (n_volumes of all runs, n_units) saves a tenth of a run: fresh memory takes
    the system time.
    """
    from llm2bids.model.choose import ChosenTokens
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
    answers = ChosenTokens.joined(parts)
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
    answers: "ChosenTokens",
    lengths: Sequence[int],
    *,
    method: str,
    first: int,
    batch_size: int,
    seconds: float,
) -> Recording:
    """Put together what a model gave for one run."""
    from llm2bids.model.text import decode

    texts = decode(loaded, answers.token_ids.ravel())
    return Recording(
        design=design,
        sites=tuple(sites),
        values=values.reshape(design.n_volumes, values.shape[2]),
        tokens=token_table(design, answers, texts, lengths, first),
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
    designs: Sequence[RunDesign], *, batch_size: int | None = None, n_units: int | None = None
) -> list[tuple[RunDesign, ...]]:
    """Find the runs that are recorded together: as many of a participant as fit into a batch.

    Without a batch size, of the default and as long as values of so many units fit into `LARGEST`
    bytes; without either, each run is by itself.
    """
    # groups must not depend on which runs are recorded already, who else is recorded or what memory
    # there is: values of another batch differ by rounding
    check_batch_size(batch_size)
    if batch_size is None and n_units is not None:
        per_prompt = 4 * n_units * max((d.tokens_per_prompt for d in designs), default=1)
        batch_size = min(DEFAULT_BATCH_SIZE, LARGEST // per_prompt)
    groups: list[tuple[RunDesign, ...]] = []
    n_prompts = 0
    for design in designs:
        n_prompts += len(design.trials)
        fits = n_prompts <= (batch_size or 1) and design.context != "carry"
        if groups and fits and _who(groups[-1][0]) == _who(design):
            groups[-1] += (design,)
        else:
            groups.append((design,))
            n_prompts = len(design.trials)
    return groups


def _who(design: RunDesign) -> tuple[str, str | None]:
    """Name the participant and the session of a run."""
    return design.participant_label, design.session


def _generate(
    loaded: "LoadedModel",
    designs: Sequence[RunDesign],
    sites: Sequence[Site],
    values: npt.NDArray[np.float32],
    *,
    first: int,
    batch_size: int | None,
    on_token: OnToken | None,
) -> tuple[int, "list[ChosenTokens]", list[int]]:
    """Generate all answers; return the batches' size, what each gave, and the prompts' lengths."""
    from llm2bids.model.generate import generate_batch

    n_tokens = values.shape[1] + first
    carry = designs[0].context == "carry"
    prompts = [trial.prompt for design in designs for trial in design.trials]
    contexts = [] if carry else prompt_tokens(loaded, prompts, n_tokens=n_tokens)
    uniforms = np.concatenate(
        [token_uniforms(design.seed, range(len(design.trials)), n_tokens) for design in designs]
    )
    answers: list[ChosenTokens] = []

    def generate(part: slice, tell: OnToken) -> "ChosenTokens":
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
    kinds = {(design.tokens_per_prompt, design.sampling, design.context) for design in designs}
    if len(kinds) != 1 or (len(designs) > 1 and designs[0].context == "carry"):
        raise UsageError(
            f"{len(designs)} runs: expected runs of one paradigm that do not carry their context; "
            "record each by itself"
        )


def shaped(out: npt.NDArray[np.float32], shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """View the caller's array as (n_prompts, n_volumes, n_units)."""
    expected = (shape[0] * shape[1], shape[2])
    if out.dtype != np.float32 or out.shape != expected or not out.flags.c_contiguous:
        raise UsageError(
            f"out: {out.dtype} array of shape {out.shape}; expected a contiguous float32 array of "
            f"shape {expected}"
        )
    return out.reshape(shape)
