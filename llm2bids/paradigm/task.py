"""Prompts, tasks and paradigms: what is shown to the model, and in which frame."""

from dataclasses import dataclass
from typing import Literal

# Order of blocks in a run; a story is read from its first word to its last.
Order = Literal["off_on_off", "multi_task", "interleaved", "story"]

# Whether each prompt starts a context of its own or one running context is kept.
Context = Literal["fresh", "carry"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One row of a prompt bank."""

    prompt_id: str  # identifier, unique over all banks of a paradigm
    condition: str
    topic: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, in the names of ``transformers.GenerationConfig``."""

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0  # keep the ``top_k`` most probable tokens
    top_p: float = 1.0  # keep the smallest set of tokens with this much probability, in (0, 1]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One BIDS task: a run's label and the conditions that its on blocks show."""

    label: str
    conditions: tuple[tuple[str, str], ...]  # ``(trial_type, bank condition)`` pairs


@dataclass(frozen=True, kw_only=True)
class Paradigm:
    """Conditions, their prompts, the order of blocks, and tokens per prompt."""

    name: str
    description: str
    order: Order
    tasks: tuple[Task, ...]  # the tasks, one run each (times ``n_runs``)
    baseline: str
    prompts_per_block: int
    tokens_per_prompt: int  # volumes that each prompt gives
    n_runs: int = 1
    context: Context = "fresh"
    # prompts are shown as a user's turns, after what the system says ("": what the template says)
    chat_template: bool = False
    system: str = ""
    sampling: Sampling = Sampling()
    # off prompts of the separate resting scan that fixes the intensity scale; never in a run
    calibration_prompts: int = 32
    # prompts of each bank for the scan that a functional arrangement is learned from; never in a
    # run
    localizer_prompts: int = 0
    banks: tuple[tuple[str, str], ...] = ()  # ``(bank condition, file)`` pairs
    source: str = ""
