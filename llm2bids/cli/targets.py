"""List which neurons and modules to train for a topic, as each way to choose them would have it.

Neurons of the MLPs (a row of the gate and up projections, a column of the down projection) and
modules, with effect, share of the network, Fisher information, first-order gain on held-out text of
the topic and spillover to other text; at a budget, the network, the Fisher choice, all, and random
neurons of the same layers. A network shows where training stays local, the gradient where it helps
most; the share of a module in a network does not choose modules for LoRA. With --trial each choice
is fine-tuned for a few steps at the same number of parameters, beside LoRA. Results are written to
group/targets of the analysis; llm2bids.export_lora and its like make files of them for peft, torch
and llama.cpp.
"""

import argparse

from llm2bids.cli import options
from llm2bids.intervention.subject import SubjectOptions
from llm2bids.intervention.targets import TargetsOptions
from llm2bids.intervention.trial import TrialOptions

_KINDS = (TargetsOptions, TrialOptions, SubjectOptions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.analysis(parser)
    options.of(parser, *_KINDS)


def run(args: argparse.Namespace) -> int:
    """Choose, and say what each choice gains."""
    from llm2bids.intervention.targets import targets

    result = options.call(targets, args, **options.read(args, *_KINDS))
    print(result.describe())
    return 0
