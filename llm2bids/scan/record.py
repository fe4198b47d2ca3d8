"""The scanner as one verb: a model, a paradigm and a number of participants in, a dataset out."""

import gc
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm2bids.dataset.participants import warn_of_batch_effect
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import UsageError
from llm2bids.options import takes_options
from llm2bids.paradigm.design import RunDesign
from llm2bids.scan.answers import GivenAnswers, read_answers
from llm2bids.scan.memory import choose_workers, scan_bytes
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.prepare import Prepared, prepare
from llm2bids.scan.runs import open_writer, say_done, scan_groups, scanner, write_runs
from llm2bids.scan.shards import (
    Task,
    expect_runs,
    record_by_workers,
    record_shard,
    refuse_unknown,
    volumes_by_participant,
)
from llm2bids.scan.workers import LOCAL, cluster_pool, local_pool, read_cluster

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
    if participant_label is not None:
        refuse_unknown(participant_label, scan_options.n_participants)
    if cluster is not None and str(cluster) != LOCAL:
        read_cluster(Path(cluster))  # refused before a model is loaded
    from llm2bids.model.device import computing_threads

    task = Task(bids_dir=bids_dir, options=scan_options, answers=answers, overwrite=overwrite)
    with computing_threads(scan_options.device, scan_options.n_threads):
        if participant_label is None:
            _record(task, prepare_only=prepare_only, cluster=cluster, progress=progress)
        else:
            _record_shards(task, participant_label, progress=progress)
    return open_dataset(bids_dir)


@takes_options(ScanOptions)
def replay(
    bids_dir: str | Path,
    *,
    transcripts: str | Path,
    prepare_only: bool = False,
    participant_label: Sequence[str] | None = None,
    cluster: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Dataset:
    """Scan a model on given answers (teacher-forced): one forward pass for each batch.

    Parameters
    ----------
    bids_dir : str or Path
        Folder of the dataset.
    transcripts : str or Path
        TSV with the columns ``prompt_id`` and ``answer`` (text), or ``prompt_id``, ``position``
        and ``token_id``; or a dataset of ours, whose own transcripts are taken.
    prepare_only, participant_label, cluster, overwrite, progress
        Those of :func:`record`.
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
    """
    return record(
        bids_dir,
        answers=read_answers(Path(transcripts)),
        prepare_only=prepare_only,
        participant_label=participant_label,
        cluster=cluster,
        overwrite=overwrite,
        progress=progress,
        **options,
    )


def _record(task: Task, *, prepare_only: bool, cluster: str | Path | None, progress: bool) -> None:
    """Record what is missing, here or by workers."""
    bids_dir, options = task.bids_dir, task.options
    prepared = prepare(bids_dir, options, task.answers)
    scan = prepared.scan
    with open_writer(bids_dir, prepared, progress=progress, overwrite=task.overwrite) as writer:
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
            volumes = volumes_by_participant(prepared, missing, writer.has_run)
            del prepared  # its weights are the workers' now
            gc.collect()
            if cluster is None:
                task = replace(task, parent=os.getpid())
                started = local_pool(n_workers, options.n_threads)
            else:
                started = cluster_pool(cluster, options.n_workers or len(volumes))
            try:
                with started as submit:
                    record_by_workers(submit, writer, task, volumes, progress=progress)
            except BaseException:  # the one to tell, whatever else fails now
                writer.take_shards(keep_going=True)  # what workers finished is kept
                raise
    warn_of_batch_effect(bids_dir)


def _n_workers(prepared: Prepared, writer: DatasetWriter, missing: Sequence[RunDesign]) -> int:
    """Choose how many processes record what is missing."""
    from llm2bids.model.device import shares_weights

    options, scan, loaded = prepared.options, prepared.scan, prepared.loaded
    space, groups = writer.dataset.space, scan_groups(prepared, scan.designs)
    n_bytes = scan_bytes(
        space, scan, groups, options, n_vocabulary=len(loaded.tokenizer), tables=False
    )
    if not shares_weights(loaded):
        n_bytes += int(loaded.model.get_memory_footprint())
    return choose_workers(
        options,
        missing,
        device=loaded.device,
        n_parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        worker_bytes=n_bytes,
    )


def _record_shards(task: Task, participant_label: Sequence[str], *, progress: bool) -> None:
    """Record participants by themselves, each into a shard."""
    bids_dir = task.bids_dir
    prepared = prepare(bids_dir, task.options, task.answers)
    for name in participant_label:
        record_shard(bids_dir, prepared, name, overwrite=task.overwrite, progress=progress)
    log.info("recorded; `llm2bids merge %s` takes participants in when all are there", bids_dir)
