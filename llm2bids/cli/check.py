"""Compare a dataset with its checksums, and its files with one another.

Compare every file with its checksum (code/checksums), and images, events, transcripts, space and
calibration with one another; of the output folder of `analyze`, the checksums. Says which file is
wrong and what to do. Exit 1 if one is. Nothing is changed without --accept.
"""

import argparse

from llm2bids.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser)
    text = (
        "take this file, or all files of this folder, as they are now: write their checksums "
        "anew; relative to BIDS_DIR, repeatable; . for the whole dataset"
    )
    options.add(parser, "--accept", text, action="append", metavar="PATH")


def run(args: argparse.Namespace) -> int:
    """Check and print the faults; or take changed files as they are."""
    from llm2bids.dataset.check import accept, check_dataset
    from llm2bids.inference.statmap import check_analysis, is_analysis

    if args.accept:
        changed = accept(args.bids_dir, args.accept)
        for path in changed:
            print(f"{path}: accepted")
        print(f"{args.bids_dir}: {len(changed)} checksums written")
        return 0
    check = check_analysis if is_analysis(args.bids_dir) else check_dataset
    result = check(args.bids_dir, progress=args.progress)
    print(result.describe())
    return 1 if result.faults else 0
