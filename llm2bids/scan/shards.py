"""A scan in pieces: each participant is a shard, which any process records and one takes in."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2bids.dataset.layout import list_bolds, run_key, run_of
from llm2bids.dataset.participants import warn_of_batch_effect
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.resume import changed_runs
from llm2bids.dataset.settings import compare_settings, is_dataset
from llm2bids.dataset.shard import SHARDS, begin_shard, list_shards, shard_root
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError, Llm2bidsError, UsageError
from llm2bids.options import checked
from llm2bids.paradigm.design import RunDesign, participant_label
from llm2bids.recording.draw import Scan
from llm2bids.scan.answers import GivenAnswers
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.prepare import Prepared, prepare
from llm2bids.scan.runs import missing_volumes, progress_bar, scan_groups, scanner, write_missing
from llm2bids.scan.workers import Submit, run_tasks, stopped_by_signals
from llm2bids.store.commit import HIDDEN, replace_text

_EXPECTED = SHARDS / "expected.json"  # runs of a scan that was prepared: what a merge has to find

_PROGRESS = HIDDEN / "progress"  # in a shard: how many volumes are recorded

_SECONDS_BETWEEN = 0.2  # how often a worker says how far it is, and looks whether it is to stop


def record_shard(
    bids_dir: Path,
    prepared: Prepared,
    participant_label: str,
    *,
    overwrite: bool,
    progress: bool = False,
    stopped: Callable[[], bool] | None = None,
) -> None:
    """Record what the dataset lacks of a participant into a shard, as a worker if `stopped`."""
    _check_prepared(bids_dir, prepared)
    participant_label = participant_label.removeprefix("sub-")
    designs = _designs_of(prepared.scan, participant_label)
    again = changed_runs(bids_dir, participant_label=participant_label) if overwrite else set()
    present = {run_of(file) for file in list_bolds(bids_dir) if file not in again}
    if all(run_key(design) in present for design in designs):
        return
    shard = begin_shard(bids_dir, participant_label)
    groups = scan_groups(prepared, designs)
    with DatasetWriter.open(
        shard, settings=prepared.settings, overwrite=overwrite, known=prepared.templates
    ) as writer:

        def is_there(design: RunDesign) -> bool:
            return run_key(design) in present or writer.has_run(design)

        whole = sum(design.n_volumes for design in designs if writer.has_run(design))
        missing, t_r = missing_volumes(groups, is_there), prepared.scan.t_r
        with (
            progress_bar(missing, shard.name, progress)
            if stopped is None
            else _WorkersBar(shard, whole, stopped)
        ) as bar:
            write_missing(writer, groups, scanner(prepared), t_r=t_r, bar=bar, is_there=is_there)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be recorded: all that a worker needs to record any participant of a scan."""

    bids_dir: Path
    options: ScanOptions
    answers: GivenAnswers | None
    overwrite: bool
    parent: int | None = None  # the process that waits for a worker on its own machine


_prepared: dict[str, Prepared] = {}  # what a worker loaded for the participant before


def _prepare_once(task: Task) -> Prepared:
    """Load the model once in a process that records several participants."""
    key = repr((task.bids_dir, task.options))
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = prepare(task.bids_dir, task.options, None)
    return _prepared[key].with_answers(task.answers)


def _work(task: Task, label: str) -> tuple[str, BaseException | None]:
    """Record a participant's shard, in a process of its own; say what kept it from its end."""
    from llm2bids.model.device import computing_threads

    options = task.options
    os.environ["LOKY_MAX_CPU_COUNT"] = str(options.n_threads)  # who compresses asks it
    stop = _stop_file(task.bids_dir)

    def stopped() -> bool:  # it was said, or the process that waits for this one is gone
        return stop.exists() or (task.parent is not None and os.getppid() != task.parent)

    try:
        if stopped():
            raise KeyboardInterrupt
        with computing_threads(options.device, options.n_threads):
            prepared = _prepare_once(task)
            how: dict[str, Any] = {"overwrite": task.overwrite, "stopped": stopped}
            record_shard(task.bids_dir, prepared, label, **how)
    except (Llm2bidsError, OSError, KeyboardInterrupt) as error:
        return label, error
    return label, None


def record_by_workers(
    submit: Submit, writer: DatasetWriter, task: Task, volumes: Mapping[str, int], *, progress: bool
) -> None:
    """Let workers record participants, of so many volumes each, and take in what they wrote."""
    bids_dir, finished, failed = task.bids_dir, set[str](), dict[str, BaseException]()

    with (
        progress_bar(sum(volumes.values()), "recording", progress) as bar,
        stopped_by_signals(_stop_file(bids_dir)) as stopping,
    ):

        def look() -> None:
            recorded = (
                n if label in finished else min(_recorded_volumes(bids_dir, label), n)
                for label, n in volumes.items()
            )
            bar.update(max(sum(recorded) - bar.n, 0))

        tasks = [(task, label) for label in volumes]
        for label, error in run_tasks(submit, _work, tasks, stopping=stopping, look=look):
            writer.take_shard(label)
            if error is None:
                finished.add(label)
            elif not isinstance(error, KeyboardInterrupt):
                failed[label] = error
            look()
    if stopping.is_set():
        raise KeyboardInterrupt
    _raise_failed(bids_dir, failed, len(volumes))


def _raise_failed(bids_dir: Path, failed: Mapping[str, BaseException], n_participants: int) -> None:
    """Raise what participants failed of: the one error, or each with its participants."""
    errors = {str(error): error for error in failed.values()}
    if len(errors) == 1:
        (error,) = errors.values()
        raise error
    if errors:
        lines = [f"  sub-{label}: {error}" for label, error in sorted(failed.items())]
        first = (
            f"{bids_dir}: {len(failed)} of {n_participants} participants were not recorded to "
            "their end; finished runs are kept, call again to go on:"
        )
        raise DatasetError("\n".join([first, *lines]))


def _check_prepared(bids_dir: Path, prepared: Prepared) -> None:
    """Refuse a folder that was not prepared for this scan."""
    if not is_dataset(bids_dir):
        raise DatasetError(
            f"{bids_dir}: participants are recorded by themselves into a dataset that was "
            "prepared; call `llm2bids record` with the same options and --prepare first, once"
        )
    compare_settings(bids_dir, prepared.settings)


def volumes_by_participant(
    prepared: Prepared, designs: Sequence[RunDesign], is_there: Callable[[RunDesign], bool]
) -> dict[str, int]:
    """Count the volumes that are still to be recorded of each participant of these runs."""
    groups = {
        label: scan_groups(prepared, _designs_of(prepared.scan, label))
        for label in _labels_of(designs)
    }
    return {label: missing_volumes(runs, is_there) for label, runs in groups.items()}


def _designs_of(scan: Scan, participant_label: str) -> list[RunDesign]:
    """List the runs of a participant."""
    return [d for d in scan.designs if d.participant_label == participant_label]


def refuse_unknown(participant_labels: Sequence[str], n_participants: int) -> None:
    """Refuse participants that a scan does not have, and a list of none."""
    if not participant_labels:
        raise UsageError("participant_label (--participant-label) is empty; expected one or more")
    known = [participant_label(number) for number in range(1, n_participants + 1)]
    for label in participant_labels:
        if label.removeprefix("sub-") not in known:
            raise UsageError(
                f"participant_label (--participant-label) {label}: the scan has "
                f"{n_participants} participants (--participants), {known[0]} to {known[-1]}"
            )


class _WorkersBar(AbstractContextManager["_WorkersBar"]):
    """What a worker tells of its progress: a number in a file of its shard, on any machine."""

    def __init__(self, shard: Path, n_volumes: int, stopped: Callable[[], bool]) -> None:
        self._path, self._n, self._stopped = shard / _PROGRESS, n_volumes, stopped
        self._next = 0.0

    def update(self, n: int) -> None:
        """Add volumes; stop here, between two tokens, where that was said."""
        self._n += n
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS_BETWEEN
        with suppress(OSError):  # a scan does not fail of what it says about itself
            self._path.write_text(str(self._n), encoding="utf-8")
        if self._stopped():
            raise KeyboardInterrupt

    def set_description(self, text: str) -> None:
        """Say nothing: the participant is the shard's."""

    def __exit__(self, *error: object) -> None:
        """Leave the number as it is."""


def _recorded_volumes(bids_dir: Path, participant_label: str) -> int:
    """Read how many volumes the worker of a participant has recorded."""
    try:
        return int((shard_root(bids_dir, participant_label) / _PROGRESS).read_text())
    except (OSError, ValueError):
        return 0


def expect_runs(writer: DatasetWriter, bids_dir: Path, scan: Scan) -> None:
    """Keep which runs the dataset is to have, for `merge`."""
    bolds = {str(writer.bold(design)) for design in scan.designs}
    known = expected_runs(bids_dir)
    replace_text(bids_dir / _EXPECTED, json.dumps(sorted({*known, *bolds}), indent=0))


def expected_runs(bids_dir: Path) -> list[str]:
    """List the raw series that a prepared scan is to have."""
    try:
        return list(map(str, json.loads((bids_dir / _EXPECTED).read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{bids_dir / _EXPECTED}: not readable ({error}); call `llm2bids record` with "
            "--prepare again, which makes it anew"
        ) from None


def _stop_file(bids_dir: Path) -> Path:
    """Name the file whose presence tells the workers of a dataset to stop."""
    return bids_dir / SHARDS / "stop"


def _labels_of(designs: Sequence[RunDesign]) -> list[str]:
    """List the participants of runs, in order."""
    return list(dict.fromkeys(design.participant_label for design in designs))


@checked
def merge(bids_dir: str | Path, *, allow_missing: bool = False, overwrite: bool = False) -> Dataset:
    """Take the shards of a dataset in: participants that `record` wrote by themselves.

    What was cut off goes on when it is called again. Needs no model.

    Parameters
    ----------
    bids_dir : str or Path
        Folder of the dataset, which `record` prepared.
    allow_missing : bool
        Take in what is there although runs are missing that the scan was prepared for.
    overwrite : bool
        Take a shard's run where the dataset has another recording of it.

    Returns
    -------
    Dataset
        The dataset, opened.

    Raises
    ------
    DatasetError
        If a shard is being written, has other settings, weights or calibration, was changed since,
        or if runs are missing. Shards that were taken in before stay in the dataset.
    """
    root = Path(bids_dir)
    with DatasetWriter.open(root, overwrite=overwrite) as writer:
        _refuse_missing(root, allow_missing=allow_missing)
        writer.take_shards(verify=True)
    warn_of_batch_effect(root)
    return open_dataset(root)


def _refuse_missing(root: Path, *, allow_missing: bool) -> None:
    """Name the participants of which runs are neither in the dataset nor in a shard."""
    folders = [root, *(shard_root(root, label) for label in list_shards(root))]
    there = {str(file) for folder in folders if is_dataset(folder) for file in list_bolds(folder)}
    expected = expected_runs(root)
    missing = [file for file in expected if file not in there]
    if not missing or (allow_missing and there):
        return
    labels = list(dict.fromkeys(file.partition("/")[0] for file in missing))
    raise DatasetError(
        f"{root}: {len(missing)} of {len(expected)} runs are missing, of {', '.join(labels)}; "
        "nothing was merged. Record these (`llm2bids record --participant-label "
        f"{labels[0].removeprefix('sub-')} ...`), or take in what is there with --allow-missing"
    )
