"""``llm2bids analyze``: a BIDS App over nilearn, participant and group level."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli import options

if TYPE_CHECKING:
    from llm2bids.inference.analyze import GroupResult, ParticipantsResult


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "analyze",
        parents=[options.verbosity()],
        help="first and second level with nilearn, in BIDS derivative names (a BIDS App)",
        description="participant: effect, variance, t and z maps of every participant and task "
        "(each trial type against the off prompts). group: every task against off and against the "
        "mean of the other tasks, with FDR or Bonferroni thresholds, effect sizes and clusters. By "
        "default an observation is a prompt (the mean image of its tokens), which keeps the error "
        "rate; --unit-of-analysis token is the paper's model and says its inflation.",
    )
    options.bids_dir(parser)
    parser.add_argument("output_dir", type=Path, metavar="OUT_DIR", help="folder of the results")
    parser.add_argument("analysis_level", choices=("participant", "group"))
    _add_selection(parser)
    _add_first_level(parser)
    _add_group(parser)
    parser.set_defaults(run=run)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("selection and machine")
    group.add_argument(
        "--participant-label", "--participant_label", nargs="+", metavar="LABEL",
        help="only these, with or without sub-",
    )  # fmt: skip
    group.add_argument("--task", nargs="+", metavar="LABEL", help="only these tasks")
    group.add_argument(
        "--contrast", action="append", metavar="EXPRESSION",
        help="in place of each trial type against off (participant level), or besides the usual "
        "ones (group level), e.g. 'paleontology - archeology'; repeatable",
    )  # fmt: skip
    group.add_argument("-w", "--work-dir", type=Path, metavar="DIR", help="scratch files")
    group.add_argument("--n-cpus", type=int, default=1, metavar="N")
    group.add_argument("--mem-gb", type=float, metavar="GB", help="default: 1 for each process")


def _add_first_level(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("participant level (nilearn's FirstLevelModel)")
    group.add_argument("--unit-of-analysis", choices=("prompt", "token"), default="prompt")
    group.add_argument("--noise-model", metavar="MODEL", help="ols, ar1, arN")
    group.add_argument("--hrf-model", choices=("none", "spm", "glover"), default="none")
    group.add_argument("--drift-model", choices=("cosine", "polynomial"))
    group.add_argument("--high-pass", type=float, metavar="HZ")
    group.add_argument("--drift-order", type=int, default=1, metavar="N")
    group.add_argument("--confounds", nargs="+", default=(), metavar="COLUMN")
    group.add_argument("--smoothing", type=float, metavar="MM", help="smoothing_fwhm")
    group.add_argument("--mask", type=Path, metavar="IMG", help="model only these voxels")


def _add_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("group level (nilearn's SecondLevelModel)")
    group.add_argument("--alpha", type=float, default=0.05)
    group.add_argument("--height-control", choices=("fdr", "bonferroni", "fpr"), default="fdr")
    group.add_argument("--cluster-threshold", type=int, default=10, metavar="VOXELS")
    group.add_argument(
        "--n-perm", type=int, default=0, metavar="N",
        help="sign flips of non_parametric_inference (10000 or more for a paper); 0 leaves it out",
    )  # fmt: skip
    group.add_argument("--one-sided", action="store_true", help="permutation test of increases")
    group.add_argument("--threshold", type=float, metavar="P", help="cluster-forming p value")
    group.add_argument("--tfce", action="store_true", help="threshold-free cluster enhancement")
    group.add_argument(
        "--pooled-n-perm", type=int, default=0, metavar="N",
        help="permutations of the pooled prompt test; 0 leaves it out",
    )  # fmt: skip
    group.add_argument("--random-state", type=int, default=0, metavar="SEED")


def run(args: argparse.Namespace) -> int:
    """Analyse, say where the results are, and exit with 1 if anything failed."""
    participant = args.analysis_level == "participant"
    result: ParticipantsResult | GroupResult = _participant(args) if participant else _group(args)
    for failure in result.failed:
        sys.stderr.write(f"llm2bids: failed: {failure}\n")
    print(f"{len(result.files)} files written to {result.out_dir}")  # noqa: T201
    return 1 if result.failed else 0


def _participant(args: argparse.Namespace) -> "ParticipantsResult":
    from llm2bids.inference.analyze import analyze_participants

    return analyze_participants(
        args.bids_dir,
        args.output_dir,
        participant_label=args.participant_label,
        task=args.task,
        contrasts=args.contrast,
        unit_of_analysis=args.unit_of_analysis,
        noise_model=args.noise_model,
        hrf_model=None if args.hrf_model == "none" else args.hrf_model,
        drift_model=args.drift_model,
        high_pass=args.high_pass,
        drift_order=args.drift_order,
        confounds=args.confounds,
        smoothing_fwhm=args.smoothing,
        mask_img=args.mask,
        n_cpus=args.n_cpus,
        mem_gb=args.mem_gb,
        work_dir=args.work_dir,
        progress=not args.quiet,
    )


def _group(args: argparse.Namespace) -> "GroupResult":
    from llm2bids.inference.analyze import analyze_group
    from llm2bids.inference.options import GroupOptions

    options_ = GroupOptions(
        alpha=args.alpha,
        height_control=args.height_control,
        cluster_threshold=args.cluster_threshold,
        n_perm=args.n_perm,
        two_sided_test=not args.one_sided,
        threshold=args.threshold,
        tfce=args.tfce,
        pooled_n_perm=args.pooled_n_perm,
        random_state=args.random_state,
        n_jobs=args.n_cpus,
    )
    return analyze_group(
        args.bids_dir,
        args.output_dir,
        participant_label=args.participant_label,
        task=args.task,
        contrasts=args.contrast,
        options=options_,
        progress=not args.quiet,
    )
