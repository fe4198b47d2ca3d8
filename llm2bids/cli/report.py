"""``llm2bids report``: what was recorded and found, on one page."""

import argparse
import sys
from pathlib import Path

from llm2bids.cli import options


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "report",
        parents=[options.verbosity()],
        help="write what was recorded and found as one HTML page",
        description="Write one HTML page that needs nothing from outside: design, quality, group "
        "maps to explore, networks, overlap, repeatability, identification, and a methods "
        "paragraph to paste. Parts that were not computed are left out, with the command that "
        "makes them.",
    )
    parser.add_argument(
        "out_dir",
        type=Path,
        metavar="OUT_DIR",
        help="what `llm2bids demo` or `llm2bids analyze` wrote, or a dataset",
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="BIDS_DIR",
        help="the dataset (default: OUT_DIR, OUT_DIR/dataset, or what the analysis links to)",
    )
    parser.add_argument(
        "--analysis",
        type=Path,
        metavar="DIR",
        help="the analysis (default: OUT_DIR or OUT_DIR/analysis)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the page (OUT_DIR/report.html)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from llm2bids.report.page import write_report

    page = write_report(
        args.out_dir,
        bids_dir=args.dataset,
        analysis_dir=args.analysis,
        output=args.output,
        progress=not args.quiet,
    )
    sys.stdout.write(f"{page}\n")
    return 0
