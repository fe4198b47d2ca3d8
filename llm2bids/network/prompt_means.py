"""Reading a dataset into one image per prompt, and into effects of fewer tokens."""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from llm2bids.exceptions import NetworkError
from llm2bids.inference.inputs import Inputs, RunEntry
from llm2bids.inference.runs import RunData
from llm2bids.inference.trials import volume_trials
from llm2bids.network.effects import Floats32, PromptMeans, TaskEffects, task_effects
from llm2bids.space.image import BASELINE, COUNTS_PER_SD


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptSamples:
    """One image per prompt, and the effects that fewer of its tokens give.

    Parameters
    ----------
    means : PromptMeans
        Means over all volumes of each prompt, in standard deviations of the calibration.
    n_tokens : int
        Volumes of the shortest prompt.
    first_tokens : dict of int to TaskEffects
        For some numbers of tokens: effects of the means over each prompt's first so many volumes.
    """

    means: PromptMeans
    n_tokens: int
    first_tokens: dict[int, TaskEffects]


def read_prompt_means(
    inputs: Inputs,
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    units: npt.ArrayLike | None = None,
    mem_gb: float | None = None,
    work_dir: Path | None = None,
    progress: bool = False,
) -> PromptMeans:
    """Read the mean image of every prompt.

    Each run is read once, a few volumes at a time: memory is that of the result,
    ``4 * n_prompts * n_units`` bytes, unless it is held in a scratch file.

    Parameters
    ----------
    inputs : Inputs
        A recorded dataset, from `llm2bids.inference.inputs.open_inputs`.
    participant_label, task : sequence of str, optional
        Only these; labels with or without ``sub-`` and ``task-``.
    units : array_like of int or bool, optional
        Units in recording order (indices or a mask); all by default.
    mem_gb : float, optional
        Hold the values in a scratch file where they take more; it goes when they are no longer
        used. Without, they are in memory.
    work_dir : Path, optional
        Folder for the scratch file; the system's temporary folder by default.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    PromptMeans
        In the order of participants, tasks, runs and presentation; values in standard deviations
        of the calibration.

    Raises
    ------
    NetworkError
        If a participant lacks a run, or `units` has another shape than the space.
    InferenceError
        If an image is missing, damaged, of another space, or does not fit its transcript.
    """
    return read_samples(
        inputs,
        participant_label=participant_label,
        task=task,
        units=units,
        n_tokens=(),
        mem_gb=mem_gb,
        work_dir=work_dir,
        progress=progress,
    ).means


def read_samples(
    inputs: Inputs,
    *,
    participant_label: Sequence[str] | None = None,
    task: Sequence[str] | None = None,
    units: npt.ArrayLike | None = None,
    n_tokens: Sequence[int] | None = None,
    mem_gb: float | None = None,
    work_dir: Path | None = None,
    progress: bool = False,
) -> PromptSamples:
    """Read the mean image of every prompt, and in the same pass effects of fewer tokens.

    Parameters
    ----------
    inputs, participant_label, task, units, mem_gb, work_dir, progress
        As for `read_prompt_means`; memory also holds one participant's prompts for each number of
        tokens.
    n_tokens : sequence of int, optional
        Numbers of tokens, below those that the shortest prompt has; by default the powers of 2.

    Returns
    -------
    PromptSamples
        Means over all tokens, and effects of the first few.

    Raises
    ------
    NetworkError
        As `read_prompt_means`; if a prompt has too few tokens, or a run lacks on or off prompts.
    InferenceError
        As `read_prompt_means`.
    """
    chosen = inputs.choose(participant_label=participant_label, task=task)
    runs = [_Shown.of(inputs.load(entry)) for entry in _complete(chosen)]
    shortest = min(int(run.counts.min()) for run in runs)
    wanted = _steps(n_tokens, shortest)
    places = inputs.space.file_index if units is None else _places(inputs, units)
    values = _allocate(_n_prompts(runs), places.size, mem_gb=mem_gb, work_dir=work_dir)
    fewer: dict[int, list[TaskEffects]] = {count: [] for count in wanted}
    start = 0
    bar = tqdm(total=len(runs), desc="prompt means", file=sys.stderr, disable=not progress)
    with bar:
        for person in _by_participant(runs):
            early = np.empty((len(wanted), _n_prompts(person), places.size), dtype=np.float32)
            row = 0
            for run in person:
                part = slice(row, row + run.counts.size)
                _average(run, places, wanted, out=values[start:][part], early=early[:, part])
                row = part.stop
                bar.update()
            for count, means in zip(wanted, early, strict=True):
                fewer[count].append(task_effects(_labelled(means, person)))
            start += row
    return PromptSamples(
        means=_labelled(values, runs),
        n_tokens=shortest,
        first_tokens={count: _stack(parts) for count, parts in fewer.items()},
    )


def powers_below(limit: int) -> tuple[int, ...]:
    """List the powers of two below a number.

    Parameters
    ----------
    limit : int
        The number.

    Returns
    -------
    tuple of int
        Rising.

    Examples
    --------
    >>> powers_below(12)
    (1, 2, 4, 8)
    >>> powers_below(1)
    ()
    """
    return tuple(1 << power for power in range(limit.bit_length()) if 1 << power < limit)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shown:
    """A run and its prompts."""

    run: RunData
    trials: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    trial_types: list[str]
    prompt_ids: list[str]

    @classmethod
    def of(cls, run: RunData) -> "_Shown":
        trials, table = volume_trials(run.transcript, run.n_volumes), run.trials
        return cls(
            run=run,
            trials=trials,
            counts=np.bincount(trials),
            trial_types=table["trial_type"].tolist(),
            prompt_ids=table["prompt_id"].tolist(),
        )

    @property
    def name(self) -> str:
        index = "" if self.run.run is None else f"_run-{self.run.run}"
        return f"task-{self.run.task}{index}"


def _complete(chosen: Mapping[tuple[str, str], tuple[RunEntry, ...]]) -> list[RunEntry]:
    missing = [f"sub-{label} task-{task}" for (label, task), found in chosen.items() if not found]
    if missing:
        raise NetworkError(
            f"prompt means: no run of {', '.join(missing)}; expected every participant in every "
            "task; leave the participant or the task out, or record the dataset again to add it"
        )
    return [entry for found in chosen.values() for entry in found]


def _n_prompts(runs: Sequence[_Shown]) -> int:
    return sum(run.counts.size for run in runs)


def _steps(n_tokens: Sequence[int] | None, shortest: int) -> tuple[int, ...]:
    wanted = powers_below(shortest) if n_tokens is None else tuple(n_tokens)
    if any(not 1 <= count <= shortest for count in wanted):
        raise NetworkError(
            f"n_tokens: found {', '.join(map(str, wanted))}; expected numbers from 1 to "
            f"{shortest}, which the shortest prompt has"
        )
    return wanted


def _places(inputs: Inputs, units: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Give the places of some units in a volume in file order."""
    chosen, n_units = np.asarray(units), inputs.space.n_units
    if chosen.dtype == np.bool_ and chosen.shape == (n_units,):
        chosen = np.flatnonzero(chosen)
    numbers = chosen.ndim == 1 and chosen.size > 0 and np.issubdtype(chosen.dtype, np.integer)
    if not numbers or chosen.min() < 0 or chosen.max() >= n_units:
        raise NetworkError(
            f"units: found {chosen.dtype} of shape {chosen.shape}; expected numbers from 0 to "
            f"{n_units - 1}, or a mask of {n_units}, with one unit or more"
        )
    return np.asarray(inputs.space.file_index[chosen], dtype=np.intp)


def _allocate(
    n_prompts: int, n_units: int, *, mem_gb: float | None, work_dir: Path | None
) -> Floats32:
    shape = (n_prompts, n_units)
    if mem_gb is None or 4 * n_prompts * n_units <= mem_gb * 1e9:
        return np.empty(shape, dtype=np.float32)
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=work_dir) as file:  # unnamed: it goes with the mapping
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _average(
    shown: _Shown,
    places: npt.NDArray[np.intp],
    wanted: tuple[int, ...],
    *,
    out: Floats32,
    early: Floats32,
) -> None:
    """Average the volumes of each prompt into `out`, and its first so many into `early`."""
    done = np.zeros(shown.counts.size, dtype=np.int64)
    out[:] = 0
    for start, block in shown.run.series.blocks():
        volumes = block.reshape(len(block), -1)
        for offset, trial in enumerate(shown.trials[start : start + len(block)]):
            out[trial] += volumes[offset].take(places)
            done[trial] += 1
            if done[trial] in wanted:
                early[wanted.index(int(done[trial])), trial] = out[trial]
    out /= shown.counts[:, np.newaxis].astype(np.float32)
    _in_sd(out)
    for count, part in zip(wanted, early, strict=True):
        part /= np.float32(count)
        _in_sd(part)


def _in_sd(counts: Floats32) -> None:
    counts -= np.float32(BASELINE)
    counts /= np.float32(COUNTS_PER_SD)


def _by_participant(runs: Sequence[_Shown]) -> Iterator[list[_Shown]]:
    for label in dict.fromkeys(shown.run.participant_label for shown in runs):
        yield [shown for shown in runs if shown.run.participant_label == label]


def _labelled(values: Floats32, runs: Sequence[_Shown]) -> PromptMeans:
    def each(names: Sequence[str]) -> npt.NDArray[np.str_]:
        return np.repeat(np.asarray(names), [shown.counts.size for shown in runs])

    return PromptMeans(
        values=values,
        participants=each([shown.run.participant_label for shown in runs]),
        runs=each([shown.name for shown in runs]),
        trial_types=np.asarray([kind for shown in runs for kind in shown.trial_types]),
        prompt_ids=np.asarray([name for shown in runs for name in shown.prompt_ids]),
    )


def _stack(parts: Sequence[TaskEffects]) -> TaskEffects:
    """Put the effects of single participants together, tasks in the order of the first one."""
    tasks = parts[0].tasks
    order = [[part.tasks.index(task) for task in tasks] for part in parts]
    pairs = list(zip(parts, order, strict=True))
    return TaskEffects(
        effects=np.concatenate([part.effects[:, places] for part, places in pairs]),
        participants=tuple(name for part in parts for name in part.participants),
        tasks=tasks,
        on=tuple(tuple(part.on[0][place] for place in places) for part, places in pairs),
        off=tuple(tuple(part.off[0][place] for place in places) for part, places in pairs),
    )
