"""The scanner as one verb: a model, a paradigm and a number of participants in, a dataset out."""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.settings import is_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import UsageError
from llm2bids.options import takes_options
from llm2bids.paradigm.design import RunDesign, share_prompts
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.seed import derive_seed
from llm2bids.paradigm.task import Prompt
from llm2bids.recording.buffers import RunBuffers
from llm2bids.recording.calibration import calibrate
from llm2bids.recording.draw import Scan, without_prompts
from llm2bids.recording.record import Recording, group_runs, record_runs
from llm2bids.recording.replay import replay_run
from llm2bids.recording.trials import first_step, prompt_tokens
from llm2bids.scan.answers import GivenAnswers, read_answers
from llm2bids.scan.arrangement import Choice, arranged_space, check_localizer, refuse_old_method
from llm2bids.scan.background import Background
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.sessions import check_sessions, taking_sessions
from llm2bids.space.arrange import build_space
from llm2bids.store.json import read_json

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


@takes_options(ScanOptions)
def record(
    bids_dir: str | Path,
    *,
    answers: GivenAnswers | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Dataset:
    """Scan a model: write a BIDS dataset, go on with one, or add participants to it.

    Parameters
    ----------
    bids_dir : str or Path
        Folder of the dataset: new, empty, or one of ours that was recorded with the same settings.
    answers : GivenAnswers, optional
        Given answers, which the model reads instead of generating its own; see `replay`.
    overwrite : bool
        Replace files that were changed since they were written, and record runs anew of which a
        file was changed or is gone.
    progress : bool
        Show a progress bar on the standard error stream.
    **options
        The options of a scan.

    Returns
    -------
    Dataset
        The dataset, opened.

    Raises
    ------
    UsageError, ParadigmError, ModelError, RecordingError, DatasetError
        If an argument, the paradigm, the model, a run or the folder is not usable. Runs that were
        finished before stay.
    """
    bids_dir = Path(bids_dir)
    prepared = _prepare(bids_dir, ScanOptions(**options), answers)
    loaded, scan, batch_size = prepared.loaded, prepared.scan, prepared.options.batch_size
    buffers = RunBuffers(bids_dir, loaded.device)
    n_units = sum(site.width for site in prepared.sites)

    def take(group: Sequence[RunDesign], on_token: Callable[[int], None]) -> list[Recording]:
        how: dict[str, Any] = {
            "keep_first": prepared.options.keep_first,
            "batch_size": batch_size,
            "on_token": on_token,
            "out": buffers.take(sum(design.n_volumes for design in group), n_units),
        }
        if answers is None:
            return record_runs(loaded, group, prepared.sites, **how)
        (design,) = group
        return [replay_run(loaded, design, prepared.sites, answers.of_run(design), **how)]

    edit = prepared.options.read_edit()
    if edit is not None:
        take = taking_sessions(take, loaded, edit)  # type: ignore[assignment]
    # a replayed run is read in batches of its own
    groups = group_runs(scan.designs, batch_size=batch_size if answers is None else None)
    with _open_writer(bids_dir, prepared, progress=progress, overwrite=overwrite) as writer:
        _write_runs(writer, scan, groups, take, progress=progress)
    return open_dataset(bids_dir)


@takes_options(ScanOptions)
def replay(bids_dir: str | Path, *, transcripts: str | Path, **options: Any) -> Dataset:
    """Scan a model on given answers (teacher-forced): one forward pass for each batch.

    Parameters
    ----------
    bids_dir : str or Path
        Folder of the dataset.
    transcripts : str or Path
        TSV with the columns ``prompt_id`` and ``answer`` (text), or ``prompt_id``, ``position``
        and ``token_id``; or a dataset of ours, whose own transcripts are taken.
    **options
        The options of a scan.

    Returns
    -------
    Dataset
        The dataset, opened.

    Raises
    ------
    Llm2bidsError
        As :func:`record`; also if the table lacks a column or an answer to a prompt.

    Notes
    -----
    ``overwrite`` and ``progress`` are those of :func:`record`.
    """
    return record(bids_dir, answers=read_answers(Path(transcripts)), **options)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """All that is decided before anything is recorded."""

    options: ScanOptions
    scan: Scan
    choice: Choice
    loaded: "LoadedModel"
    sites: tuple["Site", ...]
    exactness: "Exactness"
    settings: Mapping[str, Any]


def _prepare(bids_dir: Path, options: ScanOptions, answers: GivenAnswers | None) -> _Prepared:
    """Draw the scan and load the model, refusing first what costs least to find."""
    from llm2bids.model.chat import with_chat

    choice = options.choose_arrangement()
    refuse_old_method(bids_dir)
    check_sessions(bids_dir, options.read_edit())
    scan = options.draw(localizer_prompts=choice.localizer_prompts)
    if share_prompts(scan.designs).between_participants:
        log.warning("%s", SHARED_PROMPTS)
    DatasetWriter.check_target(bids_dir)
    chat = options.choose_chat(scan.paradigm)
    loaded, sites, exactness = _load(options)
    if chat is not None:
        loaded = with_chat(loaded, chat)
    check_localizer(choice, scan, sites)
    _check_lengths(loaded, scan, keep_first=options.keep_first)
    settings = {
        **options.settings(scan, sites, loaded),
        **_loaded_settings(loaded),
        "answers_sha256": answers.sha256 if answers else None,
        **choice.settings,
    }
    if chat is not None:
        settings |= {"chat_template": chat.template_sha256(loaded.tokenizer), "system": chat.system}
    functions = {site.scores.function for site in sites if site.scores}
    if functions:
        settings["router_probabilities"] = ", ".join(sorted(functions))
    if loaded.batching != "padded":
        settings["batching"] = loaded.batching
    return _Prepared(
        options=options,
        scan=scan,
        choice=choice,
        loaded=loaded,
        sites=sites,
        exactness=exactness,
        settings=settings,
    )


def _loaded_settings(loaded: "LoadedModel") -> dict[str, Any]:
    """List what a loaded model adds to the settings."""
    # no entries for what datasets of earlier versions could not be
    names = ("random_weights", "adapter", "quantization")
    made = {name: getattr(loaded, name) for name in names if getattr(loaded, name) is not None}
    origin = {name: getattr(loaded, name) for name in ("revision", "weights_sha256", "device")}
    return origin | made


def _load(options: ScanOptions) -> tuple["LoadedModel", tuple["Site", ...], "Exactness"]:
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


def _open_writer(
    bids_dir: Path,
    prepared: _Prepared,
    *,
    progress: bool,
    overwrite: bool,
    banks: Mapping[str, Sequence[Prompt]] | None = None,
) -> DatasetWriter:
    """Open the dataset, or begin it: calibration, localizer, template."""
    options, scan, loaded = prepared.options, prepared.scan, prepared.loaded
    if is_dataset(bids_dir):
        _check_authors(bids_dir, options.authors)
        return DatasetWriter.open(bids_dir, settings=prepared.settings, overwrite=overwrite)
    from llm2bids.model.weights import weight_norms

    n_tokens = scan.paradigm.tokens_per_prompt
    with _bar(len(scan.calibration) * n_tokens, "calibration", progress) as bar:
        calibration = calibrate(
            loaded,
            scan.calibration,
            prepared.sites,
            tokens_per_prompt=n_tokens,
            sampling=scan.paradigm.sampling,
            seed=derive_seed(scan.seed, "calibration"),
            batch_size=options.batch_size,
            keep_first=options.keep_first,
            on_token=_advance(bar),
        )
    space = build_space(
        prepared.sites,
        label=str(prepared.settings["space_label"]),
        model_name=loaded.name,
        weights_sha256=loaded.weights_sha256,
    )
    with _bar(len(scan.localizer) * n_tokens, "localizer", progress) as bar:
        space, stability = arranged_space(
            space,
            prepared.choice,
            scan,
            loaded,
            keep_first=options.keep_first,
            batch_size=options.batch_size,
            on_token=_advance(bar),
        )
    return DatasetWriter.create(
        bids_dir,
        space=space,
        calibration=calibration,
        paradigm=scan.paradigm,
        settings=prepared.settings,
        weight_norms=weight_norms(loaded, prepared.sites),
        authors=options.authors,
        banks=without_prompts(load_banks(scan.paradigm), scan.excluded) if banks is None else banks,
        stability=stability,
        exactness=prepared.exactness.metadata(),
        edit=options.read_edit(),
    )


def _check_authors(bids_dir: Path, authors: Sequence[str]) -> None:
    """Refuse other authors than a dataset has: its description is written once."""
    path = bids_dir / "dataset_description.json"
    known = read_json(path).get("Authors", [])
    if authors and list(authors) != known:
        raise UsageError(
            f"--author {', '.join(authors)}: {path} has "
            f"{', '.join(known) if known else 'no authors'}; edit Authors there and in the "
            "derivative's, or leave --author out"
        )


def _write_runs(
    writer: DatasetWriter,
    scan: Scan,
    groups: Sequence[Sequence[RunDesign]],
    take: Callable[[Sequence[RunDesign], Callable[[int], None]], list[Recording]],
    *,
    progress: bool,
) -> None:
    """Record what is missing; a group of runs is written while the next one is recorded."""
    done = sum(writer.has_run(design) for design in scan.designs)
    if done:
        log.info("%d of %d runs are there already", done, len(scan.designs))
    last = {design.participant_label: design for design in scan.designs}

    def write(group: Sequence[RunDesign], recordings: Sequence[Recording]) -> None:
        for place, design in enumerate(group):
            if not writer.has_run(design):
                writer.write_run(recordings[place], t_r=scan.t_r)
            if last[design.participant_label] is design:
                writer.finish_participant(design.participant_label)

    def is_missing(group: Sequence[RunDesign]) -> bool:
        return not all(map(writer.has_run, group))

    total = sum(design.n_volumes for group in filter(is_missing, groups) for design in group)
    with _bar(total, "recording", progress) as bar, Background() as background:
        for group in groups:
            recordings: list[Recording] = []
            if is_missing(group):
                bar.set_description(f"sub-{group[0].participant_label} task-{group[0].task}")
                recordings = take(group, _advance(bar))
            background.submit(write, group, recordings)
            del recordings


def _bar(total: int, description: str, progress: bool) -> "tqdm[Any]":
    return tqdm(
        total=total,
        desc=description,
        unit="tok",
        disable=not progress or total == 0,
        file=sys.stderr,
        dynamic_ncols=True,
        smoothing=0.1,
    )


def _advance(bar: "tqdm[Any]") -> Callable[[int], None]:
    def advance(n_volumes: int) -> None:
        bar.update(n_volumes)

    return advance
