"""Who gets which prompts, in which blocks: banks are cut into parts over participants and runs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import ParadigmError, UsageError
from llm2bids.paradigm.seed import derive_generator
from llm2bids.paradigm.task import Order, Paradigm, Prompt

Banks = Mapping[str, tuple[Prompt, ...]]
"""The prompts of each condition, as :func:`llm2bids.paradigm.prompts.load_banks` gives them."""

_Block = tuple[str | None, int]
"""``(trial_type, n_prompts)``; the trial type of an off block is None."""


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


def count_prompts(blocks: Sequence[_Block]) -> dict[str | None, int]:
    """Count the prompts of each trial type in a run."""
    counts: dict[str | None, int] = {}
    for trial_type, n_prompts in blocks:
        counts[trial_type] = counts.get(trial_type, 0) + n_prompts
    return counts


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The prompts of one trial type in one run, as a place in a participant's part of a bank."""

    condition: str
    task: str
    run: int
    trial_type: str | None  # label of the event, None for the off prompts
    start: int  # first place in the participant's part, from 0
    n_prompts: int


def participant_label(participant: int) -> str:
    """Give the BIDS label of a participant."""
    if participant < 1:
        raise UsageError(f"participant: found {participant}, expected 1 or more.")
    return f"{participant:02d}"


def slice_banks(paradigm: Paradigm) -> tuple[Slice, ...]:
    """Cut each bank's part of a participant into slices, one for each run and trial type."""
    slices: list[Slice] = []
    used: dict[str, int] = {}
    for task in paradigm.tasks:
        trial_types = [trial_type for trial_type, _ in task.conditions]
        blocks = order_blocks(paradigm.order, trial_types, paradigm.prompts_per_block)
        conditions: dict[str | None, str] = {None: paradigm.baseline, **dict(task.conditions)}
        for run in range(1, paradigm.n_runs + 1):
            for trial_type, n_prompts in count_prompts(blocks).items():
                condition = conditions[trial_type]
                start = used.get(condition, 0)
                used[condition] = start + n_prompts
                slices.append(
                    Slice(
                        condition=condition,
                        task=task.label,
                        run=run,
                        trial_type=trial_type,
                        start=start,
                        n_prompts=n_prompts,
                    )
                )
    return tuple(slices)


def prompts_per_participant(paradigm: Paradigm) -> dict[str, int]:
    """Count the prompts that one participant takes from each bank."""
    totals: dict[str, int] = {}
    for part in slice_banks(paradigm):
        totals[part.condition] = totals.get(part.condition, 0) + part.n_prompts
    return totals


def permute_bank(
    paradigm: Paradigm, banks: Banks, condition: str, *, seed: int
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Shuffle a bank, once for the whole dataset, and part it."""
    if condition not in banks:
        raise ParadigmError(
            f"banks: found {', '.join(sorted(banks)) or 'none'}, expected '{condition}' among "
            f"them, which paradigm '{paradigm.name}' draws from. Use load_banks(paradigm)."
        )
    bank = banks[condition]
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


def check_participants(
    paradigm: Paradigm,
    banks: Banks,
    n_participants: int,
    *,
    conditions: Collection[str] | None = None,
) -> None:
    """Refuse more participants than the banks serve with prompts of their own."""
    if n_participants < 1:
        raise UsageError(f"participants: found {n_participants}, expected 1 or more.")
    served = {
        condition: number
        for condition, number in count_participants(paradigm, banks).items()
        if conditions is None or condition in conditions
    }
    condition = min(served, key=lambda name: served[name])
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
    return permute_bank(paradigm, banks, paradigm.baseline, seed=seed)[1]


def draw_localizer(paradigm: Paradigm, banks: Banks, *, seed: int) -> tuple[Prompt, ...]:
    """Draw the prompts of the localizer, from which a functional arrangement is learned."""
    conditions = prompts_per_participant(paradigm)
    ordered = [paradigm.baseline, *(name for name in conditions if name != paradigm.baseline)]
    drawn = [permute_bank(paradigm, banks, name, seed=seed)[1] for name in ordered]
    return tuple(prompt for prompts in drawn for prompt in prompts)


def take_prompts(
    paradigm: Paradigm,
    banks: Banks,
    participant: int,
    *,
    seed: int,
    task_labels: Sequence[str],
    shuffled: dict[str, tuple[Prompt, ...]],
) -> dict[tuple[str, int], dict[str | None, list[Prompt]]]:
    """Take the prompts of each run of the tasks, by trial type, in the order of presentation."""
    each = prompts_per_participant(paradigm)
    taken: dict[tuple[str, int], dict[str | None, list[Prompt]]] = {}
    for part in slice_banks(paradigm):
        if part.task not in task_labels:
            continue
        if part.condition not in shuffled:
            shuffled[part.condition] = permute_bank(paradigm, banks, part.condition, seed=seed)[0]
        bank = shuffled[part.condition]
        first = (participant - 1) * each[part.condition] + part.start
        prompts = [bank[index % len(bank)] for index in range(first, first + part.n_prompts)]
        names = (participant_label(participant), part.task, part.run, part.trial_type or "")
        order = derive_generator(seed, "prompts", *names).permutation(len(prompts))
        taken.setdefault((part.task, part.run), {})[part.trial_type] = [
            prompts[index] for index in order
        ]
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
    totals: dict[tuple[str, int], int] = {}
    for part in slice_banks(paradigm):
        if part.condition == condition:
            run = (part.task, part.run)
            totals[run] = totals.get(run, 0) + part.n_prompts
    return max(totals.values(), default=0)
