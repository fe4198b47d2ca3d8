"""The design of each run: who gets which prompts, in which blocks and order, from one seed."""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import ParadigmError, UsageError
from llm2bids.paradigm.seed import derive_generator, derive_seed
from llm2bids.paradigm.table import suggest
from llm2bids.paradigm.task import Context, Order, Paradigm, Prompt, Sampling, Task

# The prompts of each condition, as :func:`llm2bids.paradigm.prompts.load_banks` gives them.
Banks = Mapping[str, tuple[Prompt, ...]]

# ``(trial_type, n_prompts)``; the trial type of an off block is None.
_Block = tuple[str | None, int]


def latin_square(n_conditions: int) -> npt.NDArray[np.int64]:
    """Make the rows (n_rows, n_conditions) over which conditions are counterbalanced."""
    # Every condition stands equally often at every place and straight after every other one:
    # Williams 1949, Australian Journal of Scientific Research A 2:149-168.
    steps = np.arange(n_conditions)
    first_row = np.where(steps % 2 == 1, (steps + 1) // 2, -steps // 2) % n_conditions
    rows = (first_row + steps[:, None]) % n_conditions
    if n_conditions % 2 == 1 and n_conditions > 1:
        rows = np.concatenate([rows, rows[:, ::-1]])
    return rows.astype(np.int64)


def order_blocks(
    order: Order, trial_types: Sequence[str], prompts_per_block: int
) -> tuple[_Block, ...]:
    """Lay out the blocks of one run."""
    # every order begins and ends with off and is its own mirror image: a linear drift is orthogonal
    # to on against off
    if order == "story":
        raise ParadigmError("order 'story': a story has no prompts to answer; `llm2bids read` it")
    if order == "interleaved":
        shown, n_prompts = list(trial_types) * prompts_per_block, 1
    else:
        shown, n_prompts = list(trial_types), prompts_per_block
    blocks: list[_Block] = [(None, n_prompts)]
    for trial_type in shown:
        blocks += [(trial_type, n_prompts), (None, n_prompts)]
    return tuple(blocks)


class Slice(NamedTuple):
    """The prompts of one trial type in one run, as a place in a participant's part of a bank."""

    condition: str
    task: str
    run: int
    trial_type: str | None  # label of the event, None for the off prompts
    start: int  # first place in the participant's part, from 0
    n_prompts: int


def participant_label(participant: int) -> str:
    """Give the BIDS label of a participant."""
    return f"{participant:02d}"


def slice_banks(paradigm: Paradigm) -> tuple[Slice, ...]:
    """Cut each bank's part of a participant into slices, one for each run and trial type."""
    slices: list[Slice] = []
    used: Counter[str] = Counter()
    for task in paradigm.tasks:
        conditions: dict[str | None, str] = {None: paradigm.baseline, **dict(task.conditions)}
        trial_types = list(dict(task.conditions))
        blocks = order_blocks(paradigm.order, trial_types, paradigm.prompts_per_block)
        counts: Counter[str | None] = Counter()
        for kind, n_prompts in blocks:
            counts[kind] += n_prompts
        for run in range(1, paradigm.n_runs + 1):
            for kind, n_prompts in counts.items():
                bank = conditions[kind]
                slices.append(Slice(bank, task.label, run, kind, used[bank], n_prompts))
                used[bank] += n_prompts
    return tuple(slices)


def prompts_per_participant(paradigm: Paradigm) -> "Counter[str]":
    """Count the prompts that one participant takes from each bank."""
    totals: Counter[str] = Counter()
    for part in slice_banks(paradigm):
        totals[part.condition] += part.n_prompts
    return totals


@lru_cache
def permute_bank(
    paradigm: Paradigm, bank: tuple[Prompt, ...], condition: str, seed: int
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Shuffle a bank, the same for the whole dataset: prompts of runs, and those kept from them."""
    order = derive_generator(seed, "bank", condition).permutation(len(bank))
    shuffled = tuple(bank[index] for index in order)
    n_kept = _count_kept(paradigm, condition)
    largest_run = _largest_run(paradigm, condition)
    if len(bank) < n_kept + largest_run:
        lower = "calibration_prompts" if condition == paradigm.baseline else "--localizer-prompts"
        raise ParadigmError(
            f"bank '{condition}': found {len(bank)} prompts, expected {n_kept + largest_run}"
            f" or more: paradigm '{paradigm.name}' needs {largest_run} for a single run"
            f"{_besides(paradigm, condition)}, none of them twice. Add prompts, or lower "
            f"prompts_per_block{f' or {lower}' if n_kept else ''} in the paradigm file."
        )
    n_run_prompts = len(bank) - n_kept
    return shuffled[:n_run_prompts], shuffled[n_run_prompts:]


def count_participants(paradigm: Paradigm, banks: Banks) -> dict[str, int]:
    """Count the participants that each bank serves with prompts of their own."""
    return {
        condition: max(0, len(banks.get(condition, ())) - _count_kept(paradigm, condition))
        // n_prompts
        for condition, n_prompts in prompts_per_participant(paradigm).items()
    }


def check_participants(paradigm: Paradigm, banks: Banks, n_participants: int) -> None:
    """Refuse more participants than the banks serve with prompts of their own."""
    served = count_participants(paradigm, banks)
    condition = min(served, key=served.__getitem__)
    if served[condition] >= n_participants:
        return
    each = prompts_per_participant(paradigm)[condition]
    n_kept = _count_kept(paradigm, condition)
    besides = _besides(paradigm, condition)
    raise ParadigmError(
        f"bank '{condition}': serves {served[condition]} participants of paradigm "
        f"'{paradigm.name}', found {n_participants}: {each} prompts for each participant{besides} "
        f"make {each * n_participants + n_kept}, and {len(banks.get(condition, ()))} are "
        f"there. Record fewer participants, add prompts, or let participants share prompts with "
        f"--allow-shared-prompts (which inflates the group's false positives)."
    )


def draw_calibration(paradigm: Paradigm, banks: Banks, *, seed: int) -> tuple[Prompt, ...]:
    """Draw the prompts of the calibration scan, which are in no run of any participant."""
    return permute_bank(paradigm, banks[paradigm.baseline], paradigm.baseline, seed)[1]


def draw_localizer(paradigm: Paradigm, banks: Banks, *, seed: int) -> tuple[Prompt, ...]:
    """Draw the prompts of the localizer, from which a functional arrangement is learned."""
    names = dict.fromkeys([paradigm.baseline, *prompts_per_participant(paradigm)])
    drawn = [permute_bank(paradigm, banks[name], name, seed)[1] for name in names]
    return tuple(prompt for prompts in drawn for prompt in prompts)


def take_prompts(
    paradigm: Paradigm, banks: Banks, participant: int, *, seed: int, task_labels: Sequence[str]
) -> dict[tuple[str, int], dict[str | None, list[Prompt]]]:
    """Take the prompts of each run of the tasks, by trial type, in the order of presentation."""
    each = prompts_per_participant(paradigm)
    taken: dict[tuple[str, int], dict[str | None, list[Prompt]]] = {}
    for part in slice_banks(paradigm):
        if part.task not in task_labels:
            continue
        bank, _ = permute_bank(paradigm, banks[part.condition], part.condition, seed)
        first = (participant - 1) * each[part.condition] + part.start
        prompts = [bank[index % len(bank)] for index in range(first, first + part.n_prompts)]
        names = (participant_label(participant), part.task, part.run, part.trial_type or "")
        order = derive_generator(seed, "prompts", *names).permutation(len(prompts))
        run = taken.setdefault((part.task, part.run), {})
        run[part.trial_type] = [prompts[index] for index in order]
    return taken


def _count_kept(paradigm: Paradigm, condition: str) -> int:
    """Count the prompts of a bank that are kept from the runs."""
    baseline = condition == paradigm.baseline
    return paradigm.calibration_prompts if baseline else paradigm.localizer_prompts


def _besides(paradigm: Paradigm, condition: str) -> str:
    n_kept = _count_kept(paradigm, condition)
    use = "calibration" if condition == paradigm.baseline else "localizer"
    return f" and {n_kept} for the {use}" if n_kept else ""


def _largest_run(paradigm: Paradigm, condition: str) -> int:
    totals: Counter[tuple[str, int]] = Counter()
    for part in slice_banks(paradigm):
        if part.condition == condition:
            totals[part.task, part.run] += part.n_prompts
    return max(totals.values(), default=0)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One presentation of a prompt."""

    prompt: Prompt
    trial_type: str | None  # label of the event, None for the off prompts (the implicit baseline)
    block: int  # index of the block in the run, from 0


@dataclass(frozen=True, kw_only=True)
class RunDesign:
    """Everything that decides a run before the model is asked."""

    participant_label: str
    task: str
    run: int | None  # run index from 1, None where the paradigm has one run of each task
    trials: tuple[Trial, ...]
    tokens_per_prompt: int
    context: Context
    sampling: Sampling
    seed: int  # of sampling and dither; from participant, task, run and the dataset's seed
    session: str | None = None  # BIDS label; None where the dataset has no sessions
    clock_volumes: int | None = None  # volumes of a story, which come from a clock, not from tokens

    @property
    def n_volumes(self) -> int:
        """Number of volumes of the run."""
        if self.clock_volumes is not None:
            return self.clock_volumes
        return len(self.trials) * self.tokens_per_prompt


def draw_runs(
    paradigm: Paradigm,
    banks: Banks,
    *,
    participant: int,
    seed: int,
    task_labels: Collection[str] | None = None,
) -> tuple[RunDesign, ...]:
    """Draw the runs of one participant; where the banks end, they begin anew."""
    # Each bank is shuffled once for the dataset; a participant takes a part of its own. The draw
    # depends on seed and participant, not on how many participants or which tasks are recorded.
    label = participant_label(participant)
    tasks = _select_tasks(paradigm, task_labels)
    labels = [task.label for task in tasks]
    prompts = take_prompts(paradigm, banks, participant, seed=seed, task_labels=labels)
    return tuple(
        RunDesign(
            participant_label=label,
            task=task.label,
            run=run if paradigm.n_runs > 1 else None,
            trials=_order_trials(paradigm, task, participant, run, seed, prompts[task.label, run]),
            tokens_per_prompt=paradigm.tokens_per_prompt,
            context=paradigm.context,
            sampling=paradigm.sampling,
            seed=derive_seed(seed, "run", label, task.label, run),
        )
        for task in tasks
        for run in range(1, paradigm.n_runs + 1)
    )


def shared_prompts(designs: Iterable[RunDesign]) -> tuple[list[str], list[str]]:
    """List the prompts that participants share, and those that a participant is shown twice."""
    shown: dict[str, list[str]] = defaultdict(list)
    for design in designs:
        for trial in design.trials:
            shown[trial.prompt.prompt_id].append(design.participant_label)
    between = sorted(prompt for prompt, labels in shown.items() if len(set(labels)) > 1)
    within = sorted(prompt for prompt, labels in shown.items() if len(set(labels)) < len(labels))
    return between, within


def paradigm_hash(paradigm: Paradigm, banks: Banks) -> str:
    """Hash all that decides what is shown: the paradigm's values and the prompts of its banks."""
    content = dataclasses.asdict(paradigm)
    for key in ("name", "description", "banks", "source"):
        del content[key]
    for key in ("localizer_prompts", "chat_template", "system"):
        if not content[key]:  # datasets of earlier versions have none of them
            del content[key]
    content["prompts"] = {
        condition: [dataclasses.astuple(prompt) for prompt in banks[condition]]
        for condition in prompts_per_participant(paradigm)
    }
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _select_tasks(paradigm: Paradigm, task_labels: Collection[str] | None) -> list[Task]:
    known = [task.label for task in paradigm.tasks]
    for label in task_labels or ():
        if label not in known:
            raise UsageError(
                f"task '{label}' (--task): not in paradigm '{paradigm.name}'. "
                f"{suggest(label, known)}"
            )
    return [task for task in paradigm.tasks if task_labels is None or task.label in task_labels]


def _order_trials(
    paradigm: Paradigm,
    task: Task,
    participant: int,
    run: int,
    seed: int,
    prompts: dict[str | None, list[Prompt]],
) -> tuple[Trial, ...]:
    """Put a run's prompts into its blocks, the conditions counterbalanced over participants."""
    trial_types = [trial_type for trial_type, _ in task.conditions]
    square = latin_square(len(trial_types))
    row = ((participant - 1) * paradigm.n_runs + run - 1) % len(square)
    names = derive_generator(seed, "order", task.label).permutation(len(trial_types))
    ordered = [trial_types[names[index]] for index in square[row]]
    left = {trial_type: iter(drawn) for trial_type, drawn in prompts.items()}
    return tuple(
        Trial(prompt=next(left[trial_type]), trial_type=trial_type, block=block)
        for block, (trial_type, n_prompts) in enumerate(
            order_blocks(paradigm.order, ordered, paradigm.prompts_per_block)
        )
        for _ in range(n_prompts)
    )
