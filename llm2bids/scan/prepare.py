"""All that is decided before anything is recorded: the draw, the model, its sites, the settings."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.dataset.write import DatasetWriter, Templates
from llm2bids.paradigm.design import shared_prompts
from llm2bids.recording.batches import RunBuffers
from llm2bids.recording.draw import Scan
from llm2bids.recording.events import high_pass_warning
from llm2bids.recording.tokens import first_step, prompt_tokens
from llm2bids.scan.answers import GivenAnswers
from llm2bids.scan.arrangement import Choice, check_localizer, refuse_old_method
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.sessions import check_sessions

if TYPE_CHECKING:
    from llm2bids.model.exactness import Exactness
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.units import Site

log = logging.getLogger(__name__)

SHARED_PROMPTS = (
    "participants share prompts: their errors are shared too, and group results are inflated "
    "(measured family-wise error at a nominal 0.05: 0.66 where 8 participants draw 8 prompts each "
    "from a bank of 16, 0.32 from 24, 0.09 from 64; 0.04 with disjoint prompts)"
)
"""What is said wherever participants share prompts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """All that is decided before anything is recorded."""

    options: ScanOptions
    scan: Scan
    choice: Choice
    loaded: "LoadedModel"
    sites: tuple["Site", ...]
    exactness: "Exactness"
    settings: Mapping[str, Any]
    buffers: RunBuffers
    templates: Templates = field(default_factory=dict)
    answers: GivenAnswers | None = None

    def with_answers(self, answers: GivenAnswers | None) -> "Prepared":
        """Take given answers, of which the settings have the hash."""
        sha256 = None if answers is None else answers.sha256
        return replace(self, answers=answers, settings={**self.settings, "answers_sha256": sha256})


def prepare(bids_dir: Path, options: ScanOptions, answers: GivenAnswers | None) -> Prepared:
    """Draw the scan and load the model, refusing first what costs least to find."""
    from llm2bids.model.tokenizer import with_chat

    choice = options.choose_arrangement()
    refuse_old_method(bids_dir)
    check_sessions(bids_dir, options.read_edit())
    scan = options.draw(localizer_prompts=choice.localizer_prompts)
    between_participants, _ = shared_prompts(scan.designs)
    if between_participants:
        log.warning("%s", SHARED_PROMPTS)
    if (drift := high_pass_warning(scan.designs, scan.t_r)) is not None:
        log.warning("%s", drift)
    DatasetWriter.check_target(bids_dir)
    chat = options.choose_chat(scan.paradigm)
    loaded, sites, exactness = load(options)
    if chat is not None:
        loaded = with_chat(loaded, chat)
    check_localizer(choice, scan, sites)
    _check_lengths(loaded, scan, keep_first=options.keep_first)
    settings = {
        **options.settings(scan, sites, loaded),
        **loaded_settings(loaded),
        **choice.settings,
    }
    if chat is not None:
        settings |= {"chat_template": chat.template_sha256(loaded.tokenizer), "system": chat.system}
    if options.n_threads != 1 and loaded.device == "cpu":
        settings["n_threads"] = options.n_threads
    functions = {site.scores.function for site in sites if site.scores}
    if functions:
        settings["router_probabilities"] = ", ".join(sorted(functions))
    if loaded.batching != "padded":
        settings["batching"] = loaded.batching
    prepared = Prepared(
        options=options,
        scan=scan,
        choice=choice,
        loaded=loaded,
        sites=sites,
        exactness=exactness,
        settings=settings,
        buffers=RunBuffers(bids_dir, loaded.device),
    )
    return prepared.with_answers(answers)


def loaded_settings(loaded: "LoadedModel") -> dict[str, Any]:
    """List what a loaded model adds to the settings."""
    # no entries for what datasets of earlier versions could not be
    names = ("random_weights", "adapter", "quantization")
    made = {name: getattr(loaded, name) for name in names if getattr(loaded, name) is not None}
    origin = {name: getattr(loaded, name) for name in ("revision", "weights_sha256", "device")}
    return origin | made


def load(options: ScanOptions) -> tuple["LoadedModel", tuple["Site", ...], "Exactness"]:
    """Load the model, and find the sites that are recorded."""
    from llm2bids.model.exactness import exact_sites
    from llm2bids.model.load import load_model
    from llm2bids.model.sites import select_sites

    began = time.perf_counter()
    loaded, table, exactness = exact_sites(
        load_model(
            str(options.model),
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            device=options.device,
            device_map=options.device_map,
            dtype=options.dtype,
            random_weights=options.random_weights,
            adapter=options.adapter,
        )
    )
    chosen = select_sites(table, options.sites)
    n_units = sum(site.width for site in chosen)
    log.info(
        "%s on %s (%s): %d sites, %s units, loaded in %.1f s",
        loaded.name,
        loaded.device,
        loaded.dtype,
        len(chosen),
        f"{n_units:,}",
        time.perf_counter() - began,
    )
    return loaded, chosen, exactness


def _check_lengths(loaded: "LoadedModel", scan: Scan, *, keep_first: bool) -> None:
    """Refuse a prompt that does not fit the model's context before anything is recorded."""
    prompts = {p.prompt_id: p for p in (*scan.calibration, *scan.localizer)}
    prompts |= {t.prompt.prompt_id: t.prompt for design in scan.designs for t in design.trials}
    n_tokens = scan.paradigm.tokens_per_prompt + first_step(keep_first)
    prompt_tokens(loaded, list(prompts.values()), n_tokens=n_tokens)
