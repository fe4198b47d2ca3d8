"""Tell units, volumes, disk, memory and time of a scan beforehand; recommend a design.

Work out what `record` with the same options will take, from the model's configuration alone: no
weights are needed, of a hub model only config.json is fetched. With --effect-size, recommend
designs that find it.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli import options
from llm2bids.cli.options import add
from llm2bids.exceptions import UsageError
from llm2bids.scan.options import ScanOptions

if TYPE_CHECKING:
    from llm2bids.inference.power import VarianceComponents
    from llm2bids.recording.draw import Scan

# --power, --alpha, --correction and --variance-components, where they are not given
_WANTED = (0.8, 0.05, "fdr", None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.of(parser, ScanOptions)
    options.flag(parser, "--no-time", "do not time this machine")
    options.flag(parser, "--json", "the figures as JSON")
    add_recommendation(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    from llm2bids.scan.plan import plan

    wanted = (args.power, args.alpha, args.correction, args.variance_components)
    if args.effect_size is None and wanted != _WANTED:
        raise UsageError(
            "--power, --alpha, --correction and --variance-components belong to a design for an "
            "effect; expected --effect-size D with them"
        )
    planned = plan(time=not args.no_time, **options.read(args, ScanOptions))
    recommended = None
    if args.effect_size is not None:
        most = most_prompts(planned.scan)
        recommended = describe_designs(args, n_units=planned.space.n_units, max_prompts=most)
    if args.json:
        print(json.dumps({**planned.numbers(), "recommended": recommended}, indent=1))
    else:
        print("\n\n".join([planned.describe(), *([recommended] if recommended else [])]))
    return 0


def add_recommendation(parser: argparse.ArgumentParser) -> None:
    """Add ``--effect-size`` and what goes with it."""
    group = parser.add_argument_group("recommend a design for a wanted effect")
    text = "on minus off at one unit, in standard deviations of its single volumes"
    add(group, "--effect-size", text, type=float, metavar="D")
    power, alpha, correction, components = _WANTED
    add(group, "--power", "wanted power", power, metavar="P")
    add(group, "--alpha", "error rate", alpha, metavar="P")
    text = "what alpha controls; fdr: with 5 % of the units affected"
    add(group, "--correction", text, correction, choices=("fdr", "bonferroni", "none"))
    text = (
        "measured on another model, by scripts/power_figure.py --components (default: "
        "SmolLM2-135M's)"
    )
    add(group, "--variance-components", text, components, type=Path, metavar="JSON")


def most_prompts(scan: "Scan") -> int:
    """Count the prompts that all participants together can be shown in a block, none twice."""
    from llm2bids.paradigm.design import count_participants
    from llm2bids.paradigm.prompts import load_banks

    # as many as participants who see one each: the off bank serves the off blocks of every task
    paradigm = replace(scan.paradigm, prompts_per_block=1)
    return min(count_participants(paradigm, load_banks(paradigm, without=scan.excluded)).values())


def describe_designs(args: argparse.Namespace, *, n_units: int, max_prompts: int | None) -> str:
    """Give the cheapest designs in a few lines, and where the variances come from."""
    from llm2bids.inference.power import recommend_designs, unit_alpha

    components = _components(args.variance_components)
    alpha = unit_alpha(args.alpha, args.correction, n_units=n_units, power=args.power)
    designs = recommend_designs(
        components, args.effect_size, power=args.power, alpha=alpha, max_prompts=max_prompts
    )
    wanted = (
        f"d {args.effect_size:g} at power {args.power:g}, {args.correction} {args.alpha:g} "
        f"(p below {alpha:.2g} at a unit)"
    )
    bank = "" if max_prompts is None else f" within the {max_prompts} prompts that banks serve"
    lines = [f"no design of 8 to 64 participants reaches {wanted}{bank}"]
    if designs:
        lines = [f"recommended for {wanted}{bank}:"]
        lines += [
            f"  {design.n_participants} participants x {design.n_prompts} prompts per block x "
            f"{design.n_tokens} tokens per prompt: power {design.power:.2f}, {design.cost:,} "
            "tokens a task"
            for design in designs
        ]
    return "\n".join([*lines, f"variances: {components.source}"])


def _components(path: Path | None) -> "VarianceComponents":
    from llm2bids.inference.power import read_components, shipped_components
    from llm2bids.store.json import read_json

    if path is None:
        return shipped_components()
    return read_components(
        read_json(path, remedy="expected what scripts/power_figure.py --components writes")
    )
