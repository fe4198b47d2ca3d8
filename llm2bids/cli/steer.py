"""Steer the model towards a topic, or away from it, and show what that costs.

Add a direction to the residual stream at every token: the difference of the means of on and off
answers, the map itself, or (to take a topic away) the own topic against the others. Layer and
strength are searched on one half of held-out prompts and reported on the other, always beside
random and shuffled directions of the same norm and a prompt that asks for the topic: what the text
is about (a classifier, with its held-out accuracy, and replay in the intact model), its negative
log likelihood under the intact model, distinct-2, and the text itself. Scaling the units of a
network (an edit of kind scale) induced no topic: they are silent off topic.
"""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.intervention.steer import SteerOptions
from llm2bids.intervention.subject import SubjectOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser, "the dataset that was recorded from the model")
    text = "what `llm2bids analyze` wrote, with the tasks' effect maps"
    parser.add_argument("analysis_dir", type=Path, metavar="ANALYSIS_DIR", help=text)
    options.of(parser, SteerOptions, SubjectOptions)


def run(args: argparse.Namespace) -> int:
    """Steer, and say what came out."""
    from llm2bids.intervention.steer import steer

    result = steer(
        args.bids_dir,
        args.analysis_dir,
        progress=args.progress,
        **options.read(args, SteerOptions, SubjectOptions),
    )
    print(result.describe())
    return 0
