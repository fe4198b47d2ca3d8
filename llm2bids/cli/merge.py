"""Take in participants that were recorded by themselves.

`record --participant-label` leaves each participant in a hidden folder of the dataset (a shard).
This moves whole ones to their places, without a model; called again it goes on where it stopped.
"""

import argparse

from llm2bids.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser, "folder of the dataset, which `record --prepare` began")
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="take in what is there, although runs are missing that the scan was prepared for",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="take a shard's run where the dataset has another recording of it",
    )


def run(args: argparse.Namespace) -> int:
    """Merge, then say what is in the dataset."""
    from llm2bids.report.citation import cite_dataset
    from llm2bids.scan.merge import merge

    dataset = options.call(merge, args)
    print(dataset.describe())
    cite_dataset(args.bids_dir)
    return 0
