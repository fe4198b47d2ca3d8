"""Draw a statistical map on the whole model laid flat: layers by modules.

Draw a statistical map that any tool made from a dataset of ours on the model laid flat: layers from
left to right, one row of panels a module, the residual stream in the middle. An image on another
grid, or with the fingerprint of another dataset, is refused.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.cli.options import add


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.image(parser)
    text = (
        "the picture: .png, .svg or .pdf (default: the image's name with _flatmap.png, in the "
        "working folder)"
    )
    add(parser, "-o, --output", text, dest="output_file", type=Path, metavar="FILE")
    text = "show units beyond X or -X (default: all)"
    add(parser, "--threshold", text, type=float, metavar="X")
    text = "absolute value of full colour (default: 98th percentile of the absolute values shown)"
    add(parser, "--vmax", text, type=float, metavar="X")
    add(parser, "--theme", "the page", "light", choices=("light", "dark"))
    add(parser, "--title", "heading (default: none)", metavar="TEXT")
    text = (
        "a colour map of matplotlib (default: llm2bids; llm2bids_sequential where no value is "
        "negative; on a dark page the same with _dark)"
    )
    add(parser, "--cmap", text, metavar="NAME")


def output_name(stat_img: Path, end: str) -> Path:
    """Name what is made of an image: in the working folder, for images may lie in a dataset.

    >>> output_name(Path("maps/task-a_stat-z_statmap.nii.gz"), "_flatmap.png").name
    'task-a_stat-z_statmap_flatmap.png'
    """
    return Path(stat_img.name.removesuffix(".gz").removesuffix(".nii") + end)


def run(args: argparse.Namespace) -> int:
    """Draw the picture and say where it is."""
    from llm2bids.report.flatmap import plot_flatmap

    output = args.output_file or output_name(args.stat_img, "_flatmap.png")
    options.call(plot_flatmap, args, dataset=options.dataset_of(args), output_file=output)
    print(output)
    return 0
