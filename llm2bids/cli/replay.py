"""``llm2bids replay``: the scanner for texts that exist already."""

import argparse
from dataclasses import asdict
from pathlib import Path

from llm2bids.cli import options


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "replay",
        parents=[options.scan(), options.verbosity()],
        help="scan a model on given answers (teacher-forced)",
        description="As record, but the model reads the answers of a transcript table instead of "
        "generating its own: one forward pass for each batch.",
    )
    options.bids_dir(parser, "folder of the dataset to write")
    parser.add_argument(
        "--transcripts",
        type=Path,
        required=True,
        metavar="FILE",
        help="TSV with the columns prompt_id and answer (or prompt_id, position, token_id), or a "
        "dataset of ours",
    )
    options.overwrite(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay, then say what was written and where."""
    from llm2bids.scan.record import replay

    dataset = replay(
        args.bids_dir,
        transcripts=args.transcripts,
        overwrite=args.overwrite,
        progress=not args.quiet,
        **asdict(options.scan_options(args)),
    )
    print(dataset.describe())  # noqa: T201
    return 0
