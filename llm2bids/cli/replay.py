"""Scan a model on given answers (teacher-forced).

As record, but the model reads the answers of a transcript table instead of generating its own: one
forward pass for each batch.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.scan.options import ScanOptions


def _positionals(parser: argparse.ArgumentParser) -> None:
    options.bids_dir(parser, "folder of the dataset to write")
    text = (
        "TSV with the columns prompt_id and answer (or prompt_id, position, token_id), or a "
        "dataset of ours"
    )
    options.add(parser, "--transcripts", text, type=Path, required=True, metavar="FILE")


add_arguments, run = options.described(
    "replay",
    ScanOptions,
    positionals=_positionals,
    more=(options.shards, options.overwrite),
    then=options.cite,
)
