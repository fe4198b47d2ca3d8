"""Measure how often each pipeline of analyze finds something where there is nothing.

Put null runs through every pipeline that analyze offers, and measure the share of units, and of
runs or groups, with a detection. A null run has off prompts throughout and a sham on block among
them: task-free, with sham events. Groups are resampled from the pool of null runs. Writes
calibration.json, a table and a figure; in an output folder of analyze, the report shows the rates
beside the maps.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from llm2bids.cli import options
from llm2bids.cli.options import add
from llm2bids.exceptions import UsageError
from llm2bids.scan.options import ScanOptions

# Options of a scan, which a dataset has decided already.
RECORDING = (
    *("paradigm", "prompts_per_block", "tokens_per_prompt", "sites", "revision"),
    *("device", "dtype", "batch_size", "trust_remote_code"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    text = (
        "a dataset recorded with a null paradigm, or a model (as --model of record takes it), of "
        "which null runs are then recorded into OUT_DIR/dataset"
    )
    parser.add_argument("source", metavar="SOURCE", help=text)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder of the results")
    group = parser.add_argument_group("measurement")
    text = "null groups; 0 leaves the group level out"
    add(group, "--groups", text, 200, dest="n_groups", metavar="N")
    add(group, "--group-size", "participants in a group", 8, metavar="N")
    add(group, "--units", "random units to test", 8000, dest="n_units", metavar="N")
    add(group, "--n-perm", "permutations of the prompts' labels", 1999, metavar="N")
    add(group, "--seed", "of prompts, sampling, units and permutations", 0)
    text = (
        "covariates of all first-level models, as for analyze: position, first_token, length, "
        "surprisal, entropy, global_signal"
    )
    group.add_argument("--confounds", nargs="+", default=[], metavar="NAME", help=text)
    add(group, "--n-cpus", "processes", 1, metavar="N")
    text = "null runs to record of a model, of whole participants (default: 60; at least 10)"
    add(group, "--runs", text, type=int, metavar="N")
    heading = "recording (SOURCE is a model)"
    shown = {"paradigm": "null", "sites": "residual: a GB for the embedded model; all takes 11"}
    options.of(parser, ScanOptions, names=RECORDING, heading=heading, unset=True, **shown)


def run(args: argparse.Namespace) -> int:
    """Measure, write, and print the table."""
    from llm2bids.inference.inputs import open_inputs
    from llm2bids.inference.null import measure_null
    from llm2bids.inference.null_results import text_table, write_measurement

    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: expected 0 or more")
    if args.out_dir.exists() and not args.out_dir.is_dir():
        raise UsageError(f"{args.out_dir}: found a file, expected a folder for the results")
    measured = options.call(measure_null, args, inputs=open_inputs(_null_dataset(args)))
    files = write_measurement(args.out_dir, measured)
    print(text_table(measured))
    print(f"{len(files)} files written to {args.out_dir}")
    return 0


def _null_dataset(args: argparse.Namespace) -> Path:
    """Give the dataset that ``SOURCE`` is, or record one of the model that it names."""
    from llm2bids.dataset.settings import is_dataset

    path = Path(args.source)
    if not is_dataset(path) and not (path / "dataset_description.json").is_file():
        return _recorded(args)
    given = [name for name in ("runs", *RECORDING) if getattr(args, name) is not None]
    if given:
        listed = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(
            f"{listed}: {path} is recorded already; leave it out, or give a model to record"
        )
    return path


def _recorded(args: argparse.Namespace) -> Path:
    from llm2bids.inference.null import MINIMUM_RUNS, not_null
    from llm2bids.scan.record import record

    n_runs = 60 if args.runs is None else args.runs
    if n_runs < MINIMUM_RUNS:
        raise UsageError(
            f"--runs: found {n_runs} null runs, expected at least {MINIMUM_RUNS}, and 60 for a "
            "verdict"
        )
    args.paradigm, args.sites = args.paradigm or "null", args.sites or ["residual"]
    asked = ScanOptions(**options.read(args, ScanOptions))
    asked = replace(asked, model=args.source, n_participants=1)
    first = asked.draw(localizer_prompts=None)
    paradigm = first.paradigm
    for task in paradigm.tasks:
        shown = {bank for _, bank in task.conditions}
        if shown != {paradigm.baseline}:
            where = f"paradigm {paradigm.name}"
            raise not_null(where, task.label, shown, {paradigm.baseline})
    asked = replace(asked, n_participants=-(-n_runs // len(first.designs)))
    asked.draw(localizer_prompts=None)  # a bank too small: before a model is loaded
    return record(args.out_dir / "dataset", progress=args.progress, **asdict(asked)).path
