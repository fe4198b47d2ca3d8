"""Scan a model on given answers (teacher-forced).

As record, but the model reads the answers of a transcript table instead of generating its own: one
forward pass for each batch.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.scan.options import ScanOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser, "folder of the dataset to write")
    text = (
        "TSV with the columns prompt_id and answer (or prompt_id, position, token_id), or a "
        "dataset of ours"
    )
    options.add(parser, "--transcripts", text, type=Path, required=True, metavar="FILE")
    options.of(parser, ScanOptions)
    options.shards(parser)
    options.overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Replay, then say what was written and where."""
    from llm2bids.report.citation import cite_dataset
    from llm2bids.scan.record import replay

    dataset = options.call(replay, args, **options.read(args, ScanOptions))
    print(dataset.describe())
    if args.participant_label is None and not args.prepare_only:
        cite_dataset(args.bids_dir)
    return 0
