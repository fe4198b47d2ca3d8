"""Steer the model towards a topic, or away from it, and show what that costs.

Add a direction to the residual stream at every token: the difference of the means of on and off
texts, the map itself, or (to take a topic away) the own topic against the others. Layer and
strength are searched on one half of held-out prompts and reported on the other, always beside
random and shuffled directions of the same norm and a prompt that asks for the topic: what the text
is about (a classifier, with its held-out accuracy, and replay in the intact model), its negative
log likelihood under the intact model, distinct-2, and the text itself. Scaling the units of a
network (an edit of kind scale) induced no topic: they are silent off topic.
"""

import argparse

from llm2bids.cli import options
from llm2bids.intervention.steer import SteerOptions
from llm2bids.intervention.subject import SubjectOptions

_KINDS = (SteerOptions, SubjectOptions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.analysis(parser)
    options.of(parser, *_KINDS)


def run(args: argparse.Namespace) -> int:
    """Steer, and say what came out."""
    from llm2bids.intervention.steer import steer

    result = options.call(steer, args, **options.read(args, *_KINDS))
    print(result.describe())
    return 0
