"""Prompts, tasks and paradigms: what is shown to the model, and in which frame."""

from dataclasses import dataclass
from typing import Literal

Order = Literal["off_on_off", "multi_task", "interleaved"]
"""Order of blocks in a run."""

Context = Literal["fresh", "carry"]
"""Whether each prompt starts a context of its own or one running context is kept."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One row of a prompt bank.

    Parameters
    ----------
    prompt_id : str
        Identifier, unique over all banks of a paradigm.
    condition : str
        Label of the bank that the prompt belongs to (BIDS label: letters and digits).
    topic : str
        Sub-topic, free text.
    text : str
        What the model is given.
    """

    prompt_id: str
    condition: str
    topic: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, in the names of ``transformers.GenerationConfig``.

    Parameters
    ----------
    do_sample : bool
        Draw from the distribution (else take the most probable token).
    temperature : float
        Divisor of the logits, above 0.
    top_k : int
        Keep the ``top_k`` most probable tokens; 0 keeps all.
    top_p : float
        Keep the smallest set of tokens with this much probability, in (0, 1].
    """

    do_sample: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """One BIDS task: a run's label and the conditions that its on blocks show.

    Parameters
    ----------
    label : str
        The BIDS task label (letters and digits only).
    conditions : tuple of (str, str)
        ``(trial_type, bank condition)`` pairs. One pair for an off/on/off run; several for a run
        with several conditions. A ``null`` task names the off bank here.
    """

    label: str
    conditions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Paradigm:
    """Conditions, their prompts, the order of blocks, and tokens per prompt.

    Parameters
    ----------
    name : str
        Name of the paradigm, e.g. ``"off_on_off"``.
    description : str
        One sentence, written to the dataset's sidecars.
    order : {"off_on_off", "multi_task", "interleaved"}
        Order of blocks in a run.
    tasks : tuple of Task
        The tasks, one run each (times ``n_runs``).
    baseline : str
        Bank condition of the off prompts, the implicit baseline.
    prompts_per_block : int
        Prompts in one block.
    tokens_per_prompt : int
        Volumes that each prompt gives.
    n_runs : int
        Runs of each task for each participant.
    context : {"fresh", "carry"}
        Whether each prompt starts a context of its own.
    sampling : Sampling
        How tokens are drawn.
    calibration_prompts : int
        Off prompts of the separate resting scan that fixes the intensity scale; never in a run.
    localizer_prompts : int
        Prompts of each task's bank that are set aside for the scan that a functional arrangement
        is learned from; never in a run.
    banks : tuple of (str, str)
        ``(bank condition, file)`` pairs; a file name without folder is a shipped bank.
    source : str
        The TOML text that the paradigm was read from, kept for the dataset and for its hash.
    """

    name: str
    description: str
    order: Order
    tasks: tuple[Task, ...]
    baseline: str
    prompts_per_block: int
    tokens_per_prompt: int
    n_runs: int = 1
    context: Context = "fresh"
    sampling: Sampling = Sampling()
    calibration_prompts: int = 32
    localizer_prompts: int = 0
    banks: tuple[tuple[str, str], ...] = ()
    source: str = ""
