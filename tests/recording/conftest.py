"""Designs that need no paradigm file."""

from collections.abc import Callable, Sequence

import pytest

from llm2bids.paradigm.design import RunDesign, Trial
from llm2bids.paradigm.task import Context, Prompt, Sampling

PROMPTS = (
    "The",
    "The senate of the old republic voted on the new law, and then the fossil of a reptile was",
    "A scan of the chest",
    "Potsherds and coins",
    "On Sunday we bake bread, walk the dog and",
    "x",
    "Under the microscope the tissue shows cells",
)
"""Prompts of very different length, 7 of them."""


def make_design(
    texts: Sequence[str] = PROMPTS,
    *,
    tokens_per_prompt: int = 5,
    seed: int = 11,
    context: Context = "fresh",
    sampling: Sampling | None = None,
    on: Sequence[int] = (2, 3),
    per_block: int = 2,
) -> RunDesign:
    """One run; trials of the blocks in `on` are of type "fossils"."""
    trials = tuple(
        Trial(
            prompt=Prompt(prompt_id=f"p{index}", condition="c", topic="", text=text),
            trial_type="fossils" if index // per_block in on else None,
            block=index // per_block,
        )
        for index, text in enumerate(texts)
    )
    return RunDesign(
        participant_label="01",
        task="fossils",
        run=None,
        trials=trials,
        tokens_per_prompt=tokens_per_prompt,
        context=context,
        sampling=sampling or Sampling(),
        seed=seed,
    )


@pytest.fixture(scope="session")
def design_of() -> Callable[..., RunDesign]:
    """The function that makes a run's design."""
    return make_design
