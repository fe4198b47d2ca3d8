"""The design that a wanted effect size takes: options and text for ``llm2bids plan``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli.options import add

if TYPE_CHECKING:
    from llm2bids.inference.power import VarianceComponents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--effect-size`` and what goes with it."""
    group = parser.add_argument_group("recommend a design for a wanted effect")
    text = "on minus off at one unit, in standard deviations of its single volumes"
    add(group, "--effect-size", text, type=float, metavar="D")
    add(group, "--power", "wanted power", 0.8, metavar="P")
    add(group, "--alpha", "error rate", 0.05, metavar="P")
    text = "what alpha controls; fdr: with 5 % of the units affected"
    add(group, "--correction", text, "fdr", choices=("fdr", "bonferroni", "none"))
    text = (
        "measured on another model, by scripts/power_figure.py --components (default: "
        "SmolLM2-135M's)"
    )
    add(group, "--variance-components", text, type=Path, metavar="JSON")


def describe_designs(args: argparse.Namespace, *, n_units: int, max_prompts: int | None) -> str:
    """Give the cheapest designs in a few lines, and where the variances come from.

    `max_prompts`: on prompts of the smallest bank.
    """
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
    bank = "" if max_prompts is None else f" within {max_prompts} prompts of a bank"
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
