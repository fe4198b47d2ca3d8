"""``llm2bids check``: compares a dataset with what was recorded."""

import argparse

from llm2bids.cli import options


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "check",
        parents=[options.verbosity()],
        help="compare a dataset with its checksums, and its files with one another",
        description="Compare every file with its checksum (code/checksums), and images, events, "
        "transcripts, space and calibration with one another; of the output folder "
        "of `analyze`, the checksums. Says which file is wrong and what to do. Exit 1 if one is. "
        "Nothing is changed without --accept.",
    )
    options.bids_dir(parser)
    parser.add_argument(
        "--accept",
        action="append",
        metavar="PATH",
        help="take this file, or all files of this folder, as they are now: write their checksums "
        "anew; relative to BIDS_DIR, repeatable; . for the whole dataset",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and print the faults; or take changed files as they are."""
    from llm2bids.dataset.check import accept, check_dataset
    from llm2bids.inference.checksums import check_analysis, is_analysis

    if args.accept:
        changed = accept(args.bids_dir, args.accept)
        for place in changed:
            print(f"{place}: accepted")  # noqa: T201
        print(f"{args.bids_dir}: {len(changed)} checksums written")  # noqa: T201
        return 0
    check = check_analysis if is_analysis(args.bids_dir) else check_dataset
    result = check(args.bids_dir, progress=not args.quiet)
    print(result.describe())  # noqa: T201
    return 1 if result.faults else 0
