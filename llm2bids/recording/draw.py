"""The draw of a scan: every run of every participant, before a model is loaded."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm2bids.exceptions import UsageError
from llm2bids.paradigm.design import (
    RunDesign,
    check_participants,
    draw_calibration,
    draw_localizer,
    draw_runs,
    paradigm_hash,
)
from llm2bids.paradigm.load import load_paradigm
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.table import LARGEST
from llm2bids.paradigm.task import Paradigm, Prompt
from llm2bids.recording.events import repetition_time

# Largest seed: what JSON readers and tables of other languages still hold.
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What is to be scanned, decided before a model is loaded."""

    paradigm: Paradigm
    paradigm_sha256: str
    designs: tuple[RunDesign, ...]
    calibration: tuple[Prompt, ...]
    localizer: tuple[Prompt, ...]
    t_r: float
    seed: int
    allow_shared_prompts: bool
    excluded: frozenset[str] = frozenset()  # prompts of the banks that are not to be shown


def draw_scan(
    paradigm: str | Path = "off_on_off",
    *,
    n_participants: int = 8,
    task_labels: Sequence[str] | None = None,
    seed: int = 0,
    t_r: float | None = None,
    allow_shared_prompts: bool = False,
    prompts_per_block: int | None = None,
    tokens_per_prompt: int | None = None,
    localizer_prompts: int | None = None,
    excluded: Collection[str] = (),
) -> Scan:
    """Draw the runs of all participants."""
    _check_range("n_participants", n_participants, 1, 100_000, flag="--participants")  # not a slip
    _check_range("seed", seed, 0, LARGEST_SEED)
    loaded = _with_numbers(
        load_paradigm(paradigm),
        prompts_per_block=prompts_per_block,
        tokens_per_prompt=tokens_per_prompt,
        localizer_prompts=localizer_prompts,
    )
    banks = load_banks(loaded, without=excluded)
    if not allow_shared_prompts:
        check_participants(loaded, banks, n_participants)
    drawn = (
        draw_runs(loaded, banks, participant=number, seed=seed, task_labels=task_labels)
        for number in range(1, n_participants + 1)
    )
    designs = tuple(design for runs in drawn for design in runs)
    return Scan(
        paradigm=loaded,
        paradigm_sha256=paradigm_hash(loaded, banks),
        designs=designs,
        calibration=draw_calibration(loaded, banks, seed=seed),
        localizer=(() if localizer_prompts is None else draw_localizer(loaded, banks, seed=seed)),
        t_r=repetition_time(designs) if t_r is None else t_r,
        seed=seed,
        allow_shared_prompts=allow_shared_prompts,
        excluded=frozenset(excluded),
    )


def _with_numbers(paradigm: Paradigm, **numbers: int | None) -> Paradigm:
    """Put the numbers that were asked for in place of a paradigm's own, and say so in its text."""
    changed = {name: number for name, number in numbers.items() if number is not None}
    for name, value in changed.items():
        _check_range(name, value, 0 if name == "localizer_prompts" else 1, LARGEST)
    listed = ", ".join(f"{name} = {number}" for name, number in changed.items())
    note = f"# recorded with {listed} in place of what follows\n" if changed else ""
    kept: dict[str, Any] = {"localizer_prompts": 0, **changed}
    return replace(paradigm, source=note + paradigm.source, **kept)


def _check_range(name: str, value: int, least: int, most: int, *, flag: str = "") -> None:
    if not least <= value <= most:
        flag = flag or "--" + name.replace("_", "-")
        raise UsageError(f"{name} ({flag}) is {value}; expected {least} to {most:,}")
