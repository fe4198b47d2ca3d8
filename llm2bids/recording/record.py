"""Recording runs: prompts in, values of every unit at every generated (or given) token out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm2bids.exceptions import RecordingError
from llm2bids.model.tokenizer import decode, encode
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
    from llm2bids.model.generate import ChosenTokens
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


# Given texts in a batch, where the caller names none: all logits of all positions are computed.
REPLAY_BATCH_SIZE = 8

# What gives the answers of some prompts and writes their values.
Work = Callable[[slice, npt.NDArray[np.float32], OnToken], "ChosenTokens"]


class How(TypedDict, total=False):
    """How runs are recorded."""

    keep_first: bool  # the first generated token gives a volume, too
    batch_size: int | None
    # told how many volumes were added; a negative number takes back those of a batch that is tried
    # again in halves
    on_token: OnToken | None
    # (n_volumes of all runs, n_units): the values of recordings that are done with, which saves a
    # tenth of a run: fresh memory takes the system time
    out: npt.NDArray[np.float32] | None


def record_run(
    loaded: "LoadedModel", design: RunDesign, sites: Sequence[Site], **how: Unpack[How]
) -> Recording:
    """Let the model answer the prompts of a run."""
    (recording,) = record_runs(loaded, [design], sites, **how)
    return recording


def record_runs(
    loaded: "LoadedModel", designs: Sequence[RunDesign], sites: Sequence[Site], **how: Unpack[How]
) -> list[Recording]:
    """Record several runs of a participant and a paradigm, whose prompts run together.

    Tokens depend on the designs' seeds alone, and on `batch_size` only where rounding tips a draw.
    Values are parts of one array.
    """
    from llm2bids.model.generate import generate_batch

    first, carry = first_step(how.get("keep_first", False)), designs[0].context == "carry"
    n_tokens = designs[0].tokens_per_prompt + first
    prompts = [trial.prompt for design in designs for trial in design.trials]
    contexts = [] if carry else prompt_tokens(loaded, prompts, n_tokens=n_tokens)
    uniforms = np.concatenate(
        [token_uniforms(design.seed, range(len(design.trials)), n_tokens) for design in designs]
    )
    answer: list[int] = []  # at the trial before, where one context is carried

    def generate(part: slice, values: npt.NDArray[np.float32], tell: OnToken) -> "ChosenTokens":
        if carry:
            contexts.append(carried_tokens(loaded, designs[0], contexts, answer, n_tokens=n_tokens))
        answers, _ = generate_batch(
            loaded, contexts[part], sites, sampling=designs[0].sampling,
            uniforms=uniforms[part], first_step=first, on_step=tell, out=values,
        )  # fmt: skip
        answer[:] = answers.token_ids[-1].tolist()
        return answers

    if carry:
        how["batch_size"] = 1
    return _recorded(loaded, designs, sites, "record", generate, contexts, **how)


def replay_run(
    loaded: "LoadedModel",
    design: RunDesign,
    sites: Sequence[Site],
    answers: Sequence[str] | Sequence[Sequence[int]],
    **how: Unpack[How],
) -> Recording:
    """Record a run whose answers are given, as text or token ids, in one forward pass a batch.

    On the tokens of :func:`record_run` it equals that recording.
    """
    from llm2bids.model.generate import read_batch

    first, n_volumes = first_step(how.get("keep_first", False)), design.tokens_per_prompt
    n_tokens = n_volumes + first
    given = answer_tokens(loaded, design, answers, n_tokens=n_tokens)
    contexts: list[list[int]] = []
    if design.context == "carry":
        for answer in [[], *given[:-1]]:
            contexts.append(carried_tokens(loaded, design, contexts, answer, n_tokens=n_tokens))
    else:
        prompts = [trial.prompt for trial in design.trials]
        contexts = prompt_tokens(loaded, prompts, n_tokens=n_tokens)

    def read(part: slice, values: npt.NDArray[np.float32], tell: OnToken) -> "ChosenTokens":
        answers, _ = read_batch(
            loaded, contexts[part], given[part], sites, first_step=first, out=values
        )
        tell(len(given[part]) * n_volumes)
        return answers

    how["batch_size"] = how.get("batch_size") or REPLAY_BATCH_SIZE
    (recording,) = _recorded(loaded, [design], sites, "replay", read, contexts, **how)
    return recording


def _recorded(
    loaded: "LoadedModel",
    designs: Sequence[RunDesign],
    sites: Sequence[Site],
    method: str,
    work: Work,
    contexts: Sequence[Sequence[int]],
    *,
    keep_first: bool = False,
    batch_size: int | None = None,
    on_token: OnToken | None = None,
    out: npt.NDArray[np.float32] | None = None,
) -> list[Recording]:
    """Work through the prompts of some runs in batches, and part what came of it by run."""
    from llm2bids.model.generate import ChosenTokens
    from llm2bids.model.hooks import new_values

    first = first_step(keep_first)
    ids = [trial.prompt.prompt_id for design in designs for trial in design.trials]
    shape = (len(ids), designs[0].tokens_per_prompt, sum(site.width for site in sites))
    values = new_values(shape, loaded.device) if out is None else out.reshape(shape)
    began = time.perf_counter()
    batches = in_batches(
        len(ids), lambda part, tell: work(part, values[part], tell),
        batch_size=batch_size, on_token=on_token,
    )  # fmt: skip
    sizes, parts = zip(*batches, strict=True)
    seconds = time.perf_counter() - began
    check_finite(values, sites, ids, first)
    joined = ChosenTokens.joined(parts)
    recordings, start = [], 0
    for design in designs:
        part = slice(start, start + len(design.trials))
        start = part.stop
        answers = joined.of(part)
        texts = decode(loaded, answers.token_ids.ravel())
        made = provenance(
            loaded, method=method, seed=design.seed, keep_first=keep_first, batch_size=sizes[-1],
            n_tokens=answers.token_ids.size, seconds=seconds * len(design.trials) / len(ids),
        )  # fmt: skip
        recordings.append(
            Recording(
                design=design,
                sites=tuple(sites),
                values=values[part].reshape(design.n_volumes, shape[2]),
                tokens=token_table(design, answers, texts, list(map(len, contexts[part])), first),
                provenance=made,
            )
        )
    return recordings


def answer_tokens(
    loaded: "LoadedModel",
    design: RunDesign,
    answers: Sequence[str] | Sequence[Sequence[int]],
    *,
    n_tokens: int,
) -> list[list[int]]:
    """Turn the given answers into token ids, all of one length."""
    if len(answers) != len(design.trials):
        raise RecordingError(
            f"transcript of task {design.task}: {len(answers)} answers for "
            f"{len(design.trials)} trials; expected one for each"
        )
    given = []
    for index, trial in enumerate(design.trials):
        answer = answers[index]
        if isinstance(answer, str):
            tokens = encode(loaded, answer, special=False) if answer else []
        else:
            tokens = [int(token) for token in answer]
        what = f"answer to prompt {trial.prompt.prompt_id} (trial {index})"
        if len(tokens) < n_tokens:
            raise RecordingError(
                f"{what}: {len(tokens)} tokens; expected at least {n_tokens} for "
                f"{design.tokens_per_prompt} volumes: give a longer answer or take fewer tokens "
                "per prompt"
            )
        if unknown := [token for token in tokens if not 0 <= token < loaded.n_vocabulary]:
            raise RecordingError(
                f"{what}: token id {unknown[0]}; expected 0 to {loaded.n_vocabulary - 1}, the "
                f"vocabulary of {loaded.name}"
            )
        given.append(tokens[:n_tokens])
    return given


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
