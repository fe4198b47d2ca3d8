"""Compare two models, or a model and people, by which items are alike to each.

Takes two datasets of the same prompts (another checkpoint, size, revision), or dissimilarities that
rsatoolbox saved. Items are matched by their text; what is not shared is named. Prints a table by
layer; with OUT it is written, with a picture.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.comparison.rsa import CompareOptions


def _positionals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="dataset, or RDMs (.hdf5)")
    parser.add_argument("b", type=Path, metavar="B", help="the same; noise ceilings are of B")
    parser.add_argument("out_dir", type=Path, metavar="OUT", nargs="?", help="folder to write to")


add_arguments, run = options.described("compare", CompareOptions, positionals=_positionals)
