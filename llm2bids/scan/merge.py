"""Taking in participants that were recorded by themselves; no model is needed."""

from pathlib import Path

from llm2bids.dataset.hosts import warn_of_batch_effect
from llm2bids.dataset.layout import list_bolds
from llm2bids.dataset.read import Dataset, open_dataset
from llm2bids.dataset.shard import list_shards, shard_root
from llm2bids.dataset.write import DatasetWriter
from llm2bids.exceptions import DatasetError
from llm2bids.scan.shards import expected_runs


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
        if not allow_missing:
            _refuse_missing(root)
        writer.take_shards(verify=True)
    warn_of_batch_effect(root)
    return open_dataset(root)


def _refuse_missing(root: Path) -> None:
    """Name the participants of which runs are neither in the dataset nor in a shard."""
    folders = [root, *(shard_root(root, label) for label in list_shards(root))]
    there = {str(file) for folder in folders for file in list_bolds(folder)}
    expected = expected_runs(root)
    missing = [file for file in expected if file not in there]
    if not missing:
        return
    labels = list(dict.fromkeys(file.partition("/")[0] for file in missing))
    raise DatasetError(
        f"{root}: {len(missing)} of {len(expected)} runs are missing, of {', '.join(labels)}; "
        "nothing was merged. Record these (`llm2bids record --participant-label "
        f"{labels[0].removeprefix('sub-')} ...`), or take in what is there with --allow-missing"
    )
