"""Steering: a direction added to the residual stream, with what it costs and what it must beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from llm2bids.intervention.directions import DirectionKind
from llm2bids.intervention.results import Result
from llm2bids.intervention.steer_study import Scene, TopicStudy
from llm2bids.intervention.subject import SubjectOptions, open_subject
from llm2bids.intervention.topics import open_topics
from llm2bids.options import option, split_options, takes_options

NOTES = (
    "A hit rate and key words score loops ('party party ...') as success: NLL under the intact "
    "model and distinct-2 stand beside every hit rate.",
    "Most of the cost in fluency is that of any vector of this norm: see random and shuffled.",
    "Texts are identified by replay in the intact model; in the edited model the added vector "
    "itself would be identified.",
    "Scaling the units of a network induces no topic: they are silent off topic.",
)
"""What stands beside the table."""


@dataclass(frozen=True, kw_only=True)
class SteerOptions:
    """How a model is steered, and on what that is tried."""

    task_labels: Sequence[str] = option(
        (), "--task", "steer for this topic; repeatable", group="direction", shown="all",
        action="append", metavar="LABEL",
    )  # fmt: skip
    direction: DirectionKind | None = option(
        None, "--direction", "difference of the means of on and off answers (means), the mean "
        "effect map (effect), or the own topic against the others (vs-others)", group="direction",
        shown="means, with --minus vs-others", choices=("means", "effect", "vs-others"),
    )  # fmt: skip
    minus: bool = option(
        False, "--minus", "take the topic away, from answers to its own prompts", group="direction"
    )
    stat_img: Path | None = option(
        None, "--map", "a map in place of the mean effect map, with --direction effect",
        group="direction", shown="none", type=Path, metavar="IMG",
    )  # fmt: skip
    layers: tuple[int, ...] = option(
        (), "--layers", "layers that are searched", group="search",
        shown="at 0.3, 0.4 and 0.5 of the depth", nargs="+", type=int, metavar="N",
    )  # fmt: skip
    strengths: tuple[float, ...] = option(
        (3.0, 4.0, 5.0, 6.0), "--strengths", "multiples of the direction that are searched",
        group="search", shown="3 4 5 6", nargs="+", type=float, metavar="X",
    )  # fmt: skip
    max_cost: float = option(
        1.75, "--max-cost", "the search takes no setting that costs more NLL than this, in nats a "
        "token above no steering", group="search", type=float, metavar="NATS",
    )  # fmt: skip
    min_distinct: float = option(
        0.9, "--min-distinct", "nor one whose distinct-2 is lower", group="search", type=float,
        metavar="SHARE",
    )  # fmt: skip
    n_prompts: int = option(
        24, "--n-prompts", "held-out prompts, half to search on, half to report", group="prompts",
        type=int, metavar="N",
    )  # fmt: skip
    n_defining: int = option(
        64, "--n-defining", "prompts of each bank, shown in runs, whose answers give the direction "
        "and teach the classifier", group="prompts", type=int, metavar="N",
    )  # fmt: skip
    n_tokens: int = option(
        15, "--n-tokens", "tokens of an answer", group="prompts", type=int, metavar="N"
    )
    n_controls: int = option(
        2, "--n-controls", "random and shuffled directions of each kind", group="prompts", type=int,
        metavar="N",
    )  # fmt: skip
    ask: str = option(
        "Please talk about {topic}.", "--ask", "the rival: what a prompt says that asks for the "
        "topic ({topic} is the task's label)", group="prompts", metavar="TEXT",
    )  # fmt: skip


@takes_options(SubjectOptions, SteerOptions)
def steer(
    bids_dir: str | Path,
    analysis_dir: str | Path,
    *,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Steer a model towards a topic, or away from it, and say what came out and what it costs.

    Parameters
    ----------
    bids_dir : str or Path
        Dataset of the model.
    analysis_dir : str or Path
        Output folder of `llm2bids analyze`, whose effect maps identify the text; results are
        written to ``group/steer`` in it.
    progress : bool
        Show a progress bar on stderr.
    **options
        Which model, how it is steered, and on what that is tried.

    Returns
    -------
    Result
        Tables ``steer``, ``search`` and ``texts``, edits by task, notes.

    Raises
    ------
    Llm2bidsError
        If an argument, the dataset or its model is not usable, too few prompts are held out, or a
        strength leaves no numbers.
    """
    of_subject, of_steering = split_options(options, SubjectOptions, SteerOptions)
    subject = open_subject(
        bids_dir, model=of_subject.model, device=of_subject.device, seed=of_subject.seed
    )
    topics = open_topics(subject, Path(analysis_dir))
    scene = Scene.prepare(topics, of_steering)
    with tqdm(total=scene.n_steps, desc="steer", disable=not progress) as bar:
        scene = scene.with_responses(bar)
        parts = [TopicStudy(scene, name, bar).run() for name in scene.tasks]
    classifier = scene.classifier
    result = Result(
        name="steer",
        stem="away" if of_steering.minus else "toward",
        tables={
            name: pd.concat([part[name] for part in parts], ignore_index=True)
            for name in ("steer", "search", "texts")
        },
        edits={
            f"{name}{'Away' if of_steering.minus else ''}": part["edit"]
            for name, part in zip(scene.tasks, parts, strict=True)
        },
        metadata={
            "Direction": scene.kind,
            "Minus": of_steering.minus,
            "Seed": of_subject.seed,
            "NumberOfTokens": of_steering.n_tokens,
            "ClassifierAccuracy": classifier.accuracy,
            "ClassifierAccuracyInterval": [classifier.low, classifier.high],
            "ClassifierTests": classifier.n_tests,
            "Chance": 1 / len(classifier.classes),
        },
        notes=NOTES,
    )
    result.save(Path(analysis_dir))
    return result
