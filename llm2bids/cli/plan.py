"""Tell units, volumes, disk, memory and time of a scan beforehand; recommend a design.

Work out what `record` with the same options will take, from the model's configuration alone: no
weights are needed, of a hub model only config.json is fetched. With --effect-size, recommend
designs that find it.
"""

import argparse
import json

from llm2bids.cli import options, recommend
from llm2bids.scan.options import ScanOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.of(parser, ScanOptions)
    options.flag(parser, "--no-time", "do not time this machine")
    options.flag(parser, "--json", "the figures as JSON")
    recommend.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    from llm2bids.paradigm.prompts import load_banks
    from llm2bids.scan.plan import plan

    planned = plan(time=not args.no_time, **options.read(args, ScanOptions))
    recommended = None
    if args.effect_size is not None:
        banks = load_banks(planned.scan.paradigm)
        on = {trial.trial_type for design in planned.scan.designs for trial in design.trials}
        sizes = [len(prompts) for condition, prompts in banks.items() if condition in on]
        recommended = recommend.describe_designs(
            args, n_units=planned.space.n_units, max_prompts=min(sizes, default=None)
        )
    if args.json:
        print(json.dumps({**planned.numbers(), "recommended": recommended}, indent=1))
    else:
        print("\n\n".join([planned.describe(), *([recommended] if recommended else [])]))
    return 0
