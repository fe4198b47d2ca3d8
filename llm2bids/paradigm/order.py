"""The order of blocks in a run, as pure functions on labels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llm2bids.exceptions import ParadigmError
from llm2bids.paradigm.task import Order

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
