"""The design of each run: which prompts, in which blocks, in which order, from one seed."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from llm2bids.exceptions import UsageError
from llm2bids.paradigm.partition import (
    Banks,
    check_participants,
    latin_square,
    order_blocks,
    participant_label,
    prompts_per_participant,
    take_prompts,
)
from llm2bids.paradigm.seed import derive_generator, derive_seed
from llm2bids.paradigm.table import suggest
from llm2bids.paradigm.task import Context, Paradigm, Prompt, Sampling, Task


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One presentation of a prompt."""

    prompt: Prompt
    trial_type: str | None  # label of the event, None for the off prompts (the implicit baseline)
    block: int  # index of the block in the run, from 0


@dataclass(frozen=True, kw_only=True)
class RunDesign:
    """Everything that decides a run before the model is asked."""

    participant_label: str
    task: str
    run: int | None  # run index from 1, None where the paradigm has one run of each task
    trials: tuple[Trial, ...]
    tokens_per_prompt: int
    context: Context
    sampling: Sampling
    seed: int  # of sampling and dither; from participant, task, run and the dataset's seed
    session: str | None = None  # BIDS label; None where the dataset has no sessions
    clock_volumes: int | None = None  # volumes of a story, which come from a clock, not from tokens

    @property
    def n_volumes(self) -> int:
        """Number of volumes of the run."""
        if self.clock_volumes is not None:
            return self.clock_volumes
        return len(self.trials) * self.tokens_per_prompt


def draw_runs(
    paradigm: Paradigm,
    banks: Banks,
    *,
    participant: int,
    seed: int,
    allow_shared_prompts: bool = False,
    task_labels: Collection[str] | None = None,
    shuffled: dict[str, tuple[Prompt, ...]] | None = None,
) -> tuple[RunDesign, ...]:
    """Draw the runs of one participant."""
    # Each bank is shuffled once for the dataset; a participant takes a part of its own. The draw
    # depends on seed and participant, not on how many participants or which tasks are recorded.
    label = participant_label(participant)
    tasks = _select_tasks(paradigm, task_labels)
    if not allow_shared_prompts:
        used = {paradigm.baseline}.union(*(dict(task.conditions).values() for task in tasks))
        check_participants(paradigm, banks, participant, conditions=used)
    prompts = take_prompts(
        paradigm,
        banks,
        participant,
        seed=seed,
        task_labels=[task.label for task in tasks],
        shuffled={} if shuffled is None else shuffled,
    )
    return tuple(
        RunDesign(
            participant_label=label,
            task=task.label,
            run=run if paradigm.n_runs > 1 else None,
            trials=_order_trials(paradigm, task, participant, run, seed, prompts[task.label, run]),
            tokens_per_prompt=paradigm.tokens_per_prompt,
            context=paradigm.context,
            sampling=paradigm.sampling,
            seed=derive_seed(seed, "run", label, task.label, run),
        )
        for task in tasks
        for run in range(1, paradigm.n_runs + 1)
    )


def shared_prompts(designs: Iterable[RunDesign]) -> tuple[list[str], list[str]]:
    """List the prompts that participants share, and those that a participant is shown twice."""
    shown: dict[str, list[str]] = defaultdict(list)
    for design in designs:
        for trial in design.trials:
            shown[trial.prompt.prompt_id].append(design.participant_label)
    between = sorted(prompt for prompt, labels in shown.items() if len(set(labels)) > 1)
    within = sorted(prompt for prompt, labels in shown.items() if len(set(labels)) < len(labels))
    return between, within


def paradigm_hash(paradigm: Paradigm, banks: Banks) -> str:
    """Hash all that decides what is shown: the paradigm's values and the prompts of its banks."""
    content = dataclasses.asdict(paradigm)
    for key in ("name", "description", "banks", "source"):
        del content[key]
    for key in ("localizer_prompts", "chat_template", "system"):
        if not content[key]:  # datasets of earlier versions have none of them
            del content[key]
    content["prompts"] = {
        condition: [dataclasses.astuple(prompt) for prompt in banks[condition]]
        for condition in prompts_per_participant(paradigm)
    }
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _select_tasks(paradigm: Paradigm, task_labels: Collection[str] | None) -> list[Task]:
    known = [task.label for task in paradigm.tasks]
    for label in task_labels or ():
        if label not in known:
            raise UsageError(
                f"task '{label}' (--task): not in paradigm '{paradigm.name}'. "
                f"{suggest(label, known)}"
            )
    return [task for task in paradigm.tasks if task_labels is None or task.label in task_labels]


def _order_trials(
    paradigm: Paradigm,
    task: Task,
    participant: int,
    run: int,
    seed: int,
    prompts: dict[str | None, list[Prompt]],
) -> tuple[Trial, ...]:
    """Put a run's prompts into its blocks, the conditions counterbalanced over participants."""
    trial_types = [trial_type for trial_type, _ in task.conditions]
    square = latin_square(len(trial_types))
    row = ((participant - 1) * paradigm.n_runs + run - 1) % len(square)
    names = derive_generator(seed, "order", task.label).permutation(len(trial_types))
    ordered = [trial_types[names[index]] for index in square[row]]
    left = {trial_type: iter(drawn) for trial_type, drawn in prompts.items()}
    return tuple(
        Trial(prompt=next(left[trial_type]), trial_type=trial_type, block=block)
        for block, (trial_type, n_prompts) in enumerate(
            order_blocks(paradigm.order, ordered, paradigm.prompts_per_block)
        )
        for _ in range(n_prompts)
    )
