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
    """Make the error that says why a design is no null design."""
    shown, rest = (", ".join(sorted(banks)) or "no bank" for banks in (on, off))
    return UsageError(
        f"{where}: no null design: task {task} shows prompts of {shown} on and of {rest} off; "
        "expected both from one bank. Record one with `llm2bids record BIDS_DIR --paradigm null`, "
        "or give a model"
    )
