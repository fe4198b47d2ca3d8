"""Runs on their way to the disk: a dataset that is opened or begun, and a group after the other."""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from tqdm.auto import tqdm

from llm2bids.dataset.arrangement import learned_space
from llm2bids.dataset.settings import is_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import UsageError
from llm2bids.paradigm.design import RunDesign
from llm2bids.paradigm.prompts import load_banks
from llm2bids.paradigm.seed import derive_seed
from llm2bids.paradigm.task import Prompt
from llm2bids.recording.batches import OnToken
from llm2bids.recording.calibration import calibrate, scan_localizer
from llm2bids.recording.draw import Scan
from llm2bids.recording.record import Recording, group_runs, record_runs, replay_run
from llm2bids.scan.prepare import Prepared
from llm2bids.scan.sessions import Take, taking_sessions
from llm2bids.space.arrange import build_space
from llm2bids.space.functional import random_space
from llm2bids.space.smoothness import Stability
from llm2bids.space.space import Space
from llm2bids.store.json import read_json

log = logging.getLogger(__name__)

# Units from which on panels are arranged in several processes; fewer are done in one sooner.
_PARALLEL_FROM = 50_000

_MOST_PROCESSES = 4  # processes that arrange panels


class Bar(Protocol):
    """What shows how far a scan is."""

    def update(self, n: int, /) -> Any:
        """Add volumes; a negative number takes some back."""

    def set_description(self, text: str, /) -> Any:
        """Say what is being recorded."""


def open_writer(
    bids_dir: Path,
    prepared: Prepared,
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
    with progress_bar(len(scan.calibration) * n_tokens, "calibration", progress) as bar:
        how = prepared.rest_scan("calibration", bar.update)
        calibration = calibrate(loaded, scan.calibration, prepared.sites, how)
    space = build_space(
        prepared.sites,
        label=str(prepared.settings["space_label"]),
        model_name=loaded.name,
        weights_sha256=loaded.weights_sha256,
    )
    with progress_bar(len(scan.localizer) * n_tokens, "localizer", progress) as bar:
        space, stability = _arranged_space(space, prepared, bar.update)
    return DatasetWriter.create(
        bids_dir,
        space=space,
        calibration=calibration,
        paradigm=scan.paradigm,
        settings=prepared.settings,
        weight_norms=weight_norms(loaded, prepared.sites),
        authors=options.authors,
        banks=load_banks(scan.paradigm, without=scan.excluded) if banks is None else banks,
        stability=stability,
        exactness=prepared.exactness.metadata(),
        edit=options.read_edit(),
    )


def _arranged_space(
    space: Space, prepared: Prepared, on_token: OnToken
) -> tuple[Space, Stability | None]:
    """Arrange the space of a new dataset."""
    choice, scan = prepared.choice, prepared.scan
    if choice.given is not None:
        return choice.given.apply(space), choice.given.stability
    if choice.name == "random":
        return random_space(space, seed=derive_seed(scan.seed, "arrangement")), None
    if choice.name == "index":
        return space, None
    how = prepared.rest_scan("localizer", on_token)
    localizer = scan_localizer(prepared.loaded, scan.localizer, space.sites, how)
    began = time.perf_counter()
    made, stability = learned_space(
        space,
        localizer,
        baseline=scan.paradigm.baseline,
        n_jobs=min(os.cpu_count() or 1, _MOST_PROCESSES) if space.n_units > _PARALLEL_FROM else 1,
    )
    log.info("arranged %s units in %.1f s", f"{space.n_units:,}", time.perf_counter() - began)
    return made, stability


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


def scan_groups(prepared: Prepared, designs: Sequence[RunDesign]) -> list[tuple[RunDesign, ...]]:
    """Find the runs that are recorded together; given answers are read run by run."""
    if prepared.answers is not None:
        return group_runs(designs)
    n_units = sum(site.width for site in prepared.sites)
    return group_runs(designs, batch_size=prepared.options.batch_size, n_units=n_units)


def missing_volumes(
    groups: Sequence[Sequence[RunDesign]], is_there: Callable[[RunDesign], bool]
) -> int:
    """Count the volumes that are still to be recorded, with whole groups."""
    missing = (group for group in groups if not all(map(is_there, group)))
    return sum(design.n_volumes for group in missing for design in group)


def write_runs(
    writer: DatasetWriter,
    scan: Scan,
    groups: Sequence[Sequence[RunDesign]],
    take: Take,
    *,
    progress: bool,
) -> None:
    """Record what is missing of a scan, here, with a bar."""
    say_done(writer, scan)
    total = missing_volumes(groups, writer.has_run)
    with progress_bar(total, "recording", progress) as bar:
        write_missing(writer, groups, take, t_r=scan.t_r, bar=bar)


def say_done(writer: DatasetWriter, scan: Scan) -> None:
    """Say how many runs are there already, if any."""
    done = sum(writer.has_run(design) for design in scan.designs)
    if done:
        log.info("%d of %d runs are there already", done, len(scan.designs))


def write_missing(
    writer: DatasetWriter,
    groups: Sequence[Sequence[RunDesign]],
    take: Take,
    *,
    t_r: float,
    bar: Bar,
    is_there: Callable[[RunDesign], bool] | None = None,
) -> None:
    """Record what is missing; a group of runs is written while the next one is recorded."""
    is_there = is_there or writer.has_run
    last = {design.participant_label: design for group in groups for design in group}

    def write(group: Sequence[RunDesign], recordings: Sequence[Recording]) -> None:
        for index, design in enumerate(group):
            if not is_there(design):
                writer.write_run(recordings[index], t_r=t_r)
            if last[design.participant_label] is design:
                writer.finish_participant(design.participant_label)

    # one at a time; a run that was recorded is written also when the next one fails
    with ThreadPoolExecutor(1, thread_name_prefix="llm2bids-write") as pool:
        writing: Future[None] | None = None
        for group in groups:
            recordings: list[Recording] = []
            if not all(map(is_there, group)):
                bar.set_description(f"sub-{group[0].participant_label} task-{group[0].task}")
                recordings = take(group, bar.update)
            if writing is not None:
                writing.result()
            writing = pool.submit(write, group, recordings)
            del recordings
        if writing is not None:
            writing.result()


def scanner(prepared: Prepared) -> Take:
    """Make what records a group of runs, in two arrays that are used in turn."""
    loaded, answers = prepared.loaded, prepared.answers
    n_units = sum(site.width for site in prepared.sites)

    def take(group: Sequence[RunDesign], on_token: OnToken) -> list[Recording]:
        how: dict[str, Any] = {
            "keep_first": prepared.options.keep_first,
            "batch_size": prepared.options.batch_size,
            "on_token": on_token,
            "out": prepared.buffers.take(sum(design.n_volumes for design in group), n_units),
        }
        if answers is None:
            return record_runs(loaded, group, prepared.sites, **how)
        (design,) = group
        return [replay_run(loaded, design, prepared.sites, answers.of_run(design), **how)]

    edit = prepared.options.read_edit()
    return take if edit is None else taking_sessions(take, loaded, edit)


def progress_bar(total: int, description: str, progress: bool) -> "tqdm[Any]":
    """Make a progress bar on stderr, which shows nothing where there is nothing to do."""
    return tqdm(
        total=total,
        desc=description,
        unit="tok",
        disable=not progress or total == 0,
        file=sys.stderr,
        dynamic_ncols=True,
        smoothing=0.1,
    )
