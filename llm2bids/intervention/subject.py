"""The model of a dataset, loaded again, with the prompts that nothing has shown it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.exceptions import InterventionError, ModelError, UsageError
from llm2bids.intervention.held_out import held_out_prompts, shown_prompts
from llm2bids.options import option
from llm2bids.paradigm.task import Prompt
from llm2bids.recording.trials import prompt_tokens

if TYPE_CHECKING:
    from llm2bids.model.load import LoadedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SubjectOptions:
    """Which model, and which prompts are drawn."""

    model: str | None = option(
        None, "--model", "the dataset's model, where its name does not lead to it", group="model",
        shown="the dataset's", metavar="NAME_OR_PATH",
    )  # fmt: skip
    device: str = option("auto", "--device", "auto, cpu, cuda, cuda:N or mps", group="model")
    seed: int = option(
        0, "--seed", "chooses the held-out prompts and the random controls", group="prompts",
        type=int, metavar="N",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A dataset, its model, and the seed that prompts are drawn with."""

    dataset: Dataset
    loaded: "LoadedModel"
    seed: int
    source: str  # what the model was loaded by

    @cached_property
    def shown(self) -> frozenset[str]:
        """Prompts that a run, the calibration or the localizer shows."""
        return shown_prompts(self.dataset)

    @property
    def baseline(self) -> str:
        """Bank of the off prompts."""
        return self.dataset.paradigm.baseline

    def untrained(self, seed: int = 0) -> "LoadedModel":
        """Load the same architecture with random weights, as a control."""
        from llm2bids.model.load import load_model

        loaded = load_model(
            self.source,
            device=self.loaded.device,
            dtype=self.loaded.dtype,
            trust_remote_code=self.loaded.trust_remote_code,
            random_weights=seed,
        )
        return replace(loaded, batching=self.loaded.batching, chat=self.loaded.chat)

    def held_out(self, bank: str, n: int) -> tuple[Prompt, ...]:
        """Draw prompts of a bank that nothing has used."""
        return held_out_prompts(self.dataset, bank, n=n, seed=self.seed, shown=self.shown)

    def shown_of(self, bank: str, n: int) -> tuple[Prompt, ...]:
        """Draw up to `n` prompts of a bank that runs show: what directions and probes learn."""
        table = self.dataset.prompts
        table = table[(table["condition"] == bank) & table["prompt_id"].isin(self.shown)]
        order = np.random.default_rng(self.seed).permutation(len(table))[:n]
        rows = table.sort_values("prompt_id").iloc[np.sort(order)]
        names = ("prompt_id", "condition", "topic", "text")
        return tuple(
            Prompt(**{n: str(getattr(row, n)) for n in names}) for row in rows.itertuples()
        )

    def tokens(self, prompts: Sequence[Prompt], *, n_tokens: int = 0) -> list[list[int]]:
        """Tokenize prompts, each a context of its own."""
        return prompt_tokens(self.loaded, prompts, n_tokens=n_tokens)


def open_subject(
    bids_dir: str | Path, *, model: str | None = None, device: str = "auto", seed: int = 0
) -> Subject:
    """Open a dataset and load the model that it was recorded from; other weights are refused."""
    from llm2bids.model.chat import Chat, with_chat
    from llm2bids.model.load import load_model

    dataset = open_dataset(bids_dir)
    settings = dataset.settings
    name = str(settings["model"])
    source = model or _source(dataset)
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
    return Subject(dataset=dataset, loaded=loaded, seed=seed, source=source)


def _source(dataset: Dataset) -> str:
    """Say what a dataset's model was loaded by, as its series do: a folder, a file, a hub name."""
    from llm2bids.model.embedded import GGUF_SHA256
    from llm2bids.model.place import EMBEDDED

    if dataset.settings.get("weights_sha256") == GGUF_SHA256:
        return EMBEDDED
    sources = (dataset.sidecar(run).get("Source") for run in dataset.runs)
    return str(next((source for source in sources if source), dataset.settings["model"]))
