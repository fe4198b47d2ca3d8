"""``llm2bids record``: the scanner."""

import argparse
from dataclasses import asdict

from llm2bids.cli import options


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "record",
        parents=[options.scan(), options.verbosity()],
        help="scan a model: write (or resume, or add participants to) a BIDS dataset",
        description="Run a paradigm through a model, record every layer output at every generated "
        "token, and write it as a BIDS dataset with a derivative. Called again with the same "
        "options it goes on where it stopped; with more participants it adds them.",
    )
    options.bids_dir(parser, "folder of the dataset: new, empty, or one of ours to go on with")
    options.overwrite(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Record, then say what was written and where."""
    from llm2bids.scan.record import record

    dataset = record(
        args.bids_dir,
        overwrite=args.overwrite,
        progress=not args.quiet,
        **asdict(options.scan_options(args)),
    )
    print(dataset.describe())  # noqa: T201
    return 0
