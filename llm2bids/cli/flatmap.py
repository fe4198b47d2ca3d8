"""``llm2bids flatmap``: a statistical map on the model laid flat, as one picture."""

import argparse
import sys
from pathlib import Path

from llm2bids.cli import options


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "flatmap",
        parents=[options.verbosity()],
        help="draw a statistical map on the whole model laid flat: layers by modules",
        description="Draw a statistical map that any tool made from a dataset of ours on the "
        "model laid flat: layers from left to right, one row of panels a module, the residual "
        "stream in the middle. An image on another grid, or with the fingerprint of another "
        "dataset, is refused.",
    )
    parser.add_argument("stat_img", type=Path, metavar="STAT_IMG", help="a NIfTI image")
    parser.add_argument(
        *("--dataset", "--bids-dir"),
        type=Path,
        metavar="BIDS_DIR",
        help="the dataset that the image was made from (default: the one around the image)",
    )
    parser.add_argument(
        *("-o", "--output"),
        type=Path,
        metavar="FILE",
        help="the picture: .png, .svg or .pdf (default: the image's name with _flatmap.png, in "
        "the working folder)",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="X", help="show units beyond +-X (default: all)"
    )
    parser.add_argument("--vmax", type=float, metavar="X", help="absolute value of full colour")
    parser.add_argument("--theme", choices=("light", "dark"), default="light", help="default light")
    parser.add_argument("--title", metavar="TEXT", help="heading (default: none)")
    parser.add_argument(
        "--cmap", metavar="NAME", help="a colour map of matplotlib (default: the project's own)"
    )
    parser.set_defaults(run=run)


def picture_name(stat_img: Path) -> Path:
    """Name the picture of an image: in the working folder, for images may lie in a dataset.

    Examples
    --------
    >>> picture_name(Path("maps/task-a_stat-z_statmap.nii.gz")).name
    'task-a_stat-z_statmap_flatmap.png'
    """
    return Path(f"{stat_img.name.removesuffix('.gz').removesuffix('.nii')}_flatmap.png")


def run(args: argparse.Namespace) -> int:
    """Draw the picture and say where it is."""
    from llm2bids.cli.locate import find_dataset
    from llm2bids.report.flatmap import plot_flatmap

    output = args.output or picture_name(args.stat_img)
    plot_flatmap(
        args.stat_img,
        args.dataset or find_dataset(args.stat_img),
        threshold=args.threshold,
        vmax=args.vmax,
        title=args.title,
        cmap=args.cmap,
        theme=args.theme,
        output_file=output,
    )
    sys.stdout.write(f"{output}\n")
    return 0
