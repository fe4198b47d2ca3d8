"""List the units in a statistical map: module, layer, role, head, unit, value.

Read a statistical map that any tool made from a dataset of ours, and list the units above a
threshold in model coordinates as a tab-separated table. An image on another grid, or with the
fingerprint of another dataset, is refused.
"""

import argparse
import sys
from pathlib import Path

from llm2bids.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.image(parser)
    which = parser.add_mutually_exclusive_group()
    text = "list units beyond X or -X (default: 3.1)"
    which.add_argument("--threshold", type=float, metavar="X", help=text)
    text = "in place of a threshold: the P %% of units that are largest"
    which.add_argument("--top-percent", type=float, metavar="P", help=text)
    text = "positive values only (default: both signs)"
    parser.add_argument("--one-sided", dest="two_sided", action="store_false", help=text)
    text = "write the table here, print the summary"
    options.add(parser, "-o, --output", text, type=Path, metavar="FILE")
    text = "print the summary by layer and role, not the units"
    options.flag(parser, "--summary", text)


def run(args: argparse.Namespace) -> int:
    """Print or write the table of units."""
    from llm2bids.dataset.locate import locate
    from llm2bids.dataset.read import open_dataset
    from llm2bids.space.stat_map import summarize
    from llm2bids.store.commit import replace_text

    if args.threshold is None and args.top_percent is None:
        args.threshold = 3.1
    dataset = open_dataset(options.dataset_of(args))
    table = options.call(locate, args, dataset=dataset)
    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
    if args.output is not None:
        if args.output.is_symlink() or (args.output.exists() and not args.output.is_file()):
            args.output.write_text(text, encoding="utf-8")  # a pipe, say, stays what it is
        else:
            replace_text(args.output, text)
        sys.stderr.write(f"{len(table)} units written to {args.output}\n")
    if args.summary or args.output is not None:
        summary = summarize(table, dataset.space)
        text = summary.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.4g")
    sys.stdout.write(text)
    return 0
