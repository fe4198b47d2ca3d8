"""A dataset, its model loaded again, its topics, and the prompts that nothing has shown it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from llm2bids.dataset.read import Dataset
from llm2bids.exceptions import InterventionError, ModelError, UsageError
from llm2bids.inference.effects import Effects, read_effects
from llm2bids.inference.inputs import open_inputs
from llm2bids.inference.provenance import Provenance
from llm2bids.options import Options, option
from llm2bids.paradigm.seed import derive_generator
from llm2bids.paradigm.task import Prompt
from llm2bids.recording.tokens import prompt_tokens
from llm2bids.space.stat_map import unit_values

if TYPE_CHECKING:
    import pandas as pd

    from llm2bids.model.load import LoadedModel

_of_model = partial(option, group="model")
_of_prompts = partial(option, group="prompts")
_of_topics = partial(option, group="topics")


@dataclass(frozen=True, kw_only=True)
class SubjectOptions(Options):
    """Which model, and which prompts are drawn: for every intervention."""

    model: str | Path | None = _of_model(
        None,
        "--model NAME_OR_PATH",
        "the dataset's model, where its name does not lead to it",
        shown="the dataset's",
    )
    device: str = _of_model("auto", "--device", "auto, cpu, cuda, cuda:N or mps")
    seed: int = _of_prompts(
        0, "--seed", "chooses the held-out prompts and the random controls", least=0
    )


@dataclass(frozen=True, kw_only=True)
class TopicOptions(Options):
    """What several interventions ask; each takes over those that it has."""

    task_labels: Sequence[str] = _of_topics(
        (), "--task LABEL", "only this topic; repeatable", shown="all", action="append"
    )
    stat_img: Any = _of_topics(
        None, "--map IMG", "a map in place of the mean effect map", type=Path
    )
    sites: Sequence[str] | None = _of_topics(
        None,
        "--sites PATTERN",
        "sites whose units are taken, as for record",
        shown="the MLPs' activations (act_fn), or what plays their part",
        action="append",
    )
    n_prompts: int = _of_prompts(
        16, "--n-prompts --prompts", "held-out prompts of each topic and of none", least=4
    )
    n_defining: int = _of_prompts(
        64,
        "--n-defining",
        "prompts of each bank, shown in runs, that directions, classifiers and "
        "probes learn from, and that set thresholds",
        least=4,
    )
    n_tokens: int = _of_prompts(15, "--n-tokens --answer-tokens", "tokens of an answer", least=2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A dataset, its model, its effects by topic, and the seed that prompts are drawn with.

    Topics are the tasks of the analysis that have a bank of prompts, by their trial types.
    """

    dataset: Dataset
    effects: Effects
    loaded: "LoadedModel"
    source: str  # what the model was loaded by
    seed: int

    @cached_property
    def shown(self) -> frozenset[str]:
        """Prompts that a run, the calibration or the localizer shows."""
        dataset, layout = self.dataset, self.dataset.space.layout
        in_runs = Provenance.of_runs(dataset, dataset.runs).prompts
        localized = () if layout is None else layout.prompt_ids
        return in_runs.union(dataset.calibration.prompt_ids, localized)

    @property
    def baseline(self) -> str:
        """Bank of the off prompts."""
        return self.dataset.paradigm.baseline

    def untrained(self) -> "LoadedModel":
        """Load the same architecture with random weights, as a control."""
        from llm2bids.model.load import load_model

        loaded = load_model(
            self.source,
            device=self.loaded.device,
            dtype=self.loaded.dtype,
            trust_remote_code=self.loaded.trust_remote_code,
            random_weights=0,
        )
        return replace(loaded, batching=self.loaded.batching, chat=self.loaded.chat)

    def held_out(self, bank: str, n: int, used: frozenset[str] = frozenset()) -> tuple[Prompt, ...]:
        """Draw prompts of a bank that no run, no calibration, no map and no edit has used."""
        table = self.dataset.prompts[self.dataset.prompts["condition"] == bank]
        left = table[~table["prompt_id"].isin(self.shown | used)].sort_values("prompt_id")
        if len(left) < max(n, 1):
            raise InterventionError(
                f"{self.dataset.path}: {len(left)} of the {len(table)} prompts of bank {bank!r} "
                f"are in no run, no calibration and no map; expected {n} to test with: ask for "
                "fewer prompts, record fewer participants, or record with a larger bank"
            )
        order = derive_generator(self.seed, "held out", bank).permutation(len(left))[:n]
        return _prompts(left.iloc[order])

    def shown_of(self, bank: str, n: int) -> tuple[Prompt, ...]:
        """Draw up to `n` prompts of a bank that runs show: what directions and probes learn."""
        table = self.dataset.prompts
        table = table[(table["condition"] == bank) & table["prompt_id"].isin(self.shown)]
        order = np.random.default_rng(self.seed).permutation(len(table))[:n]
        return _prompts(table.sort_values("prompt_id").iloc[np.sort(order)])

    def tokens(self, prompts: Sequence[Prompt], *, n_tokens: int = 0) -> list[list[int]]:
        """Tokenize prompts, each a context of its own."""
        return prompt_tokens(self.loaded, prompts, n_tokens=n_tokens)

    @cached_property
    def banks(self) -> dict[str, str]:
        """Bank of each topic."""
        tasks = self.dataset.paradigm.tasks
        banks = {kind: bank for task in tasks for kind, bank in task.conditions}
        labels = [condition.label for condition in self.effects.conditions]
        return {label: banks[label] for label in labels if label in banks}

    def choose(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Give the topics asked for, all without; refuse unknown ones."""
        if unknown := [label for label in labels if label not in self.banks]:
            raise UsageError(
                f"--task {', '.join(unknown)}: not in the analysis, which has "
                f"{', '.join(self.banks) or 'no task with a bank of prompts'}"
            )
        return tuple(dict.fromkeys(labels)) or tuple(self.banks)

    def effect(self, label: str, stat_img: Any = None) -> npt.NDArray[np.float64]:
        """Average the participants' effect maps, (n_units,), or take a map; 0 where it has none."""
        space = self.dataset.space
        if stat_img is not None:
            prints = (self.dataset.fingerprint, space.fingerprint())
            return np.nan_to_num(unit_values(stat_img, space, fingerprint=prints))
        column = [condition.label for condition in self.effects.conditions].index(label)
        values = np.zeros(space.n_units)
        values[self.effects.mask] = self.effects.values[:, column].mean(axis=0)
        return values


def _prompts(table: "pd.DataFrame") -> tuple[Prompt, ...]:
    names = ["prompt_id", "condition", "topic", "text"]
    rows = table[names].astype(str).to_numpy()
    return tuple(Prompt(**dict(zip(names, row, strict=True))) for row in rows)


def open_subject(
    bids_dir: str | Path, analysis_dir: str | Path, options: SubjectOptions
) -> Subject:
    """Read the effect maps of an analysis of a dataset, and load the dataset's model."""
    inputs = open_inputs(Path(bids_dir))
    effects = read_effects(inputs, Path(analysis_dir)).complete()
    loaded, source = load_recorded(inputs.dataset, model=options.model, device=options.device)
    return Subject(
        dataset=inputs.dataset, effects=effects, loaded=loaded, source=source, seed=options.seed
    )


def load_recorded(
    dataset: Dataset, *, model: str | Path | None = None, device: str = "auto"
) -> "tuple[LoadedModel, str]":
    """Load the model that a dataset was recorded from, and say by what; refuse other weights."""
    from llm2bids.model.load import load_model
    from llm2bids.model.tokenizer import Chat, with_chat

    bids_dir, settings = dataset.path, dataset.settings
    name = str(settings["model"])
    source = str(model or _source(dataset))
    seeded = settings.get("random_weights")
    if seeded is not None and model is None:
        raise UsageError(
            f"{bids_dir}: recorded from random weights of {name}; name the model that they were "
            "drawn for: --model NAME_OR_PATH"
        )
    try:
        loaded = load_model(
            source,
            device=device,
            dtype=str(settings.get("dtype") or "auto"),
            revision=settings.get("revision"),
            trust_remote_code=bool(settings.get("trust_remote_code")),
            random_weights=seeded,
        )
    except ModelError as error:
        if model is not None:
            raise
        raise InterventionError(
            f"{bids_dir}: was recorded from {name}, and {error}; or name the model with --model "
            "NAME_OR_PATH"
        ) from None
    if loaded.weights_sha256 != settings["weights_sha256"]:
        raise InterventionError(
            f"model {source}: weights {loaded.weights_sha256[:16]}; {bids_dir} was recorded from "
            f"{name} with {str(settings['weights_sha256'])[:16]}: expected the same; give that "
            "model with --model"
        )
    loaded = replace(loaded, batching=settings.get("batching", "padded"))
    if "chat_template" in settings:
        loaded = with_chat(loaded, Chat(system=settings.get("system")))
    return loaded, source


def _source(dataset: Dataset) -> str:
    """Say what a dataset's model was loaded by, as its series do: a folder, a file, a hub name."""
    from llm2bids.model.embedded import GGUF_SHA256
    from llm2bids.model.location import EMBEDDED

    if dataset.settings.get("weights_sha256") == GGUF_SHA256:
        return EMBEDDED
    sources = (dataset.sidecar(run).get("Source") for run in dataset.runs)
    return str(next((source for source in sources if source), dataset.settings["model"]))
