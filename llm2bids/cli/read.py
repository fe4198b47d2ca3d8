"""Let a model read words at their onsets, with volumes on a scan's clock.

The values of each word stand at the time at which it is heard, and are resampled to the repetition
time of a scan. A run for each story.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.scan.reading import ReadOptions


def _positionals(parser: argparse.ArgumentParser) -> None:
    options.dataset_to_go_on_with(parser)
    text = (
        "words with onsets: a table (TSV, CSV), a Praat TextGrid, a folder of such files (a story "
        "each), a BIDS dataset whose events have words, or a localizer by name: langloc, md, "
        "brainscore-language"
    )
    options.add(parser, "--stimuli", text, type=Path, required=True, metavar="PATH")


add_arguments, run = options.described(
    "read", ReadOptions, positionals=_positionals, more=(options.overwrite,), then=options.cite
)
