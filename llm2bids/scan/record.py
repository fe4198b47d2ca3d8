"""The scanner as one verb: a model, a paradigm and a number of participants in, a dataset out."""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.settings import is_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import UsageError
from llm2bids.paradigm.design import RunDesign, share_prompts
from llm2bids.paradigm.seed import derive_seed
from llm2bids.recording.buffers import RunBuffers
from llm2bids.recording.calibration import calibrate
from llm2bids.recording.draw import Scan, draw_scan
from llm2bids.recording.record import Recording, group_runs, record_runs
from llm2bids.recording.replay import replay_run
from llm2bids.recording.trials import first_step, prompt_tokens
from llm2bids.scan.answers import Answers, read_answers
from llm2bids.scan.arrangement import (
    Choice,
    arranged_space,
    check_localizer,
    choose_arrangement,
    refuse_old_method,
)
from llm2bids.scan.background import Background
from llm2bids.space.arrange import build_space
from llm2bids.space.space import VolumeDtype
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


def record(
    bids_dir: str | Path,
    *,
    model: str | Path = "embedded",
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    random_weights: int | None = None,
    sites: Sequence[str] = ("all",),
    paradigm: str | Path = "off_on_off",
    n_participants: int = 8,
    task_labels: Sequence[str] | None = None,
    seed: int = 0,
    t_r: float | None = None,
    batch_size: int | None = None,
    keep_first: bool = False,
    allow_shared_prompts: bool = False,
    prompts_per_block: int | None = None,
    tokens_per_prompt: int | None = None,
    volume_dtype: VolumeDtype = "int16",
    compress: bool = True,
    hrf_model: str | None = None,
    space_label: str | None = None,
    authors: Sequence[str] = (),
    progress: bool = True,
    answers: Answers | None = None,
    overwrite: bool = False,
    arrangement: str | Path = "index",
    localizer_prompts: int | None = None,
) -> Dataset:
    """Scan a model: write a BIDS dataset, go on with one, or add participants to it.

    Parameters
    ----------
    bids_dir : str or Path
        Folder of the dataset: new, empty, or one of ours that was recorded with the same settings.
    model : str or Path
        Hub name, local folder, GGUF file, or ``"embedded"`` (SmolLM2-135M-Instruct).
    revision : str, optional
        Branch, tag or commit of a hub model.
    trust_remote_code : bool
        Run code that a hub model brings along. Recorded in the dataset.
    device, dtype : str
        As :func:`llm2bids.model.load.load_model` takes them.
    random_weights : int, optional
        Seed of random weights in place of the trained ones: the control dataset.
    sites : sequence of str
        Modules to record: ``"all"``, ``"residual"``, ``"attention"``, ``"mlp"``, or patterns.
    paradigm, n_participants, task_labels, seed, t_r, allow_shared_prompts, prompts_per_block, \
    tokens_per_prompt
        As in :func:`~llm2bids.recording.draw.draw_scan`.
    batch_size : int, optional
        Prompts that run together; 32 by default, of one run. Where it is given, as many runs as
        fit go through the model together, also of several participants.
    keep_first : bool
        Record the first generated token of each prompt too (it reads the prompt, not the answer).
    volume_dtype : {"int16", "float32"}
        Calibrated counts rounded to integers, or without loss.
    compress : bool
        Write ``.nii.gz`` rather than ``.nii``.
    hrf_model : {None, "spm", "glover"}
        Convolve the values in time with a haemodynamic response before they are written.
    space_label : str, optional
        Label of the space; by default from the model's name.
    authors : sequence of str
        Authors of the dataset.
    progress : bool
        Show a progress bar on the standard error stream.
    answers : Answers, optional
        Given answers, which the model reads instead of generating its own.
    overwrite : bool
        Replace files that were changed since they were written, and record runs anew of which a
        file was changed or is gone.
    arrangement : {"index", "functional", "random"} or path
        Order of the units in each panel: native; units with similar responses side by side,
        learned on prompts that no run shows; shuffled; or as in another dataset of ours.
    localizer_prompts : int, optional
        Prompts of each task's bank that are set aside for learning, 16 by default; 0 learns from
        off prompts alone.

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
    choice = choose_arrangement(arrangement, localizer_prompts)
    scan = draw_scan(
        paradigm,
        n_participants=n_participants,
        task_labels=task_labels,
        seed=seed,
        t_r=t_r,
        allow_shared_prompts=allow_shared_prompts,
        prompts_per_block=prompts_per_block,
        tokens_per_prompt=tokens_per_prompt,
        localizer_prompts=choice.localizer_prompts,
    )
    if share_prompts(scan.designs).between_participants:
        log.warning("%s", SHARED_PROMPTS)
    DatasetWriter.check_target(bids_dir)
    refuse_old_method(bids_dir)
    loaded, chosen, exactness = _load(
        model,
        sites=sites,
        revision=revision,
        trust_remote_code=trust_remote_code,
        device=device,
        dtype=dtype,
        random_weights=random_weights,
    )
    check_localizer(choice, scan, chosen)
    _check_lengths(loaded, scan, keep_first=keep_first)
    settings = _settings(
        scan,
        loaded,
        chosen,
        keep_first=keep_first,
        volume_dtype=volume_dtype,
        compress=compress,
        hrf_model=hrf_model,
        space_label=space_label or loaded.label,
        answers_sha256=answers.sha256 if answers else None,
        # no entry where prompts of any length run together: older datasets have none
        **({} if loaded.batching == "padded" else {"batching": loaded.batching}),
        **choice.settings,
    )

    buffers = RunBuffers(bids_dir, loaded.device)
    n_units = sum(site.width for site in chosen)

    def take(group: Sequence[RunDesign], on_token: Callable[[int], None]) -> list[Recording]:
        options: dict[str, Any] = {
            "keep_first": keep_first,
            "batch_size": batch_size,
            "on_token": on_token,
            "out": buffers.take(sum(design.n_volumes for design in group), n_units),
        }
        if answers is None:
            return record_runs(loaded, group, chosen, **options)
        (design,) = group
        return [replay_run(loaded, design, chosen, answers.of_run(design), **options)]

    # a replayed run is read in batches of its own
    groups = group_runs(scan.designs, batch_size=batch_size if answers is None else None)
    with _open_writer(
        bids_dir, scan, loaded, chosen, settings, exactness, choice=choice, authors=authors,
        batch_size=batch_size, progress=progress, overwrite=overwrite,
    ) as writer:  # fmt: skip
        _write_runs(writer, scan, groups, take, progress=progress)
    return open_dataset(bids_dir)


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
        As :func:`record` takes them.

    Returns
    -------
    Dataset
        The dataset, opened.

    Raises
    ------
    Llm2bidsError
        As :func:`record`; also if the table lacks a column or an answer to a prompt.
    """
    return record(bids_dir, answers=read_answers(Path(transcripts)), **options)


def _load(
    model: str | Path, *, sites: Sequence[str], **options: Any
) -> tuple["LoadedModel", tuple["Site", ...], "Exactness"]:
    from llm2bids.model.exactness import exact_sites
    from llm2bids.model.load import load_model
    from llm2bids.model.sites import select_sites

    began = time.perf_counter()
    loaded, table, exactness = exact_sites(load_model(str(model), **options))
    chosen = select_sites(table, sites)
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


def _settings(
    scan: Scan, loaded: "LoadedModel", sites: Sequence["Site"], **others: Any
) -> dict[str, Any]:
    """Collect what must not change within a dataset."""
    drawn = loaded.random_weights  # no entry for a trained model: older datasets have none
    return {
        **({} if drawn is None else {"random_weights": drawn}),
        "model": loaded.name,
        "revision": loaded.revision,
        "weights_sha256": loaded.weights_sha256,
        "trust_remote_code": loaded.trust_remote_code,
        "dtype": loaded.dtype,
        "device": loaded.device,
        "sites": [site.name for site in sites],
        "paradigm": scan.paradigm.name,
        "paradigm_sha256": scan.paradigm_sha256,
        "prompts_per_block": scan.paradigm.prompts_per_block,
        "tokens_per_prompt": scan.paradigm.tokens_per_prompt,
        "seed": scan.seed,
        "t_r": scan.t_r,
        "allow_shared_prompts": scan.allow_shared_prompts,
        **others,
    }


def _open_writer(
    bids_dir: Path,
    scan: Scan,
    loaded: "LoadedModel",
    sites: Sequence["Site"],
    settings: Mapping[str, Any],
    exactness: "Exactness",
    *,
    choice: Choice,
    authors: Sequence[str],
    batch_size: int | None,
    progress: bool,
    overwrite: bool,
) -> DatasetWriter:
    if is_dataset(bids_dir):
        _check_authors(bids_dir, authors)
        return DatasetWriter.open(bids_dir, settings=settings, overwrite=overwrite)
    from llm2bids.model.weights import weight_norms

    n_volumes = len(scan.calibration) * scan.paradigm.tokens_per_prompt
    with _bar(n_volumes, "calibration", progress) as bar:
        calibration = calibrate(
            loaded,
            scan.calibration,
            sites,
            tokens_per_prompt=scan.paradigm.tokens_per_prompt,
            sampling=scan.paradigm.sampling,
            seed=derive_seed(scan.seed, "calibration"),
            batch_size=batch_size,
            keep_first=bool(settings["keep_first"]),
            on_token=_advance(bar),
        )
    space = build_space(
        sites,
        label=str(settings["space_label"]),
        model_name=loaded.name,
        weights_sha256=loaded.weights_sha256,
    )
    with _bar(len(scan.localizer) * scan.paradigm.tokens_per_prompt, "localizer", progress) as bar:
        space, stability = arranged_space(
            space,
            choice,
            scan,
            loaded,
            keep_first=bool(settings["keep_first"]),
            batch_size=batch_size,
            on_token=_advance(bar),
        )
    return DatasetWriter.create(
        bids_dir,
        space=space,
        calibration=calibration,
        paradigm=scan.paradigm,
        settings=settings,
        weight_norms=weight_norms(loaded, sites),
        authors=authors,
        stability=stability,
        exactness=exactness.metadata(),
    )


def _check_authors(bids_dir: Path, authors: Sequence[str]) -> None:
    """Refuse other authors than a dataset has: its description is written once."""
    path = bids_dir / "dataset_description.json"
    found = read_json(path).get("Authors", [])
    if authors and list(authors) != found:
        raise UsageError(
            f"--author {', '.join(authors)}: {path} has "
            f"{', '.join(found) if found else 'no authors'}; edit Authors there and in the "
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
