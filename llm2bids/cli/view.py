"""Open a statistical map on the model's anatomy in NiiVue.

Write a page on which NiiVue shows a statistical map that any tool made from a dataset of ours, on
the model's anatomy, with the atlas of sites. The unit under the pointer and at the crosshair is
named with its value. The page is one file that needs no network. An image on another grid, or with
the fingerprint of another dataset, is refused.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.cli.flatmap import output_name
from llm2bids.cli.options import add


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.image(parser)
    text = "the page (default: the image's name with _view.html, in the working folder)"
    add(parser, "-o, --output", text, dest="output_file", type=Path, metavar="FILE")
    text = "absolute value of full colour (default: 99.5th percentile of the absolute values)"
    add(parser, "--vmax", text, type=float, metavar="X")
    add(parser, "--title", "heading (default: the image's name)", metavar="TEXT")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from llm2bids.report.view import view

    output = args.output_file or output_name(args.stat_img, "_view.html")
    print(options.call(view, args, dataset=options.dataset_of(args), output_file=output))
    return 0
