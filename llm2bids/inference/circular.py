"""Circularity of the arrangement: its localizer must not have shown what is analysed."""

import logging
from collections.abc import Iterable

from llm2bids.exceptions import InferenceError
from llm2bids.inference.inputs import Inputs
from llm2bids.space.space import Space

log = logging.getLogger(__name__)

MOST_NAMED = 10
"""Prompts that the message names; all are counted."""


def _shared_with_arrangement(space: Space, prompts: Iterable[str]) -> tuple[str, ...]:
    """Find the prompts that an arrangement was learned from."""
    learned = () if space.layout is None else space.layout.prompt_ids
    return tuple(sorted(set(prompts) & set(learned)))


def circularity_caution(space: Space, prompts: Iterable[str]) -> dict[str, object]:
    """Say in a map's sidecar that its units were arranged by prompts that it was made from."""
    shared = _shared_with_arrangement(space, prompts)
    return (
        {"CircularityCaution": f"CIRCULAR, no evidence: {_said(space, shared)}"} if shared else {}
    )


def _said(space: Space, shared: tuple[str, ...]) -> str:
    more = f" and {len(shared) - MOST_NAMED} more" if len(shared) > MOST_NAMED else ""
    return (
        f"the arrangement of space {space.label} was learned from {len(shared)} prompts that the "
        f"analysed runs show: {', '.join(shared[:MOST_NAMED])}{more}; clusters and smoothed maps "
        "of these runs are circular."
    )


def check_arrangement_prompts(
    inputs: Inputs, prompts: Iterable[str], *, allow_circular: bool = False
) -> tuple[str, ...]:
    """Refuse an arrangement that was learned from prompts that are analysed; give what is shared.

    Units that chance made alike on these prompts would lie side by side, and their chance would
    look like a cluster.
    """
    layout = inputs.space.layout
    if layout is None or not layout.prompt_ids:
        return ()
    shared = _shared_with_arrangement(inputs.space, prompts)
    if not shared:
        return ()
    about = _said(inputs.space, shared)
    if not allow_circular:
        raise InferenceError(
            f"{inputs.bids_dir}: {about} Analyse other runs, record with an arrangement of other "
            "prompts, or go on with --allow-circular, which is not a result to report"
        )
    log.warning("circular: %s", about)
    return shared
