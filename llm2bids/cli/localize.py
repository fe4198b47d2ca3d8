"""Find the units that answer more to one kind of text than to another.

Takes a localizer that was read (`llm2bids read OUT --stimuli langloc`). Writes a t map, the network
of the top units, their layers, and how alike they are in halves and folds of the trials.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.comparison.localizer import LocalizerOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT", help="folder to write to")
    options.of(parser, LocalizerOptions)


def run(args: argparse.Namespace) -> int:
    """Localize, then say what was found."""
    from llm2bids.comparison.localizer import localize

    result = options.call(localize, args, **options.read(args, LocalizerOptions))
    print(result.describe())
    return 0
