"""Shards: a participant's runs in a hidden folder of the dataset, recorded apart, taken in whole.

A shard is a small dataset: the template by hard links, the settings, and the runs of one
participant. Whoever writes it locks it alone, so that any number of processes, on any number of
machines, can record into one dataset; taking it in is one commit of the dataset's own writer.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from llm2bids.dataset.layout import (
    RunNames,
    list_bolds,
    parse_path,
    run_of,
    task_files,
    template_file,
)
from llm2bids.dataset.read import Dataset
from llm2bids.dataset.resume import sources
from llm2bids.dataset.run import stage_participant
from llm2bids.dataset.settings import SETTINGS, compare_settings, is_dataset, read_settings
from llm2bids.exceptions import DatasetError
from llm2bids.store.checksums import is_edited, list_file, read_list
from llm2bids.store.commit import HIDDEN, DatasetLock, Staging, clear_staging, recover, staging
from llm2bids.store.json import read_json

SHARDS = HIDDEN / "shards"  # folder of the shards, one for each participant

# How long to wait for a process that ends: it finishes the step and the file that it is at.
_SECONDS = 60.0


def shard_root(root: Path, participant_label: str) -> Path:
    """Name the folder of a participant's shard."""
    return root / SHARDS / f"sub-{participant_label}"


def list_shards(root: Path) -> tuple[str, ...]:
    """List the participants that have the folder of a shard, sorted, be it begun or not."""
    folders = sorted((root / SHARDS).glob("sub-*"))
    return tuple(folder.name.removeprefix("sub-") for folder in folders)


def begin_shard(root: Path, participant_label: str) -> Path:
    """Make the folder of a participant's shard, unless it is there and has runs; give it."""
    shard = shard_root(root, participant_label)
    made_from = sources(root)
    with DatasetLock(shard):
        if is_dataset(shard) and list_bolds(shard):
            refuse_foreign(root, shard)
            return shard
        for path in shard.iterdir():  # of a process that was cut off while it began or ended
            if path.name != HIDDEN.name:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (shard / HIDDEN / "commit.json").unlink(missing_ok=True)
        clear_staging(shard)
        with staging(shard, doing="beginning a shard", last=(SETTINGS,)) as stage:
            for file, digest in made_from.items():
                stage.take(file, root / file, digest)
    return shard


def refuse_foreign(root: Path, shard: Path) -> None:
    """Refuse a shard of other settings, weights or calibration than the dataset's."""
    try:
        compare_settings(root, read_settings(shard))
    except DatasetError as error:
        raise DatasetError(f"{shard}: not a shard of this dataset. {error}") from None
    theirs, ours = sources(shard), sources(root)
    differing = sorted(p for p in theirs.keys() | ours.keys() if theirs.get(p) != ours.get(p))
    if differing:
        raise DatasetError(
            f"{shard}: not a shard of this dataset: its {differing[0]} is another one, so that its "
            "counts mean something else. Remove the shard, and record the participant again"
        )


@contextmanager
def finished_shard(root: Path, shard: Path) -> Iterator[None]:
    """Hold a shard of a dataset that no process is writing, with what was cut off finished."""
    with DatasetLock(shard, timeout=_SECONDS):
        recover(shard)
        refuse_foreign(root, shard)
        yield


def remove_shard(shard: Path) -> None:
    """Remove a shard; one that is half removed is none."""
    (shard / SETTINGS).unlink(missing_ok=True)
    shutil.rmtree(shard, ignore_errors=True)


def remove_unbegun(shard: Path) -> None:
    """Remove what a killed process left of a shard without settings, unless one is at it now."""
    if shard.is_dir():
        with suppress(DatasetError), DatasetLock(shard):
            if not is_dataset(shard):
                remove_shard(shard)


def run_files(shard: Path, bold: PurePosixPath) -> dict[PurePosixPath, str]:
    """List the files of a run with their checksums, the raw series last."""
    known = read_list(shard / list_file(bold))
    run = run_of(bold)
    files = {file: digest for file, digest in known.items() if run_of(file) == run}
    digest = files.pop(bold, None)
    absent = [file for file in files if not (shard / file).is_file()]
    if digest is None or absent:
        raise DatasetError(
            f"{shard}: {absent[0] if absent else bold} is missing or has no checksum, the run is "
            "not whole; remove the shard, and record the participant again"
        )
    return {**files, bold: digest}


def stage_runs(
    stage: Staging,
    dataset: Dataset,
    shard: Path,
    participant_label: str,
    runs: Mapping[PurePosixPath, Mapping[PurePosixPath, str]],
) -> None:
    """Stage runs of a shard, and what is shared with other runs."""
    stage_participant(stage, dataset, participant_label)
    for bold, files in runs.items():
        names = RunNames(parse_path(bold), dataset.space.label)
        for file in task_files(str(names.raw.task)):
            stage.json(file, read_json(shard / file), once=True)
        stage.take(bold, shard / bold, files[bold])
        # links of a shard that was copied from another disk are links no more
        stage.path(names.preproc, merged=True)  # the raw series by another name: gone with it
        stage.link(names.preproc, stage.path(bold))
        stage.link(
            names.mask, dataset.path / template_file(dataset.space.label, "mask", label="GM")
        )
        for file, digest in files.items():
            if file.suffix == ".json":  # keys that were added to one that is there stay
                stage.json(file, read_json(shard / file))
            elif file not in (bold, names.preproc, names.mask):
                stage.take(file, shard / file, digest)


def refuse_changed(shard: Path, files: Mapping[PurePosixPath, str]) -> None:
    """Refuse files of a shard that are not as they were written."""
    for file in files:
        if is_edited(shard, file, files):
            raise DatasetError(
                f"{shard / file}: not as it was written (its sha256 is not the one in "
                f"{list_file(file)}); it was changed, or damaged on its way. Copy it again, or "
                "remove the shard and record the participant again"
            )
