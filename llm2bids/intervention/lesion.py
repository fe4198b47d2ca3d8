"""Lesions: what a model loses when the units of a network are set to their resting values.

A virtual lesion (an ablation): the units of each task's network are set to their calibration mean
while the model reads held-out text of every task and of none. What is measured is the change of the
negative log likelihood a token, beside random units that are matched by site and activation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2bids.exceptions import UsageError
from llm2bids.inference.effects import read_effects
from llm2bids.inference.inputs import open_inputs
from llm2bids.intervention.lesion_result import LesionResult
from llm2bids.intervention.lesion_study import METHODS, Study
from llm2bids.intervention.subject import SubjectOptions, open_subject
from llm2bids.options import option, split_options, takes_options


def _doses(text: str) -> tuple[float, ...]:
    try:
        doses = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        doses = ()
    if not doses or not all(0 < dose <= 100 for dose in doses):
        raise UsageError(f"--dose {text}: expected percents above 0, up to 100, as in 0.3,1,3")
    return doses


@dataclass(frozen=True, kw_only=True)
class LesionOptions:
    """What is lesioned, and how it is measured."""

    task_labels: Sequence[str] = option(
        (), "--task", "lesion only this task's network; repeatable (texts of all are measured)",
        group="lesion", shown="all", action="append", metavar="LABEL",
    )  # fmt: skip
    sites: Sequence[str] | None = option(
        None, "--sites", "sites whose units are lesioned, as for record",
        group="lesion", shown="the MLPs' activations (act_fn), or what plays their part",
        action="append", metavar="PATTERN",
    )  # fmt: skip
    doses: Sequence[float] = option(
        (0.3, 1.0, 3.0), "--dose", "percents of the units of these sites, those with the largest "
        "effects", group="lesion", shown="0.3,1,3", parse=_doses, metavar="P,P",
    )  # fmt: skip
    method: str = option(
        "mean", "--method", "what units are set to: their calibration mean, values at off-topic "
        "tokens (resample), or 0 (weaker where units rest away from it)", group="lesion",
        choices=METHODS,
    )  # fmt: skip
    edit_files: Sequence[str | Path] = option(
        (), "--edit", "lesion as this edit file says, in place of the networks; with one --task, "
        "its own topic; repeatable", group="lesion", shown="none", action="append", metavar="FILE",
    )  # fmt: skip
    n_prompts: int = option(
        12, "--prompts", "held-out prompts of each task and of none", group="text", type=int,
        metavar="N",
    )  # fmt: skip
    n_answer_tokens: int = option(
        14, "--answer-tokens", "tokens of the intact model's answer to each", group="text",
        type=int, metavar="N",
    )  # fmt: skip
    n_draws: int = option(
        20, "--draws", "random draws beside each network; p is at least 1 / (1 + N)",
        group="controls", type=int, metavar="N",
    )  # fmt: skip
    n_shuffled: int = option(
        20, "--shuffled", "networks of shuffled tasks: what the tasks share", group="controls",
        type=int, metavar="N",
    )  # fmt: skip
    random_weights: bool = option(
        True, "--no-random-weights", "leave out the same lesions of the untrained architecture",
        group="controls",
    )  # fmt: skip

    def __post_init__(self) -> None:
        fewest = {"n_prompts": 4, "n_answer_tokens": 1, "n_draws": 0, "n_shuffled": 0}
        for name, least in fewest.items():
            if getattr(self, name) < least:
                flag = "--" + name.removeprefix("n_").replace("_", "-")
                raise UsageError(f"{flag} is {getattr(self, name)}; expected {least} or more")
        if self.method not in METHODS:
            raise UsageError(
                f"method (--method) {self.method!r} is unknown; expected {', '.join(METHODS)}"
            )
        if self.edit_files and len(self.task_labels) != 1:
            raise UsageError(
                f"--edit with {len(self.task_labels)} tasks (--task); expected one: the topic that "
                "the edit is held to"
            )


@takes_options(SubjectOptions, LesionOptions)
def lesion(
    bids_dir: str | Path, analysis_dir: str | Path, *, progress: bool = True, **options: Any
) -> LesionResult:
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
    LesionResult
        Tables: `matrix` (network x text), `selectivity`, `draws`, `dissociation`, `prompts`.

    Raises
    ------
    UsageError, InterventionError, InferenceError, ModelError
        If an argument, the analysis, an edit or the model does not fit, or too few prompts are
        left that no run, calibration or map has seen.
    """
    source, asked = split_options(options, SubjectOptions, LesionOptions)
    out_dir = Path(analysis_dir)
    effects = read_effects(open_inputs(Path(bids_dir)), out_dir).complete()
    subject = open_subject(bids_dir, model=source.model, device=source.device, seed=source.seed)
    study = Study(subject=subject, effects=effects, options=asked)
    return study.run(progress=progress).save(out_dir, study.edits)
