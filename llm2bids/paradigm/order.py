"""The order of blocks in a run, as pure functions on labels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llm2bids.paradigm.task import Order

Block = tuple[str | None, int]
"""``(trial_type, n_prompts)``; the trial type of an off block is None."""


def latin_square(n_conditions: int) -> npt.NDArray[np.int64]:
    """Make the rows over which the order of conditions is counterbalanced.

    Over all rows every condition stands equally often at every place, and equally often straight
    after every other condition.

    Parameters
    ----------
    n_conditions : int
        Number of conditions, 1 or more.

    Returns
    -------
    ndarray of int64, shape (n_rows, n_conditions)
        Indices of conditions. ``n_rows`` is ``n_conditions`` if that is even or 1, else twice it.

    References
    ----------
    Williams EJ (1949), Experimental designs balanced for the estimation of residual effects of
    treatments, Australian Journal of Scientific Research A 2:149-168.

    Examples
    --------
    >>> latin_square(4)
    array([[0, 1, 3, 2],
           [1, 2, 0, 3],
           [2, 3, 1, 0],
           [3, 0, 2, 1]])
    """
    steps = np.arange(n_conditions)
    first_row = np.where(steps % 2 == 1, (steps + 1) // 2, -steps // 2) % n_conditions
    rows = (first_row + steps[:, None]) % n_conditions
    if n_conditions % 2 == 1 and n_conditions > 1:
        rows = np.concatenate([rows, rows[:, ::-1]])
    return rows.astype(np.int64)


def order_blocks(
    order: Order, trial_types: Sequence[str], prompts_per_block: int
) -> tuple[Block, ...]:
    """Lay out the blocks of one run.

    Every order begins and ends with off and is its own mirror image in off and on, so that a
    linear drift and the contrast of on against off are orthogonal.

    Parameters
    ----------
    order : {"off_on_off", "multi_task", "interleaved"}
        Blocks of off, on, off; an off block before, between and after the on blocks; or single
        prompts of off and on in turn.
    trial_types : sequence of str
        The on conditions of the run, in the order in which they are shown.
    prompts_per_block : int
        Prompts in one block; if interleaved, on prompts of each condition in the run.

    Returns
    -------
    tuple of (str or None, int)
        ``(trial_type, n_prompts)`` for each block; None for an off block.

    Examples
    --------
    >>> order_blocks("off_on_off", ["pathology"], 8)
    ((None, 8), ('pathology', 8), (None, 8))
    >>> order_blocks("interleaved", ["a", "b"], 1)
    ((None, 1), ('a', 1), (None, 1), ('b', 1), (None, 1))
    """
    if order == "interleaved":
        shown, n_prompts = list(trial_types) * prompts_per_block, 1
    else:
        shown, n_prompts = list(trial_types), prompts_per_block
    blocks: list[Block] = [(None, n_prompts)]
    for trial_type in shown:
        blocks += [(trial_type, n_prompts), (None, n_prompts)]
    return tuple(blocks)


def count_prompts(blocks: Sequence[Block]) -> dict[str | None, int]:
    """Count the prompts of each trial type in a run.

    Parameters
    ----------
    blocks : sequence of (str or None, int)
        As :func:`order_blocks` gives them.

    Returns
    -------
    dict of str or None to int
        Number of prompts for each trial type, that of the off prompts under None.

    Examples
    --------
    >>> count_prompts([(None, 8), ("pathology", 8), (None, 8)])
    {None: 16, 'pathology': 8}
    """
    counts: dict[str | None, int] = {}
    for trial_type, n_prompts in blocks:
        counts[trial_type] = counts.get(trial_type, 0) + n_prompts
    return counts
