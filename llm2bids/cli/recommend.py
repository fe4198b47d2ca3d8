"""The design that a wanted effect size takes: options and text for ``llm2bids plan``."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm2bids.inference.variance_components import VarianceComponents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--effect-size`` and what goes with it."""
    group = parser.add_argument_group("recommend a design for a wanted effect")
    group.add_argument(
        "--effect-size", type=float, metavar="D",
        help="on minus off at one unit, in standard deviations of its single volumes",
    )  # fmt: skip
    group.add_argument(
        "--power", type=float, default=0.8, metavar="P", help="wanted power (default 0.8)"
    )
    group.add_argument(
        "--alpha", type=float, default=0.05, metavar="P", help="error rate (default 0.05)"
    )
    group.add_argument(
        "--correction", choices=("fdr", "bonferroni", "none"), default="fdr",
        help="what alpha controls (default fdr, with 5 %% of the units affected)",
    )  # fmt: skip
    group.add_argument(
        "--variance-components", type=Path, metavar="JSON",
        help="measured on another model, by scripts/power_figure.py --components",
    )  # fmt: skip


def describe_designs(
    args: argparse.Namespace, *, n_units: int, max_prompts: int | None, off_per_on: float = 2.0
) -> str:
    """Recommend designs in a few lines.

    Parameters
    ----------
    args : Namespace
        With the options of `add_arguments`; ``effect_size`` is given.
    n_units : int
        Units that are tested, for ``--correction bonferroni``.
    max_prompts : int or None
        On prompts that the smallest bank has.
    off_per_on : float, default=2
        Off prompts for each on prompt.

    Returns
    -------
    str
        The cheapest design, the cheapest for other numbers of tokens, and where the variances
        come from.

    Raises
    ------
    Llm2bidsError
        If a number makes no sense, or the file of components cannot be read.
    """
    from llm2bids.inference.power import recommend_designs, unit_alpha

    components = _components(args.variance_components)
    alpha = unit_alpha(args.alpha, args.correction, n_units=n_units, power=args.power)
    designs = recommend_designs(
        components, args.effect_size, power=args.power, alpha=alpha, max_prompts=max_prompts,
        off_per_on=off_per_on,
    )  # fmt: skip
    wanted = (
        f"d {args.effect_size:g} at power {args.power:g}, {args.correction} {args.alpha:g} "
        f"(p below {alpha:.2g} at a unit)"
    )
    bank = "" if max_prompts is None else f" within {max_prompts} prompts of a bank"
    lines = [f"no design of 8 to 64 participants reaches {wanted}{bank}"]
    if designs:
        lines = [f"recommended for {wanted}{bank}:"]
        lines += [
            f"  {one.n_participants} participants x {one.n_prompts} prompts per block x "
            f"{one.n_tokens} tokens per prompt: power {one.power:.2f}, {one.cost:,} tokens a task"
            for one in designs
        ]
    return "\n".join([*lines, f"variances: {components.source}"])


def _components(path: Path | None) -> "VarianceComponents":
    from llm2bids.exceptions import UsageError
    from llm2bids.inference.variance_components import read_components, shipped_components

    if path is None:
        return shipped_components()
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: not readable as JSON ({error}); expected what scripts/power_figure.py "
            "--components writes"
        ) from None
    return read_components(about if isinstance(about, dict) else {})
