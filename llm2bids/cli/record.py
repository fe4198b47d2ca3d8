"""Scan a model: write (or resume, or add participants to) a BIDS dataset.

Run a paradigm through a model, record every layer output at every generated token, and write it as
a BIDS dataset with a derivative. Called again with the same options it goes on where it stopped;
with more participants it adds them.

Participants are independent: --n-workers records them in processes of this machine. For any engine
that starts processes elsewhere, --prepare writes what is there before the first run, then
--participant-label records participants by themselves, and `merge` takes them in.
"""

import argparse

from llm2bids.cli import options
from llm2bids.scan.options import ScanOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser, "folder of the dataset: new, empty, or one of ours to go on with")
    options.of(parser, ScanOptions)
    options.shards(parser)
    options.overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Record, then say what was written and where."""
    from llm2bids.report.citation import cite_dataset
    from llm2bids.scan.record import record

    dataset = options.call(record, args, **options.read(args, ScanOptions))
    print(dataset.describe())
    if args.participant_label is None and not args.prepare_only:
        cite_dataset(args.bids_dir)
    return 0
