"""Let a model read words at their onsets, with volumes on a scan's clock.

The values of each word stand at the time at which it is heard, and are resampled to the repetition
time of a scan. A run for each story.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.scan.reading import ReadOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser, "folder of the dataset: new, empty, or one of ours to go on with")
    text = (
        "words with onsets: a table (TSV, CSV), a Praat TextGrid, a folder of such files (a story "
        "each), a BIDS dataset whose events have words, or a localizer by name: langloc, md, "
        "brainscore-language"
    )
    options.add(parser, "--stimuli", text, type=Path, required=True, metavar="PATH")
    options.of(parser, ReadOptions)
    options.overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Read, then say what was written and where."""
    from llm2bids.report.citation import cite_dataset
    from llm2bids.scan.read import read

    dataset = options.call(read, args, **options.read(args, ReadOptions))
    print(dataset.describe())
    cite_dataset(args.bids_dir)
    return 0
