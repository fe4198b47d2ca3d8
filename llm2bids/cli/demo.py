"""``llm2bids demo``: the whole story on the embedded model in one go."""

import argparse
import logging
from pathlib import Path

from llm2bids.cli import options

log = logging.getLogger(__name__)

TOKENS_PER_PROMPT = 4
"""Volumes of each prompt in the demo: prompts tell more than tokens, and tokens cost disk."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "demo",
        parents=[options.verbosity()],
        help="scan the embedded model and write a dataset, in one go",
        description="Scan the embedded model (SmolLM2-135M-Instruct) through the six tasks of the "
        "paper, write a BIDS dataset into OUT/dataset and validate it. Call it again to go on "
        "where it stopped.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write into")
    parser.add_argument(
        "--participants", type=int, default=5, metavar="N", help="number of participants (5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="one seed for everything (0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Record, validate, and say what was written."""
    from llm2bids.dataset.scan import record
    from llm2bids.dataset.validate import validate

    dataset = record(
        args.out / "dataset",
        n_participants=args.participants,
        seed=args.seed,
        tokens_per_prompt=TOKENS_PER_PROMPT,
        progress=not args.quiet,
    )
    print(dataset.describe())  # noqa: T201
    result = validate(args.out / "dataset")
    print(result.describe())  # noqa: T201
    return 0 if result.n_errors == 0 else 1
