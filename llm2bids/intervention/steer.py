"""Steering: a direction added to the residual stream, with what it costs and what it must beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from llm2bids.exceptions import UsageError
from llm2bids.inference.rates import binomial_interval
from llm2bids.inference.statmap import notes_of
from llm2bids.intervention.answers import LEAST_TEXTS
from llm2bids.intervention.results import InterventionResult
from llm2bids.intervention.steer_study import DirectionKind, Scene, TopicStudy
from llm2bids.intervention.subject import SubjectOptions, TopicOptions, open_subject
from llm2bids.options import Options, option, shared, split_options, takes_options

_of_direction = partial(option, group="direction")
_of_search = partial(option, group="search")
_of_prompts = partial(option, group="prompts")


@dataclass(frozen=True, kw_only=True)
class SteerOptions(Options):
    """How a model is steered, and on what that is tried."""

    task_labels: Sequence[str] = shared(TopicOptions, "task_labels", group="direction")
    direction: DirectionKind | None = _of_direction(
        None,
        "--direction",
        "difference of the means of on and off texts, prompt and answer "
        "(means), the mean effect map (effect), or the own topic against the others (vs-others)",
        shown="means, with --minus vs-others",
    )
    minus: bool = _of_direction(
        False, "--minus", "take the topic away, from answers to its own prompts"
    )
    stat_img: Any = shared(
        TopicOptions,
        "stat_img",
        group="direction",
        text="a map in place of the mean effect map, with --direction effect",
    )
    layers: tuple[int, ...] = _of_search(
        (),
        "--layers",
        "layers that are searched",
        shown="at 0.4 and 0.5 of the depth",
        nargs="+",
        least=0,
    )
    strengths: tuple[float, ...] = _of_search(
        (2.0, 3.0, 4.0),
        "--strengths",
        "multiples of the direction that are searched",
        shown="2 3 4",
        nargs="+",
        least=1e-3,
    )
    max_cost: float = _of_search(
        1.75,
        "--max-cost NATS",
        "the search takes no setting that costs more NLL than this, in "
        "nats a token above no steering",
        least=0,
    )
    min_distinct: float | None = _of_search(
        None,
        "--min-distinct SHARE",
        "nor one whose distinct-2 is lower than this, or than that "
        "of intact answers where they have less",
        shown="0.9, with --minus 0.7",
        least=0,
    )
    n_prompts: int = shared(
        TopicOptions, "n_prompts", 24, text="held-out prompts, half to search on, half to report"
    )
    n_defining: int = shared(TopicOptions, "n_defining", bounds={"least": LEAST_TEXTS})
    n_tokens: int = shared(TopicOptions, "n_tokens")
    n_controls: int = _of_prompts(
        2, "--n-controls", "random and shuffled directions of each kind", least=0
    )
    ask: str = _of_prompts(
        "Please talk about {topic}.",
        "--ask TEXT",
        "the rival: what a prompt says that asks for the topic ({topic} is the task's label)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{topic}" not in self.ask:
            raise UsageError(f"--ask {self.ask!r}: expected {{topic}} in it, for the task's label")


@takes_options(SubjectOptions, SteerOptions)
def steer(
    bids_dir: str | Path, analysis_dir: str | Path, *, progress: bool = True, **options: Any
) -> InterventionResult:
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
    InterventionResult
        Tables ``steer``, ``search`` and ``texts``, edits by task, notes.

    Raises
    ------
    Llm2bidsError
        If an argument, the dataset or its model is not usable, too few prompts are held out, or a
        strength leaves no numbers.
    """
    of_subject, of_steering = split_options(options, SubjectOptions, SteerOptions)
    scene = Scene(open_subject(bids_dir, analysis_dir, of_subject), of_steering)
    with tqdm(total=scene.n_steps, desc="steer", disable=not progress) as bar:
        scene.learn(bar)
        parts = [TopicStudy(scene, name, bar).run() for name in scene.tasks]
    result = InterventionResult(
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
            "ClassifierAccuracy": scene.n_correct / scene.n_tests,
            "ClassifierAccuracyInterval": list(binomial_interval(scene.n_correct, scene.n_tests)),
            "ClassifierTests": scene.n_tests,
            "Chance": 1 / len(scene.classifier.classes_),
        },
        notes=notes_of("steer"),
    )
    result.save(Path(analysis_dir))
    return result
