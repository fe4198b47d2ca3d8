"""The scanner as one verb: a model, a paradigm and a number of participants in, a dataset out."""

import gc
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2bids.dataset.hosts import warn_of_batch_effect
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError, Llm2bidsError, UsageError
from llm2bids.options import takes_options
from llm2bids.paradigm.design import RunDesign
from llm2bids.scan.answers import GivenAnswers, read_answers
from llm2bids.scan.cluster import LOCAL, cluster_pool, read_cluster
from llm2bids.scan.memory import choose_workers, worker_bytes
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.prepare import Prepared, prepare
from llm2bids.scan.runs import (
    missing_volumes,
    open_writer,
    progress_bar,
    say_done,
    scan_groups,
    scanner,
    write_runs,
)
from llm2bids.scan.shards import (
    ShardBar,
    check_prepared,
    expect_runs,
    labels_of,
    parent_or_stop,
    record_shard,
    recorded_volumes,
    stop_file,
)
from llm2bids.scan.workers import Pool, local_pool, run_tasks, stopped_by_signals, watched

log = logging.getLogger(__name__)


@takes_options(ScanOptions)
def record(
    bids_dir: str | Path,
    *,
    answers: GivenAnswers | None = None,
    prepare_only: bool = False,
    participant_label: Sequence[str] | None = None,
    cluster: str | Path | None = None,
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
    prepare_only : bool
        Write what is there before the first run: calibration, space, template. Participants can
        then be recorded by themselves.
    participant_label : sequence of str, optional
        Record only these, with or without ``sub-``, each into a shard of a dataset that was
        prepared; any number of processes may do so at once, and `merge` takes the shards in.
    cluster : str or Path, optional
        File of dask-jobqueue (YAML) that says how to ask a queue for workers, or ``"local"``; a
        participant is a task, which goes on at its run when its worker was killed.
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
    bids_dir, scan_options = Path(bids_dir), ScanOptions(**options)
    if prepare_only and participant_label is not None:
        raise UsageError(
            "prepare_only (--prepare) and participant_label (--participant-label): expected one of "
            "the two; prepare once, then record participants"
        )
    if cluster is not None and (prepare_only or participant_label is not None):
        raise UsageError(
            "cluster (--cluster) records all participants that are missing; expected it without "
            "--prepare and --participant-label"
        )
    if cluster is not None and str(cluster) != LOCAL:
        read_cluster(Path(cluster))  # refused before a model is loaded
    from llm2bids.model.device import computing_threads

    with computing_threads(scan_options.device, scan_options.n_threads):
        if participant_label is None:
            _record(
                bids_dir, scan_options, answers,
                prepare_only=prepare_only, cluster=cluster, overwrite=overwrite, progress=progress,
            )  # fmt: skip
        else:
            _record_shards(
                bids_dir, scan_options, answers, participant_label,
                overwrite=overwrite, progress=progress,
            )  # fmt: skip
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


def _record(
    bids_dir: Path,
    options: ScanOptions,
    answers: GivenAnswers | None,
    *,
    prepare_only: bool,
    cluster: str | Path | None,
    overwrite: bool,
    progress: bool,
) -> None:
    """Record what is missing, here or by workers."""
    prepared = prepare(bids_dir, options, answers)
    scan = prepared.scan
    with open_writer(bids_dir, prepared, progress=progress, overwrite=overwrite) as writer:
        if prepare_only:
            expect_runs(writer, bids_dir, scan)
            return
        writer.take_shards()
        missing = [design for design in scan.designs if not writer.has_run(design)]
        n_workers = 0 if cluster is not None else _n_workers(prepared, writer, missing)
        if n_workers == 1 or not missing:
            groups = scan_groups(prepared, scan.designs)
            write_runs(writer, scan, groups, scanner(prepared), progress=progress)
        else:
            say_done(writer, scan)
            volumes = {
                label: missing_volumes(
                    scan_groups(prepared, _of(scan.designs, label)), writer.has_run
                )
                for label in labels_of(missing)
            }
            del prepared  # its weights are the workers' now
            gc.collect()
            task = _Task(
                bids_dir=bids_dir, options=options, answers=answers, overwrite=overwrite,
                parent=os.getpid() if cluster is None else None,
            )  # fmt: skip
            if cluster is None:
                started = local_pool(n_workers, options.n_threads)
            else:
                started = cluster_pool(cluster, options.n_workers or len(volumes))
            try:
                with started as pool:
                    _record_by(pool, writer, task, volumes, progress=progress)
            except BaseException:
                with suppress(Llm2bidsError, OSError):  # the first error is the one to tell
                    writer.take_shards()  # what workers finished is kept
                raise
    warn_of_batch_effect(bids_dir)


def _of(designs: Sequence[RunDesign], label: str) -> list[RunDesign]:
    return [design for design in designs if design.participant_label == label]


def _n_workers(prepared: Prepared, writer: DatasetWriter, missing: Sequence[RunDesign]) -> int:
    """Choose how many processes record what is missing."""
    from llm2bids.model.device import shares_weights

    options, scan, loaded = prepared.options, prepared.scan, prepared.loaded
    shared = shares_weights(loaded)
    return choose_workers(
        options,
        missing,
        device=loaded.device,
        n_units=writer.space.n_units,
        worker_bytes=worker_bytes(
            writer.space,
            scan,
            scan_groups(prepared, scan.designs),
            options,
            n_vocabulary=len(loaded.tokenizer),
            own_weights=0 if shared else int(loaded.model.get_memory_footprint()),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a worker needs to record any participant of a scan."""

    bids_dir: Path
    options: ScanOptions
    answers: GivenAnswers | None
    overwrite: bool
    parent: int | None  # the process that waits for it, where that is on the same machine


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What became of a participant."""

    participant_label: str
    error: Llm2bidsError | OSError | None = None
    interrupted: bool = False


_prepared: dict[str, Prepared] = {}
"""What a worker loaded for the participant before."""


def _prepare_once(task: _Task) -> Prepared:
    """Load the model once in a process that records several participants."""
    key = repr((task.bids_dir, task.options))
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = prepare(task.bids_dir, task.options, None)
    return _prepared[key].with_answers(task.answers)


def _work(task: _Task, label: str) -> _Outcome:
    """Record a participant's shard, in a process of its own."""
    from llm2bids.model.device import computing_threads

    options = task.options
    os.environ["LOKY_MAX_CPU_COUNT"] = str(options.n_threads)  # who compresses asks it
    stopped = parent_or_stop(stop_file(task.bids_dir), task.parent)
    try:
        if stopped():
            return _Outcome(participant_label=label, interrupted=True)
        with computing_threads(options.device, options.n_threads):
            prepared = _prepare_once(task)
            check_prepared(task.bids_dir, prepared)
            record_shard(
                task.bids_dir,
                prepared,
                label,
                overwrite=task.overwrite,
                bar=lambda shard, n_whole, n_missing: ShardBar(shard, n_whole, stopped),
            )
    except (Llm2bidsError, OSError) as error:
        return _Outcome(participant_label=label, error=error)
    except KeyboardInterrupt:
        return _Outcome(participant_label=label, interrupted=True)
    return _Outcome(participant_label=label)


def _record_by(
    pool: Pool,
    writer: DatasetWriter,
    task: _Task,
    volumes: Mapping[str, int],
    *,
    progress: bool,
) -> None:
    """Let workers record participants, of so many volumes each, and take in what they wrote."""
    bids_dir, finished, failed = task.bids_dir, set[str](), dict[str, Llm2bidsError | OSError]()

    def so_far() -> int:
        return sum(
            n if label in finished else min(recorded_volumes(bids_dir, label), n)
            for label, n in volumes.items()
        )

    with (
        progress_bar(sum(volumes.values()), "recording", progress) as bar,
        watched(so_far, bar),
        stopped_by_signals(stop_file(bids_dir)) as stopping,
    ):
        tasks = [(task, label) for label in volumes]
        for outcome in run_tasks(pool, _work, tasks, stopping=stopping):
            label = outcome.participant_label
            writer.take_shard(label)
            if outcome.error is not None:
                failed[label] = outcome.error
            elif not outcome.interrupted:
                finished.add(label)
    if stopping.is_set():
        raise KeyboardInterrupt
    _raise_failed(bids_dir, failed, len(volumes))


def _raise_failed(
    bids_dir: Path, failed: Mapping[str, Llm2bidsError | OSError], n_participants: int
) -> None:
    """Raise what participants failed of: the one error, or each with its participants."""
    errors = {str(error): error for error in failed.values()}
    if len(errors) == 1:
        (error,) = errors.values()
        raise error
    if errors:
        lines = [f"  sub-{label}: {error}" for label, error in sorted(failed.items())]
        raise DatasetError(
            "\n".join(
                [
                    f"{bids_dir}: {len(failed)} of {n_participants} participants were not recorded "
                    "to their end; finished runs are kept, call again to go on:",
                    *lines,
                ]
            )
        )


def _record_shards(
    bids_dir: Path,
    options: ScanOptions,
    answers: GivenAnswers | None,
    participant_label: Sequence[str],
    *,
    overwrite: bool,
    progress: bool,
) -> None:
    """Record participants by themselves, each into a shard."""
    prepared = prepare(bids_dir, options, answers)
    check_prepared(bids_dir, prepared)
    for name in participant_label:
        record_shard(
            bids_dir,
            prepared,
            name,
            overwrite=overwrite,
            bar=lambda shard, n_whole, n_missing: progress_bar(n_missing, shard.name, progress),
        )
    log.info("recorded; `llm2bids merge %s` takes participants in when all are there", bids_dir)
