"""Circularity of the arrangement: its localizer must not have shown what is analysed."""

import logging
from collections.abc import Iterable

from llm2bids.exceptions import InferenceError
from llm2bids.inference.inputs import Inputs, RunEntry

log = logging.getLogger(__name__)

MOST_NAMED = 10
"""Prompts that the message names; all are counted."""


def check_arrangement_prompts(
    inputs: Inputs, entries: Iterable[RunEntry], *, allow_circular: bool = False
) -> tuple[str, ...]:
    """Refuse an arrangement that was learned from prompts of the runs that are analysed.

    Units that chance made alike on these prompts would lie side by side, and their chance would
    look like a cluster.

    Parameters
    ----------
    inputs : Inputs
        The dataset; its space names the localizer's prompts.
    entries : iterable of RunEntry
        Runs that are analysed.
    allow_circular : bool
        Warn instead.

    Returns
    -------
    tuple of str
        Identifiers of the prompts that both have, sorted; empty where all is well.

    Raises
    ------
    InferenceError
        If there are any, naming them, unless they are allowed.
    """
    layout = inputs.space.layout
    if layout is None or not layout.prompt_ids:
        return ()
    shown: set[str] = set()
    for entry in entries:
        shown.update(inputs.load(entry).transcript["prompt_id"].unique().tolist())
    shared = tuple(sorted(shown & set(layout.prompt_ids)))
    if not shared:
        return ()
    more = f" and {len(shared) - MOST_NAMED} more" if len(shared) > MOST_NAMED else ""
    about = (
        f"the arrangement of space {inputs.space.label} was learned from {len(shared)} prompts "
        f"that the analysed runs show: {', '.join(shared[:MOST_NAMED])}{more}; clusters and "
        "smoothed maps of these runs are circular"
    )
    if not allow_circular:
        raise InferenceError(
            f"{inputs.bids_dir}: {about}. Analyse other runs, record with an arrangement of other "
            "prompts, or go on with --allow-circular, which is not a result to report"
        )
    log.warning("circular: %s", about)
    return shared
