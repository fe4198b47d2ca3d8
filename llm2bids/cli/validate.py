"""Run the official BIDS validator on a dataset and its derivative.

Run bids-validator-deno on the dataset and on derivatives/llm2bids, each as a dataset of its own.
Exit 1 if there is an error.
"""

import argparse

from llm2bids.cli import options

add_arguments = options.bids_dir


def run(args: argparse.Namespace) -> int:
    """Validate and print the counts."""
    from llm2bids.dataset.validate import validate

    result = validate(args.bids_dir)
    print(result.describe())
    return 0 if result.n_errors == 0 else 1
