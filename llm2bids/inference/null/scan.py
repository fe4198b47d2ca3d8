"""Null designs: paradigms whose on prompts come from the bank of their off prompts."""

from pathlib import Path
from typing import Any

from llm2bids.exceptions import UsageError
from llm2bids.recording.draw import Scan, draw_scan


def null_scan(
    paradigm: str | Path,
    *,
    n_runs: int,
    seed: int,
    prompts_per_block: int | None = None,
    tokens_per_prompt: int | None = None,
) -> Scan:
    """Draw the designs of null runs, no prompt twice.

    Parameters
    ----------
    paradigm : str or Path
        A null paradigm.
    n_runs : int
        Runs.
    seed : int
        Seed.
    prompts_per_block, tokens_per_prompt : int, optional
        In place of the paradigm's own numbers.

    Returns
    -------
    Scan
        With exactly `n_runs` designs.

    Raises
    ------
    UsageError
        If a task's on prompts come from another bank than its off prompts.
    ParadigmError
        If the bank is too small.

    Examples
    --------
    >>> scan = null_scan("null", n_runs=8, seed=0)
    >>> len(scan.designs), scan.designs[7].participant_label, len(scan.designs[7].trials)
    (8, '02', 24)
    """
    numbers: dict[str, Any] = {
        "seed": seed,
        "prompts_per_block": prompts_per_block,
        "tokens_per_prompt": tokens_per_prompt,
    }
    one = draw_scan(paradigm, n_participants=1, **numbers)
    for task in one.paradigm.tasks:
        shown = {bank for _, bank in task.conditions}
        if shown != {one.paradigm.baseline}:
            raise no_null(
                f"paradigm {one.paradigm.name}", task.label, shown, {one.paradigm.baseline}
            )
    n_participants = -(-n_runs // len(one.designs))
    scan = draw_scan(paradigm, n_participants=n_participants, **numbers)
    return Scan(**{**vars(scan), "designs": scan.designs[:n_runs]})


def no_null(where: str, task: str, on: set[str], off: set[str]) -> UsageError:
    """Make the error that says why a design is no null design.

    Parameters
    ----------
    where, task : str
        Paradigm or run, and the task.
    on, off : set of str
        Banks of its on and of its off prompts.

    Returns
    -------
    UsageError
        To be raised.
    """
    shown, rest = (", ".join(sorted(banks)) or "no bank" for banks in (on, off))
    return UsageError(
        f"{where}: no null design: task {task} shows prompts of {shown} on and of {rest} off; "
        "expected both from one bank. Record one with `llm2bids record BIDS_DIR --paradigm null`, "
        "or give a model"
    )
