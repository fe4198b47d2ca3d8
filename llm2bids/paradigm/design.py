"""The design of each run: which prompts, in which blocks, in which order, from one seed."""

from dataclasses import dataclass

from llm2bids.paradigm.task import Context, Prompt, Sampling


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One presentation of a prompt.

    Parameters
    ----------
    prompt : Prompt
        What is shown.
    trial_type : str or None
        Label of the event, None for the off prompts (the implicit baseline).
    block : int
        Index of the block in the run, from 0.
    """

    prompt: Prompt
    trial_type: str | None
    block: int


@dataclass(frozen=True, kw_only=True)
class RunDesign:
    """Everything that decides a run before the model is asked.

    Parameters
    ----------
    participant_label : str
        BIDS label without ``sub-``, e.g. ``"01"``.
    task : str
        BIDS task label.
    run : int or None
        Run index from 1, None where the paradigm has one run of each task.
    trials : tuple of Trial
        In the order of presentation.
    tokens_per_prompt : int
        Volumes that each trial gives; the run has ``len(trials) * tokens_per_prompt`` volumes.
    context : {"fresh", "carry"}
        Whether each prompt starts a context of its own.
    sampling : Sampling
        How tokens are drawn.
    seed : int
        Seed of the run's sampling (and of its dither), from participant, task, run and the
        dataset's seed.
    """

    participant_label: str
    task: str
    run: int | None
    trials: tuple[Trial, ...]
    tokens_per_prompt: int
    context: Context
    sampling: Sampling
    seed: int

    @property
    def n_volumes(self) -> int:
        """Number of volumes of the run."""
        return len(self.trials) * self.tokens_per_prompt
