"""Scan the embedded model and show the findings of the paper, in one go.

Scan the embedded model (SmolLM2-135M-Instruct) through the six tasks of the paper: write a BIDS
dataset into OUT/dataset and validate it; first and second level into OUT/analysis; networks,
overlap, repeatability and identification as a small table; and OUT/report.html. Call it again to go
on where it stopped.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2bids.cli import options
from llm2bids.scan.options import ScanOptions

if TYPE_CHECKING:
    from llm2bids.network.findings import Findings

# more prompts tell more than longer answers, and all stays under 2 GB
DESIGN: dict[str, Any] = {
    "n_participants": 5,
    "prompts_per_block": 14,
    "tokens_per_prompt": 2,
    "seed": 0,
}

LEAST_PARTICIPANTS = 3  # with fewer there is no network that a held-out participant could test


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write into")
    options.of(parser, ScanOptions, names=tuple(DESIGN), **DESIGN)
    options.add(parser, "--n-cpus", "processes of the first level", 2, metavar="N")
    options.flag(parser, "--no-analysis", "write and validate the dataset, no more")


def run(args: argparse.Namespace) -> int:
    """Record and validate; then analyse, print the findings and write the page."""
    from llm2bids.cli.findings import describe
    from llm2bids.dataset.validate import validate
    from llm2bids.exceptions import UsageError
    from llm2bids.report.citation import cite_analysis, cite_dataset
    from llm2bids.report.page import write_report
    from llm2bids.scan.record import record

    if not args.no_analysis and args.n_participants < LEAST_PARTICIPANTS:
        raise UsageError(
            f"--participants {args.n_participants}: the findings take {LEAST_PARTICIPANTS} "
            "participants at least; --no-analysis writes the dataset alone"
        )
    bids_dir, out_dir = args.out / "dataset", args.out / "analysis"
    began, stages = time.monotonic(), dict[str, float]()

    def end(stage: str) -> None:
        stages[stage] = time.monotonic() - began - sum(stages.values())

    dataset = record(bids_dir, progress=args.progress, **options.read(args, ScanOptions))
    end("model and recording")
    print(dataset.describe())
    cite_dataset(bids_dir)
    result = validate(bids_dir)
    end("validation")
    print(result.describe())
    if result.n_errors or args.no_analysis:
        return 1 if result.n_errors else 0
    findings = _analyze(args, bids_dir, out_dir, end)
    if findings is None:
        return 1
    cite_analysis(out_dir, bids_dir)
    page = write_report(args.out, bids_dir=bids_dir, analysis_dir=out_dir, progress=args.progress)
    end("report")
    print(describe(findings))
    print("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages.items()))
    print(f"report: {page}")
    return 0


def _analyze(
    args: argparse.Namespace, bids_dir: Path, out_dir: Path, end: Callable[[str], None]
) -> "Findings | None":
    """Run the first and second level and measure the findings; None if a participant failed."""
    from llm2bids.cli.findings import measure
    from llm2bids.inference.analyze import analyze_group, analyze_participants

    first = analyze_participants(bids_dir, out_dir, n_cpus=args.n_cpus, progress=args.progress)
    end("first level")
    for failure in first.failed:
        sys.stderr.write(f"llm2bids: failed: {failure}\n")
    if first.failed:
        return None
    group = analyze_group(bids_dir, out_dir, progress=args.progress)
    end("group level")
    findings = measure(group, bids_dir, seed=args.seed, progress=args.progress)
    end("findings")
    return findings
