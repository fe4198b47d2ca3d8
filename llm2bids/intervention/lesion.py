"""Lesions: what a model loses when the units of a network are set to their resting values.

A virtual lesion (an ablation): the units of each task's network are set to their calibration mean
while the model reads held-out text of every task and of none. What is measured is the change of the
negative log likelihood a token, beside random units that are matched by site and activation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llm2bids.exceptions import UsageError
from llm2bids.intervention.lesion_study import LesionMethod, Study
from llm2bids.intervention.results import InterventionResult
from llm2bids.intervention.subject import SubjectOptions, TopicOptions, open_subject
from llm2bids.options import Options, option, shared, split_options, takes_options


def _doses(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise UsageError(f"--dose {text}: expected percents, as in 0.3,1,3") from None


_of_lesion = partial(option, group="lesion")
_of_controls = partial(option, group="controls")


@dataclass(frozen=True, kw_only=True)
class LesionOptions(Options):
    """What is lesioned, and how it is measured."""

    task_labels: Sequence[str] = shared(
        TopicOptions,
        "task_labels",
        group="lesion",
        text="lesion only this task's network; repeatable (texts of all are measured)",
    )
    sites: Sequence[str] | None = shared(TopicOptions, "sites", group="lesion")
    doses: Sequence[float] = _of_lesion(
        (0.3, 1.0, 3.0),
        "--dose P,P",
        "percents of the units of these sites, those with the largest effects",
        shown="0.3,1,3",
        parse=_doses,
        above=0,
        most=100,
    )
    method: LesionMethod = _of_lesion(
        "mean",
        "--method",
        "what units are set to: their calibration mean, values at off-topic "
        "tokens (resample), or 0 (weaker where units rest away from it)",
    )
    edit_files: Sequence[str | Path] = _of_lesion(
        (),
        "--edit FILE",
        "lesion as this edit file says, in place of the networks; with one "
        "--task, its own topic; repeatable",
        action="append",
    )
    n_prompts: int = shared(TopicOptions, "n_prompts", 12)
    n_answer_tokens: int = shared(
        TopicOptions,
        "n_tokens",
        14,
        text="tokens of the intact model's answer to each",
        bounds={"least": 1},
    )
    n_draws: int = _of_controls(
        20, "--draws", "random draws beside each network; p is at least 1 / (1 + N)", least=0
    )
    n_shuffled: int = _of_controls(
        20, "--shuffled", "networks of shuffled tasks: what the tasks share", least=0
    )
    random_weights: bool = _of_controls(
        True, "--no-random-weights", "leave out the same lesions of the untrained architecture"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edit_files and len(self.task_labels) != 1:
            raise UsageError(
                f"--edit with {len(self.task_labels)} tasks (--task); expected one: the topic that "
                "the edit is held to"
            )


@takes_options(SubjectOptions, LesionOptions)
def lesion(
    bids_dir: str | Path, analysis_dir: str | Path, *, progress: bool = True, **options: Any
) -> InterventionResult:
    """Lesion the tasks' networks, and measure what the model loses.

    Parameters
    ----------
    bids_dir : str or Path
        Dataset of the model.
    analysis_dir : str or Path
        Output folder of `llm2bids analyze`, whose effect maps define the networks; results are
        written to ``group/lesion`` in it.
    progress : bool
        Show a progress bar on the standard error stream.
    **options
        The options of the command.

    Returns
    -------
    InterventionResult
        Tables ``selectivity``, ``matrix`` (network x text), ``draws``, ``dissociation``,
        ``prompts``, and ``untrained`` where the untrained architecture is lesioned too; the edits.

    Raises
    ------
    UsageError, InterventionError, InferenceError, ModelError
        If an argument, the analysis, an edit or the model does not fit, or too few prompts are
        left that no run, calibration or map has seen.
    """
    of_subject, asked = split_options(options, SubjectOptions, LesionOptions)
    study = Study(subject=open_subject(bids_dir, analysis_dir, of_subject), options=asked)
    result = study.run(progress=progress)
    result.save(Path(analysis_dir))
    return result
