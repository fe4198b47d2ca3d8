"""First and second level with nilearn, in BIDS derivative names (a BIDS App).

participant: effect, variance, t and z maps of every participant and task (each trial type against
the off prompts). By default an observation is a prompt (the mean image of its tokens), which keeps
the error rate; --unit-of-analysis token is the paper's model, and its output says its inflation.
group: every task against off and against the mean of the other tasks, with thresholds, effect sizes
and clusters; and, with three participants and two tasks or more, the findings in
OUT_DIR/group/findings: networks, their overlap and repeatability, identification of the task from a
left-out participant's map.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli import options
from llm2bids.cli.options import add

if TYPE_CHECKING:
    from llm2bids.inference.analyze import GroupResult, ParticipantsResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder of the results")
    parser.add_argument("analysis_level", choices=("participant", "group"))
    _add_selection(parser)
    _add_first_level(parser)
    _add_group(parser)
    _add_findings(parser)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("selection and machine")
    several = {"nargs": "+", "metavar": "LABEL"}
    text = "only these, with or without sub-"
    add(group, "--participant-label, --participant_label", text, **several)
    add(group, "--task", "only these tasks", **several)
    text = (
        "JSON file of pybids' filters, as fMRIPrep takes it: only the runs that match, e.g. "
        '{"bold": {"task": "pathology", "run": [1, 2]}}; the group level takes the same runs'
    )
    add(group, "--bids-filter-file", text, type=Path, metavar="FILE")
    text = (
        "in place of each trial type against off (participant level), or besides the usual ones "
        "(group level), e.g. 'paleontology - archeology'; repeatable"
    )
    add(group, "--contrast", text, dest="contrasts", action="append", metavar="EXPRESSION")
    add(group, "-w, --work-dir", "scratch files", type=Path, metavar="DIR")
    add(group, "--n-cpus", "processes", 1, metavar="N")
    text = (
        "memory for all fits together (default: 1 for each process); what takes more is fitted in "
        "blocks of units, and the prompts' images are held in a scratch file"
    )
    add(group, "--mem-gb", text, type=float, metavar="GB")


def _add_first_level(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("participant level (nilearn's FirstLevelModel)")
    text = "what an observation is"
    add(group, "--unit-of-analysis", text, "prompt", choices=("prompt", "token"))
    text = "ols, ar1, arN (default: ols, for tokens ar1)"
    add(group, "--noise-model", text, metavar="MODEL")
    token = "with --unit-of-analysis token"
    text = f"{token}; a language model has no lag"
    add(group, "--hrf-model", text, "none", choices=("none", "spm", "glover"))
    add(group, "--drift-model", token, choices=("cosine", "polynomial"))
    add(group, "--high-pass", token, type=float, metavar="HZ")
    add(group, "--drift-order", token, 1, metavar="N")
    text = (
        "strategies of load_confounds (position, first_token, length, surprisal, entropy, "
        "global_signal) or columns of the confounds table"
    )
    group.add_argument("--confounds", nargs="+", default=(), metavar="NAME", help=text)
    text = "smoothing_fwhm; mixes neighbouring units"
    add(group, "--smoothing", text, dest="smoothing_fwhm", type=float, metavar="MM")
    add(group, "--mask", "model only these voxels", dest="mask_img", type=Path, metavar="IMG")
    text = (
        "which table says what was shown, where a run's events.tsv and its transcript differ "
        "(refused without)"
    )
    add(group, "--use", text, choices=("transcript", "events"))


def _add_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("group level (nilearn's SecondLevelModel)")
    add(group, "--alpha", "error rate", 0.05, metavar="P")
    text = "what alpha controls in thresholded maps and clusters"
    add(group, "--height-control", text, "fdr", choices=("fdr", "bonferroni", "fpr"))
    add(group, "--cluster-threshold", "smallest cluster that stays", 10, metavar="VOXELS")
    text = "sign flips of non_parametric_inference, 10000 or more for a paper; 0 leaves it out"
    add(group, "--n-perm", text, 0, metavar="N")
    sided = group.add_mutually_exclusive_group()
    directions = {"two-sided": "both directions (default)", "one-sided": "increases"}
    for flag, text in directions.items():
        sided.add_argument(
            f"--{flag}",
            dest="two_sided_test",
            action="store_true" if flag == "two-sided" else "store_false",
            default=True,
            help=f"permutation test of {text}",
        )
    text = "cluster-forming p value, with --n-perm"
    add(group, "--threshold", text, type=float, metavar="P")
    text = "threshold-free cluster enhancement, with --n-perm"
    group.add_argument("--tfce", action="store_true", help=text)
    text = "permutations of the pooled prompt test; 0 leaves it out"
    add(group, "--pooled-n-perm", text, 0, metavar="N")
    add(group, "--random-state", "of permutations and draws", 0, metavar="SEED")


def _add_findings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("findings (group level)")
    group.add_argument("--no-findings", action="store_true", help="group maps only")
    text = "share of the units in a network, those with the largest effects"
    add(group, "--top-percent", text, 5.0, metavar="P")
    text = "networks of the units above this |d| that survive --alpha, in place of --top-percent"
    add(group, "--min-cohens-d", text, type=float, metavar="D")
    group.add_argument(
        "--control",
        action="append",
        default=[],
        dest="controls",
        choices=("shuffled-labels", "shuffled-tasks", "random-networks"),
        help="measure the findings under a control too: on and off labels of the prompts shuffled, "
        "task labels of the maps shuffled, random units in place of the networks; repeatable",
    )
    group.add_argument(
        "--control-dataset",
        action="append",
        default=[],
        dest="control_datasets",
        type=Path,
        metavar="BIDS_DIR",
        help="measure the same on another dataset, e.g. one of `record --random-weights`; "
        "repeatable",
    )
    add(group, "--n-control-draws", "of each --control", 20, metavar="N")
    text = (
        "go on where participants share prompts, and say so on the result; at both levels where "
        "the arrangement was learned from prompts of these runs"
    )
    group.add_argument("--allow-circular", action="store_true", help=text)


def run(args: argparse.Namespace) -> int:
    """Analyse, say where the results are, and exit with 1 if anything failed."""
    if args.analysis_level == "group":
        return _run_group(args)
    from llm2bids.inference.analyze import analyze_participants

    hrf_model = None if args.hrf_model == "none" else args.hrf_model
    return _describe(options.call(analyze_participants, args, hrf_model=hrf_model))


def _run_group(args: argparse.Namespace) -> int:
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
    group = options.call(GroupOptions, args, n_jobs=args.n_cpus)
    result = options.call(analyze_group, args, options=group)
    code = _describe(result)
    remove_findings(args.out_dir)
    if args.no_findings:
        return code
    try:
        found = options.call(measure, args, result=result, options=findings)
    except Llm2bidsError as error:
        sys.stderr.write(f"llm2bids: failed: findings: {error}; --no-findings leaves them out\n")
        return 1
    if found is not None:
        print(describe(found))
    return code


def _describe(result: "ParticipantsResult | GroupResult") -> int:
    for failure in result.failed:
        sys.stderr.write(f"llm2bids: failed: {failure}\n")
    print(f"{len(result.files)} files written to {result.out_dir}")
    return 1 if result.failed else 0
