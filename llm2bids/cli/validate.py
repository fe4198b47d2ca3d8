"""``llm2bids validate``: the official BIDS validator on a dataset of ours."""

import argparse

from llm2bids.cli import options


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "validate",
        parents=[options.verbosity()],
        help="run the official BIDS validator on a dataset and its derivative",
        description="Run bids-validator-deno on the dataset and on derivatives/llm2bids, each as a "
        "dataset of its own. Exit 1 if there is an error.",
    )
    options.bids_dir(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Validate and print the counts."""
    from llm2bids.dataset.validate import validate

    result = validate(args.bids_dir)
    print(result.describe())  # noqa: T201
    return 0 if result.n_errors == 0 else 1
