"""Write layer values as the files that encoding toolkits read.

Takes what is on disk, of any dataset of ours; nothing is scanned again.
"""

import argparse

from llm2bids.cli import options
from llm2bids.comparison.features import FeatureOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.dataset_and_folder(parser)
    options.of(parser, FeatureOptions)


def run(args: argparse.Namespace) -> int:
    """Write the files, then name them."""
    from llm2bids.comparison.features import features

    for path in options.call(features, args, **options.read(args, FeatureOptions)):
        print(path)
    return 0
