"""``llm2bids analyze``: a BIDS App over nilearn, participant and group level."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli import options

if TYPE_CHECKING:
    from llm2bids.inference.analyze import GroupResult, ParticipantsResult

log = logging.getLogger(__name__)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "analyze",
        parents=[options.verbosity()],
        help="first and second level with nilearn, in BIDS derivative names (a BIDS App)",
        description="participant: effect, variance, t and z maps of every participant and task "
        "(each trial type against the off prompts). By default an observation is a prompt (the "
        "mean image of its tokens), which keeps the error rate; --unit-of-analysis token is the "
        "paper's model, and its output says its inflation. group: every task against off and "
        "against the mean of the other tasks, with thresholds, effect sizes and clusters; and, "
        "with three participants and two tasks or more, the findings in OUT_DIR/group/findings: "
        "networks, their overlap and repeatability, identification of the task from a left-out "
        "participant's map.",
    )
    options.bids_dir(parser)
    parser.add_argument("output_dir", type=Path, metavar="OUT_DIR", help="folder of the results")
    parser.add_argument("analysis_level", choices=("participant", "group"))
    _add_selection(parser)
    _add_first_level(parser)
    _add_group(parser)
    _add_findings(parser)
    parser.set_defaults(run=run)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("selection and machine")
    group.add_argument(
        "--participant-label", "--participant_label", nargs="+", metavar="LABEL",
        help="only these, with or without sub-",
    )  # fmt: skip
    group.add_argument("--task", nargs="+", metavar="LABEL", help="only these tasks")
    group.add_argument(
        "--bids-filter-file", type=Path, metavar="FILE",
        help="JSON file of pybids' filters, as fMRIPrep takes it: only the runs that match, e.g. "
        '{"bold": {"task": "pathology", "run": [1, 2]}}; the group level takes the same runs',
    )  # fmt: skip
    group.add_argument(
        "--contrast", action="append", metavar="EXPRESSION",
        help="in place of each trial type against off (participant level), or besides the usual "
        "ones (group level), e.g. 'paleontology - archeology'; repeatable",
    )  # fmt: skip
    group.add_argument("-w", "--work-dir", type=Path, metavar="DIR", help="scratch files")
    group.add_argument("--n-cpus", type=int, default=1, metavar="N", help="processes (default 1)")
    group.add_argument(
        "--mem-gb", type=float, metavar="GB",
        help="memory for all fits together (default: 1 for each process); what takes more is "
        "fitted in blocks of units, and the prompts' images are held in a scratch file",
    )  # fmt: skip


def _add_first_level(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("participant level (nilearn's FirstLevelModel)")
    group.add_argument(
        "--unit-of-analysis", choices=("prompt", "token"), default="prompt",
        help="what an observation is (default prompt)",
    )  # fmt: skip
    group.add_argument(
        "--noise-model", metavar="MODEL", help="ols, ar1, arN (default: ols, for tokens ar1)"
    )
    token = "with --unit-of-analysis token"
    group.add_argument(
        "--hrf-model", choices=("none", "spm", "glover"), default="none",
        help=f"{token} (default none: a language model has no lag)",
    )  # fmt: skip
    group.add_argument("--drift-model", choices=("cosine", "polynomial"), help=token)
    group.add_argument("--high-pass", type=float, metavar="HZ", help=token)
    group.add_argument("--drift-order", type=int, default=1, metavar="N", help=token)
    group.add_argument(
        "--confounds", nargs="+", default=(), metavar="NAME",
        help="strategies of load_confounds (position, first_token, length, surprisal, entropy, "
        "global_signal) or columns of the confounds table",
    )  # fmt: skip
    group.add_argument(
        "--smoothing", type=float, metavar="MM", help="smoothing_fwhm; mixes neighbouring units"
    )
    group.add_argument("--mask", type=Path, metavar="IMG", help="model only these voxels")
    group.add_argument(
        "--use", choices=("transcript", "events"), default=None,
        help="which table says what was shown, where a run's events.tsv and its transcript differ "
        "(refused without)",
    )  # fmt: skip


def _add_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("group level (nilearn's SecondLevelModel)")
    group.add_argument(
        "--alpha", type=float, default=0.05, metavar="P", help="error rate (default 0.05)"
    )
    group.add_argument(
        "--height-control", choices=("fdr", "bonferroni", "fpr"), default="fdr",
        help="what alpha controls in thresholded maps and clusters (default fdr)",
    )  # fmt: skip
    group.add_argument(
        "--cluster-threshold", type=int, default=10, metavar="VOXELS",
        help="smallest cluster that stays (default 10)",
    )  # fmt: skip
    group.add_argument(
        "--n-perm", type=int, default=0, metavar="N",
        help="sign flips of non_parametric_inference (10000 or more for a paper); 0 leaves it out",
    )  # fmt: skip
    sided = group.add_mutually_exclusive_group()
    sided.add_argument(
        "--two-sided", dest="two_sided", action="store_true", default=True,
        help="permutation test of both directions (default)",
    )  # fmt: skip
    sided.add_argument(
        "--one-sided", dest="two_sided", action="store_false",
        help="permutation test of increases",
    )  # fmt: skip
    group.add_argument(
        "--threshold", type=float, metavar="P", help="cluster-forming p value, with --n-perm"
    )
    group.add_argument(
        "--tfce", action="store_true", help="threshold-free cluster enhancement, with --n-perm"
    )
    group.add_argument(
        "--pooled-n-perm", type=int, default=0, metavar="N",
        help="permutations of the pooled prompt test; 0 leaves it out",
    )  # fmt: skip
    group.add_argument(
        "--random-state", type=int, default=0, metavar="SEED", help="of permutations and draws"
    )


def _add_findings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("findings (group level)")
    group.add_argument("--no-findings", action="store_true", help="group maps only")
    group.add_argument(
        "--top-percent", type=float, default=5.0, metavar="P",
        help="share of the units in a network, those with the largest effects (default 5)",
    )  # fmt: skip
    group.add_argument(
        "--min-cohens-d", type=float, metavar="D",
        help="networks of the units above this |d| that survive --alpha, in place of --top-percent",
    )  # fmt: skip
    group.add_argument(
        "--control", action="append", default=[], dest="controls",
        choices=("shuffled-labels", "shuffled-tasks", "random-networks"),
        help="measure the findings under a control too: on and off labels of the prompts shuffled, "
        "task labels of the maps shuffled, random units in place of the networks; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--control-dataset", action="append", default=[], dest="control_datasets", type=Path,
        metavar="BIDS_DIR",
        help="measure the same on another dataset, e.g. one of `record --random-weights`; "
        "repeatable",
    )  # fmt: skip
    group.add_argument(
        "--n-control-draws", type=int, default=20, metavar="N", help="of each --control (20)"
    )
    group.add_argument(
        "--allow-circular", action="store_true",
        help="go on where participants share prompts, and say so on the result; at both levels "
        "where the arrangement was learned from prompts of these runs",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Analyse, say where the results are, and exit with 1 if anything failed."""
    return run_participant(args) if args.analysis_level == "participant" else run_group(args)


def run_participant(args: argparse.Namespace) -> int:
    """Run the participant level; 1 if a participant failed."""
    from llm2bids.inference.analyze import analyze_participants

    return _told(
        analyze_participants(
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
            bids_filter_file=args.bids_filter_file,
            use=args.use,
            n_cpus=args.n_cpus,
            mem_gb=args.mem_gb,
            work_dir=args.work_dir,
            progress=not args.quiet,
            allow_circular=args.allow_circular,
        )
    )


def run_group(args: argparse.Namespace) -> int:
    """Run the group level and the findings; 1 if a participant was left out or findings failed."""
    from llm2bids.cli.findings import describe, measure
    from llm2bids.exceptions import Llm2bidsError
    from llm2bids.inference.analyze import analyze_group
    from llm2bids.inference.options import GroupOptions
    from llm2bids.network.dataset_findings import FindingsOptions
    from llm2bids.network.findings import remove_findings

    findings = FindingsOptions(
        top_percent=args.top_percent,
        alpha=args.alpha,
        min_cohens_d=args.min_cohens_d,
        controls=tuple(args.controls),
        n_control_draws=args.n_control_draws,
        seed=args.random_state,
        allow_circular=args.allow_circular,
    )
    result = analyze_group(
        args.bids_dir,
        args.output_dir,
        participant_label=args.participant_label,
        task=args.task,
        contrasts=args.contrast,
        options=GroupOptions(
            alpha=args.alpha,
            height_control=args.height_control,
            cluster_threshold=args.cluster_threshold,
            n_perm=args.n_perm,
            two_sided_test=args.two_sided,
            threshold=args.threshold,
            tfce=args.tfce,
            pooled_n_perm=args.pooled_n_perm,
            random_state=args.random_state,
            n_jobs=args.n_cpus,
        ),
        progress=not args.quiet,
        allow_circular=args.allow_circular,
    )
    code = _told(result)
    remove_findings(args.output_dir)
    if args.no_findings:
        return code
    try:
        found = measure(
            result,
            args.bids_dir,
            findings,
            control_datasets=args.control_datasets,
            mem_gb=args.mem_gb,
            work_dir=args.work_dir,
            progress=not args.quiet,
        )
    except Llm2bidsError as error:
        sys.stderr.write(f"llm2bids: failed: findings: {error}; --no-findings leaves them out\n")
        return 1
    if found is not None:
        print(describe(found))  # noqa: T201
    return code


def _told(result: "ParticipantsResult | GroupResult") -> int:
    for failure in result.failed:
        sys.stderr.write(f"llm2bids: failed: {failure}\n")
    print(f"{len(result.files)} files written to {result.out_dir}")  # noqa: T201
    return 1 if result.failed else 0
