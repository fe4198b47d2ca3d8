"""First and second level with nilearn, in BIDS derivative names (a BIDS App).

participant: effect, variance, t and z maps of every participant and task (each trial type against
the off prompts). By default an observation is a prompt (the mean image of its tokens), which keeps
the error rate; --unit-of-analysis token is the paper's model, and its output says its inflation.
group: every task against off and against the mean of the other tasks, with thresholds, effect sizes
and clusters; and, with three participants and two tasks or more, the findings in
OUT_DIR/group/findings: networks, their overlap and repeatability, identification of the task from a
left-out participant's map.
With --model, the nodes of a BIDS Stats Model up to a level (run, session, participant or dataset,
which group means too), on a dataset of ours or of people.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli import options
from llm2bids.exceptions import UsageError
from llm2bids.inference.options import (
    AnalysisOptions,
    GroupOptions,
    Memory,
    ParticipantSelection,
    Processors,
    Selection,
    StatsModelOptions,
)
from llm2bids.network.options import FindingsOptions
from llm2bids.options import arguments

if TYPE_CHECKING:
    from llm2bids.inference.analyze import GroupResult, ParticipantsResult

log = logging.getLogger(__name__)

_PARTICIPANT = (ParticipantSelection, AnalysisOptions, Processors, Memory)
_GROUP = (Selection, GroupOptions, Processors)
_FINDINGS = (Selection, FindingsOptions, Memory)
_MODEL = (StatsModelOptions, Processors, Memory)

# Levels of the command line, and of a Stats Model's nodes.
_MODEL_LEVELS = {
    "run": "run",
    "session": "session",
    "participant": "subject",
    "group": "dataset",
    "dataset": "dataset",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    options.bids_dir(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder of the results")
    parser.add_argument(
        "analysis_level",
        choices=("participant", "group", "run", "session", "dataset"),
        help="participant or group; the others with --model",
    )
    options.of(parser, *_PARTICIPANT, *_GROUP, *_FINDINGS, *_MODEL)
    options.flag(parser, "--no-findings", "group level: write group maps only")
    text = (
        "go on without the BIDS validator, which else checks the dataset before the first level, "
        "where it is installed"
    )
    options.flag(parser, "--skip-bids-validation, --skip_bids_validation", text)
    text = "analyse nothing: write OUT_DIR/report.html of the results that are there"
    options.flag(parser, "--reports-only", text)


def run(args: argparse.Namespace) -> int:
    """Analyse, say where the results are, and exit with 1 if anything failed."""
    _refuse_other_road(args)
    if args.reports_only:
        return _report(args)
    if args.model is not None:
        return _run_model(args)
    if args.analysis_level == "group":
        return _run_group(args)
    from llm2bids.inference.analyze import analyze_participants
    from llm2bids.report.citation import cite_analysis

    _validate(args)
    keywords = options.read(args, *_PARTICIPANT)
    result = options.call(analyze_participants, args, **keywords)
    cite_analysis(args.out_dir, args.bids_dir)
    return _describe(result)


def _validate(args: argparse.Namespace) -> None:
    """Refuse a dataset that the BIDS validator finds errors in, where the validator is there."""
    from llm2bids.dataset.settings import is_dataset
    from llm2bids.dataset.validate import PROGRAM, find_validator, validate
    from llm2bids.exceptions import DatasetError
    from llm2bids.store.files import refuse_missing, walk_files

    known = is_dataset(args.bids_dir) or args.model is not None
    if args.skip_bids_validation or not known:
        return  # what is no dataset is refused when it is opened, with what is wrong
    try:
        find_validator()
    except DatasetError:
        log.info("%s is not installed: the dataset is not validated", PROGRAM)
        return
    result = validate(args.bids_dir)
    if result.n_errors:
        for path in walk_files(args.bids_dir):  # the validator calls these empty
            refuse_missing(path)
        raise DatasetError(f"{result.describe()}\nmend it, or go on with --skip-bids-validation")
    log.debug("%s", result.describe())


def _report(args: argparse.Namespace) -> int:
    """Write the page of results that are there."""
    from llm2bids.report.page import write_report

    if args.model is not None:
        raise UsageError("--reports-only: a BIDS Stats Model's results have no page; leave it out")
    where = {"bids_dir": args.bids_dir, "analysis_dir": args.out_dir}
    print(write_report(args.out_dir, progress=args.progress, **where))
    return 0


def _refuse_other_road(args: argparse.Namespace) -> None:
    """Refuse what has no effect: options of ours beside a model, and a model's without one."""
    with_model = args.model is not None
    ours, model = (*_PARTICIPANT, *_GROUP, *_FINDINGS), _MODEL
    road, other = (model, ours) if with_model else (ours, model)
    known = {argument.flag for argument in arguments(*road).values()}
    given = [  # of options of one flag, the first is the command's
        argument.flag.split()[0]
        for name, argument in arguments(*other).items()
        if argument.flag not in known
        and getattr(args, name, argument.settings["default"]) != argument.settings["default"]
    ]
    if with_model:
        given += ["--no-findings"] if args.no_findings else []
        if given:
            raise UsageError(
                f"{', '.join(given)}: with --model the file says what is fitted; leave it out"
            )
    elif given:
        raise UsageError(f"{', '.join(given)}: has a meaning with --model only; leave it out")
    elif args.analysis_level not in ("participant", "group"):
        raise UsageError(
            f"analysis level {args.analysis_level}: expected participant or group; run, session "
            "and dataset are levels of a BIDS Stats Model: --model FILE"
        )


def _run_model(args: argparse.Namespace) -> int:
    from llm2bids.inference.analyze_model import analyze_model
    from llm2bids.report.citation import cite_model

    _validate(args)
    keywords = options.read(args, *_MODEL)
    level = _MODEL_LEVELS[args.analysis_level]
    result = options.call(analyze_model, args, level=level, **keywords)
    cite_model(args.out_dir)
    print(f"{len(result.files)} files written to {result.out_dir}")
    return 0


def _run_group(args: argparse.Namespace) -> int:
    """Run the group level and the findings; 1 if a participant was left out or findings failed."""
    from llm2bids.cli.findings import describe, measure
    from llm2bids.exceptions import Llm2bidsError
    from llm2bids.inference.analyze import analyze_group
    from llm2bids.network.findings import remove_findings
    from llm2bids.report.citation import cite_analysis

    asked = options.read(args, *_FINDINGS)
    FindingsOptions(**options.read(args, FindingsOptions))  # refused before the maps are made
    result = options.call(analyze_group, args, **options.read(args, *_GROUP))
    code = _describe(result)
    remove_findings(args.out_dir)
    if args.no_findings:
        cite_analysis(args.out_dir, args.bids_dir)
        return code
    try:
        findings = measure(result, args.bids_dir, progress=args.progress, **asked)
    except Llm2bidsError as error:
        sys.stderr.write(f"llm2bids: failed: findings: {error}; --no-findings leaves them out\n")
        return 1
    if findings is not None:
        print(describe(findings))
    cite_analysis(args.out_dir, args.bids_dir)
    return code


def _describe(result: "ParticipantsResult | GroupResult") -> int:
    for failure in result.failed:
        sys.stderr.write(f"llm2bids: failed: {failure}\n")
    print(f"{len(result.files)} files written to {result.out_dir}")
    return 1 if result.failed else 0
