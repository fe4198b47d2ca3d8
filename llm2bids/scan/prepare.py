"""All that is decided before anything is recorded: the draw, the model, its sites, the settings."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.dataset.arrangement import LOCALIZER_PROMPTS, Given, read_given
from llm2bids.dataset.settings import is_dataset, read_settings
from llm2bids.dataset.write import DatasetWriter, Templates
from llm2bids.exceptions import DatasetError, UsageError
from llm2bids.options import chosen
from llm2bids.paradigm.design import shared_prompts
from llm2bids.paradigm.seed import derive_seed
from llm2bids.recording.batches import OnToken, RunBuffers
from llm2bids.recording.calibration import RestScan
from llm2bids.recording.draw import Scan
from llm2bids.recording.events import high_pass_warning
from llm2bids.recording.record import answer_tokens
from llm2bids.recording.tokens import first_step, prompt_tokens
from llm2bids.scan.answers import GivenAnswers
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.sessions import check_sessions
from llm2bids.space.definition import ARRANGEMENTS
from llm2bids.space.functional import FEWEST_PROMPTS, METHOD, check_widths

if TYPE_CHECKING:
    from llm2bids.model.exactness import Exactness
    from llm2bids.model.load import LoadedModel
    from llm2bids.model.units import Site

log = logging.getLogger(__name__)

_MOST_VOLUMES = 2**15 - 1

# What is said wherever participants share prompts.
SHARED_PROMPTS = (
    "participants share prompts: their errors are shared too, and group results are inflated "
    "(measured family-wise error at a nominal 0.05: 0.66 where 8 participants draw 8 prompts each "
    "from a bank of 16, 0.32 from 24, 0.09 from 64; 0.04 with disjoint prompts)"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The arrangement that a scan is to have."""

    name: str  # ``index``, ``functional`` or ``random``
    localizer_prompts: int | None = None  # prompts of each task's bank in the localizer
    given: Given | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What must not change within a dataset; nothing in index arrangement, as of old."""
        if self.name == "index":
            return {}
        entries: dict[str, Any] = {"arrangement": self.name}
        if self.localizer_prompts is not None:
            entries["localizer_prompts"] = self.localizer_prompts
        if self.name == "functional":
            entries["arrangement_method"] = METHOD
        if self.given is not None:
            entries["arrangement_sha256"] = self.given.sha256
        return entries


def choose_arrangement(options: ScanOptions) -> Choice:
    """Read what was asked for."""
    arrangement, localizer_prompts = options.arrangement, options.localizer_prompts
    if arrangement != "functional" and localizer_prompts is not None:
        raise UsageError(
            f"localizer_prompts (--localizer-prompts) is {localizer_prompts} in {arrangement} "
            "arrangement, which has no localizer; leave it out, or take --arrangement functional"
        )
    if arrangement == "functional":
        number = LOCALIZER_PROMPTS if localizer_prompts is None else localizer_prompts
        return Choice(name="functional", localizer_prompts=number)
    if arrangement in ARRANGEMENTS:
        return Choice(name=str(arrangement))
    return Choice(name="given", given=read_given(Path(arrangement)))


def refuse_old_method(bids_dir: Path) -> None:
    """Refuse to record on in an order that older versions learned by another method."""
    method = read_settings(bids_dir).get("arrangement_method") if is_dataset(bids_dir) else None
    if method not in (None, METHOD):
        raise DatasetError(
            f"{bids_dir}: its functional arrangement was learned by {method}, which is no longer "
            "offered; it can be read and analysed, but not recorded on: record a new dataset "
            f"(--arrangement {bids_dir} takes the same order)"
        )


def check_localizer(choice: Choice, scan: Scan, sites: Sequence["Site"]) -> None:
    """Refuse a localizer that cannot serve before anything is recorded."""
    if choice.name != "functional":
        return
    n_prompts, n_tokens = len(scan.localizer), scan.paradigm.tokens_per_prompt
    n_off = len(scan.calibration)
    single = choice.localizer_prompts == 1
    if n_prompts < FEWEST_PROMPTS or n_off < 2 or single:
        raise UsageError(
            f"localizer: {n_prompts} prompts, {n_off} of them off topic, make "
            f"{n_prompts * n_tokens} tokens; a functional arrangement needs "
            f"{FEWEST_PROMPTS * n_tokens} tokens or more ({FEWEST_PROMPTS} prompts of {n_tokens}), "
            "with 2 or more off prompts and none or 2 of each task: raise calibration_prompts in "
            "the paradigm or --localizer-prompts"
        )
    check_widths(sites)


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

    def rest_scan(self, name: str, on_token: OnToken) -> RestScan:
        """Say how prompts that belong to no run are scanned, with seeds that `name` parts."""
        return RestScan(
            seed=derive_seed(self.scan.seed, name),
            on_token=on_token,
            **chosen(self.scan.paradigm, "tokens_per_prompt", "sampling"),
            **chosen(self.options, "batch_size", "keep_first"),
        )

    def with_answers(self, answers: GivenAnswers | None) -> "Prepared":
        """Take given answers, of which the settings have the hash."""
        sha256 = None if answers is None else answers.sha256
        return replace(self, answers=answers, settings={**self.settings, "answers_sha256": sha256})


def prepare(bids_dir: Path, options: ScanOptions, answers: GivenAnswers | None) -> Prepared:
    """Draw the scan and load the model, refusing first what costs least to find."""
    from llm2bids.model.tokenizer import with_chat

    choice = choose_arrangement(options)
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
    prepared = load(bids_dir, options, scan, choice)
    loaded = prepared.loaded if chat is None else with_chat(prepared.loaded, chat)
    check_localizer(choice, scan, prepared.sites)
    _check_lengths(loaded, scan, answers, keep_first=options.keep_first)
    settings = dict(prepared.settings)
    if chat is not None:
        settings |= {"chat_template": chat.template_sha256(loaded.tokenizer), "system": chat.system}
    if options.n_threads != 1 and loaded.device == "cpu":
        settings["n_threads"] = options.n_threads
    functions = {site.scores.function for site in prepared.sites if site.scores}
    if functions:
        settings["router_probabilities"] = ", ".join(sorted(functions))
    if loaded.batching != "padded":
        settings["batching"] = loaded.batching
    return replace(prepared, loaded=loaded, settings=settings).with_answers(answers)


def load(bids_dir: Path, options: ScanOptions, scan: Scan, choice: Choice) -> Prepared:
    """Load the model, find the sites that are recorded, and list the settings."""
    from llm2bids.model.exactness import exact_sites
    from llm2bids.model.load import load_model
    from llm2bids.model.sites import select_sites

    check_volumes(scan)
    began = time.perf_counter()
    how = chosen(options, "revision", "trust_remote_code", "device", "device_map", "dtype")
    how |= chosen(options, "random_weights", "adapter")
    loaded, table, exactness = exact_sites(load_model(str(options.model), **how))
    sites = select_sites(table, options.sites)
    n_units = f"{sum(site.width for site in sites):,}"
    log.info(
        "%s on %s (%s): %d sites, %s units, loaded in %.1f s",
        *(loaded.name, loaded.device, loaded.dtype, len(sites), n_units),
        time.perf_counter() - began,
    )
    settings = options.settings(scan, sites, loaded)
    settings |= chosen(loaded, "revision", "weights_sha256", "device")
    new = chosen(loaded, "random_weights", "adapter", "quantization")  # no earlier version had them
    settings |= {name: value for name, value in new.items() if value is not None}
    return Prepared(
        options=options,
        scan=scan,
        choice=choice,
        loaded=loaded,
        sites=sites,
        exactness=exactness,
        settings=settings | choice.settings,
        buffers=RunBuffers(bids_dir, loaded.device),
    )


def check_volumes(scan: Scan) -> None:
    """Refuse runs that are longer than an image can be: NIfTI counts volumes in 16 bits."""
    longest = max(design.n_volumes for design in scan.designs)
    if longest > _MOST_VOLUMES:
        raise UsageError(
            f"a run of {longest:,} volumes: an image holds {_MOST_VOLUMES:,} at most; record fewer "
            "prompts or tokens in a run, or read a shorter story or with a longer --tr"
        )


def _check_lengths(
    loaded: "LoadedModel", scan: Scan, answers: GivenAnswers | None, *, keep_first: bool
) -> None:
    """Refuse prompts that the context does not hold, and answers, before anything is recorded."""
    prompts = {p.prompt_id: p for p in (*scan.calibration, *scan.localizer)}
    prompts |= {t.prompt.prompt_id: t.prompt for design in scan.designs for t in design.trials}
    n_tokens = scan.paradigm.tokens_per_prompt + first_step(keep_first)
    prompt_tokens(loaded, list(prompts.values()), n_tokens=n_tokens)
    if answers is not None:
        for design in scan.designs:
            answer_tokens(loaded, design, answers.of_run(design), n_tokens=n_tokens)
