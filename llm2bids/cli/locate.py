"""``llm2bids locate``: any tool's image in the space, read in model coordinates."""

import argparse
import sys
from pathlib import Path

from llm2bids.cli import options
from llm2bids.exceptions import UsageError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "locate",
        parents=[options.verbosity()],
        help="list the units in a statistical map: module, layer, role, head, unit, value",
        description="Read a statistical map that any tool made from a dataset of ours, and list "
        "the units above a threshold in model coordinates as a tab-separated table. An image on "
        "another grid, or with the fingerprint of another dataset, is refused.",
    )
    parser.add_argument("stat_img", type=Path, metavar="STAT_IMG", help="a NIfTI image")
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="BIDS_DIR",
        help="the dataset that the image was made from (default: the one around the image)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--threshold", type=float, metavar="X", help="list units beyond +-X (default 3.1)"
    )
    which.add_argument(
        "--top-percent", type=float, metavar="P", help="list the P %% of units that are largest"
    )
    parser.add_argument(
        "--one-sided", action="store_true", help="positive values only (default: both signs)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write the table here, print the summary"
    )
    parser.add_argument(
        "--summary", action="store_true", help="print the summary by layer and role, not the units"
    )
    parser.set_defaults(run=run)


def find_dataset(stat_img: Path) -> Path:
    """Find the dataset of ours that a file lies in.

    Parameters
    ----------
    stat_img : Path
        A file.

    Returns
    -------
    Path
        The nearest folder above it that is a dataset of ours, or that holds one named ``dataset``.

    Raises
    ------
    UsageError
        If there is none.
    """
    from llm2bids.dataset.settings import is_dataset

    for folder in stat_img.absolute().parents:
        for candidate in (folder, folder / "dataset"):
            if is_dataset(candidate):
                return candidate
    raise UsageError(
        f"{stat_img} does not lie in a dataset of ours; name the dataset that the image was made "
        "from: --dataset BIDS_DIR"
    )


def run(args: argparse.Namespace) -> int:
    """Print or write the table of units."""
    from llm2bids.dataset.locate import locate
    from llm2bids.dataset.read import open_dataset
    from llm2bids.inference.statmap import write_text
    from llm2bids.space.stat_map import summarize

    threshold = args.threshold
    if threshold is None and args.top_percent is None:
        threshold = 3.1
    dataset = open_dataset(args.dataset or find_dataset(args.stat_img))
    table = locate(
        args.stat_img,
        dataset,
        threshold=threshold,
        top_percent=args.top_percent,
        two_sided=not args.one_sided,
    )
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    if args.output is not None:
        if args.output.is_symlink() or (args.output.exists() and not args.output.is_file()):
            args.output.write_text(text, encoding="utf-8")  # a pipe, say, stays what it is
        else:
            write_text(args.output, text)
        sys.stderr.write(f"{len(table)} units written to {args.output}\n")
    if args.summary or args.output is not None:
        summary = summarize(table, dataset.space)
        text = summary.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.4g")
    sys.stdout.write(text)
    return 0
