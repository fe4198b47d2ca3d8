"""Write layer values as the files that encoding toolkits read.

Takes what is on disk, of any dataset of ours; nothing is scanned again.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.comparison.features import FeatureOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT", help="folder to write to")
    options.of(parser, FeatureOptions)


def run(args: argparse.Namespace) -> int:
    """Write the files, then name them."""
    from llm2bids.comparison.features import features

    for path in options.call(features, args, **options.read(args, FeatureOptions)):
        print(path)
    return 0
