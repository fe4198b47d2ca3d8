"""Held-out prompts: those of a dataset's banks that no run, no calibration and no map has seen."""

from collections.abc import Iterable

from llm2bids.dataset.read import Dataset
from llm2bids.exceptions import InterventionError
from llm2bids.paradigm.seed import derive_generator
from llm2bids.paradigm.task import Prompt


def shown_prompts(dataset: Dataset) -> frozenset[str]:
    """List the prompts that a run, the calibration or the localizer of a dataset shows."""
    layout = dataset.space.layout
    in_runs = (dataset.transcript(run)["prompt_id"] for run in dataset.runs)
    return frozenset(dataset.calibration.prompt_ids).union(
        () if layout is None else layout.prompt_ids, *in_runs
    )


def held_out_prompts(
    dataset: Dataset,
    condition: str,
    *,
    n: int,
    seed: int,
    used: Iterable[str] = (),
    shown: frozenset[str] | None = None,
) -> tuple[Prompt, ...]:
    """Draw prompts of a bank that nothing has used; `shown` saves reading the runs anew."""
    bank = dataset.prompts[dataset.prompts["condition"] == condition]
    taken = (shown_prompts(dataset) if shown is None else shown).union(used)
    left = bank[~bank["prompt_id"].isin(taken)].sort_values("prompt_id")
    if len(left) < max(n, 1):
        raise InterventionError(
            f"{dataset.path}: {len(left)} of the {len(bank)} prompts of bank {condition!r} are in "
            f"no run, no calibration and no map; expected {n} to test with: ask for fewer prompts, "
            "record fewer participants, or record with a larger bank"
        )
    order = derive_generator(seed, "held out", condition).permutation(len(left))[:n]
    rows = left.iloc[order]
    return tuple(
        Prompt(
            prompt_id=str(row.prompt_id),
            condition=str(row.condition),
            topic=str(row.topic),
            text=str(row.text),
        )
        for row in rows.itertuples()
    )
