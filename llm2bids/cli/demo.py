"""``llm2bids demo``: the whole story on the embedded model in one go."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli import options

if TYPE_CHECKING:
    from llm2bids.network.findings import Findings

PROMPTS_PER_BLOCK, TOKENS_PER_PROMPT = 14, 2
"""The blocks of the demo: more prompts tell more than longer answers, and all stays under 2 GB."""

LEAST_PARTICIPANTS = 3
"""With fewer there is no network that a held-out participant could test."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "demo",
        parents=[options.verbosity()],
        help="scan the embedded model and show the findings of the paper, in one go",
        description="Scan the embedded model (SmolLM2-135M-Instruct) through the six tasks of the "
        "paper: write a BIDS dataset into OUT/dataset and validate it; first and second level "
        "into OUT/analysis; networks, overlap, repeatability and identification as a small "
        "table; and OUT/report.html. Call it again to go on where it stopped.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write into")
    parser.add_argument(
        "--participants", type=int, default=5, metavar="N", help="number of participants (5)"
    )
    parser.add_argument(
        "--prompts-per-block", type=int, default=PROMPTS_PER_BLOCK, metavar="N",
        help=f"prompts in a block ({PROMPTS_PER_BLOCK})",
    )  # fmt: skip
    parser.add_argument(
        "--tokens-per-prompt", type=int, default=TOKENS_PER_PROMPT, metavar="N",
        help=f"volumes of each prompt ({TOKENS_PER_PROMPT})",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="one seed for everything (0)")
    parser.add_argument(
        "--n-cpus", type=int, default=2, metavar="N", help="processes of the first level (2)"
    )
    parser.add_argument(
        "--no-analysis", action="store_true", help="write and validate the dataset, no more"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Record and validate; then analyse, tell the findings and write the page."""
    from llm2bids.dataset.validate import validate
    from llm2bids.exceptions import UsageError
    from llm2bids.scan.record import record

    if not args.no_analysis and args.participants < LEAST_PARTICIPANTS:
        raise UsageError(
            f"--participants {args.participants}: the findings take {LEAST_PARTICIPANTS} "
            "participants at least; --no-analysis writes the dataset alone"
        )
    bids_dir = args.out / "dataset"
    dataset = record(
        bids_dir,
        n_participants=args.participants,
        seed=args.seed,
        prompts_per_block=args.prompts_per_block,
        tokens_per_prompt=args.tokens_per_prompt,
        progress=not args.quiet,
    )
    print(dataset.describe())  # noqa: T201
    result = validate(bids_dir)
    print(result.describe())  # noqa: T201
    if result.n_errors:
        return 1
    return 0 if args.no_analysis else analyse(args, bids_dir)


def analyse(args: argparse.Namespace, bids_dir: Path) -> int:
    """Run both levels, print the findings, write the page."""
    from llm2bids.cli.findings import describe
    from llm2bids.report.page import write_report

    out_dir = args.out / "analysis"
    found = fit(args, bids_dir, out_dir)
    if found is None:
        return 1
    page = write_report(args.out, bids_dir=bids_dir, analysis_dir=out_dir, progress=not args.quiet)
    print(describe(found))  # noqa: T201
    print(f"report: {page}")  # noqa: T201
    return 0


def fit(args: argparse.Namespace, bids_dir: Path, out_dir: Path) -> "Findings | None":
    """Run the first and second level and measure the findings; None if a participant failed."""
    from llm2bids.cli.findings import measure
    from llm2bids.inference.analyze import analyze_group, analyze_participants
    from llm2bids.network.dataset_findings import FindingsOptions

    progress = not args.quiet
    first = analyze_participants(bids_dir, out_dir, n_cpus=args.n_cpus, progress=progress)
    for failure in first.failed:
        sys.stderr.write(f"llm2bids: failed: {failure}\n")
    if first.failed:
        return None
    group = analyze_group(bids_dir, out_dir, progress=progress)
    return measure(group, bids_dir, FindingsOptions(seed=args.seed), progress=progress)
