"""``llm2bids null``: how often each pipeline finds something where there is nothing."""

import argparse
from pathlib import Path

from llm2bids.cli import options
from llm2bids.exceptions import UsageError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "null",
        parents=[options.verbosity()],
        help="measure how often each pipeline of analyze finds something where there is nothing",
        description="Put null runs through every pipeline that analyze offers, and measure the "
        "share of units, and of runs or groups, with a detection. A null run has off prompts "
        "throughout and a sham on block among them: task-free, with sham events. Groups are "
        "resampled from the pool of null runs. Writes calibration.json, a table and a figure; in "
        "an output folder of analyze, the report shows the rates beside the maps.",
    )
    parser.add_argument(
        "source", metavar="SOURCE",
        help="a dataset recorded with a null paradigm, or a model (as --model of record takes it), "
        "of which null runs are then recorded into OUT_DIR/dataset",
    )  # fmt: skip
    parser.add_argument("output_dir", type=Path, metavar="OUT_DIR", help="folder of the results")
    _add_measurement(parser)
    _add_recording(parser)
    parser.set_defaults(run=run)


def _add_measurement(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measurement")
    group.add_argument(
        "--groups", type=int, default=200, metavar="N",
        help="null groups (default 200); 0 leaves the group level out",
    )  # fmt: skip
    group.add_argument(
        "--group-size", type=int, default=8, metavar="N", help="participants in a group (8)"
    )
    group.add_argument(
        "--units", type=int, default=8000, metavar="N", help="random units to test (default 8000)"
    )
    group.add_argument(
        "--n-perm", type=int, default=1999, metavar="N",
        help="permutations of the prompts' labels (default 1999)",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=int, default=0, help="of prompts, sampling, units and permutations (0)"
    )
    group.add_argument(
        "--confounds", nargs="+", default=[], metavar="NAME",
        help="covariates of all first-level models, as for analyze: position, first_token, length, "
        "surprisal, entropy, global_signal",
    )  # fmt: skip
    group.add_argument("--n-cpus", type=int, default=1, metavar="N", help="processes (default 1)")


def _add_recording(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recording (SOURCE is a model)")
    group.add_argument(
        "--runs",
        type=int,
        metavar="N",
        help="null runs to record, of whole participants (default 60, at least 10)",
    )
    group.add_argument(
        "--paradigm", metavar="NAME_OR_FILE",
        help="one whose on prompts come from the bank of its off prompts (default null)",
    )  # fmt: skip
    group.add_argument("--prompts-per-block", type=int, metavar="N", help="default: the paradigm's")
    group.add_argument("--tokens-per-prompt", type=int, metavar="N", help="default: the paradigm's")
    group.add_argument(
        "--sites",
        action="append",
        metavar="PATTERN",
        help="as for record; default residual (a GB for the embedded model; all takes 11)",
    )
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    group.add_argument("--device", help="auto (default), cpu, cuda, cuda:1, mps")
    group.add_argument("--dtype", help="auto (default), float32, float16 or bfloat16")
    group.add_argument("--batch-size", type=int, metavar="N", help="prompts at a time (default 32)")
    group.add_argument(
        "--trust-remote-code", action="store_true", default=None,
        help="run code that a hub model brings along (off unless asked for)",
    )  # fmt: skip


RECORDING = (
    *("runs", "paradigm", "prompts_per_block", "tokens_per_prompt", "sites", "revision"),
    *("device", "dtype", "batch_size", "trust_remote_code"),
)
"""Options that a dataset has decided already."""


def run(args: argparse.Namespace) -> int:
    """Measure, write, and print the table."""
    from llm2bids.inference.inputs import open_inputs
    from llm2bids.inference.null import measure_null
    from llm2bids.inference.null_results import text_table, write_measurement

    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: expected 0 or more")
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise UsageError(f"{args.output_dir}: found a file, expected a folder for the results")
    measured = measure_null(
        open_inputs(null_dataset(args)),
        n_units=args.units,
        n_groups=args.groups,
        group_size=args.group_size,
        n_perm=args.n_perm,
        confounds=args.confounds,
        seed=args.seed,
        n_cpus=args.n_cpus,
        progress=not args.quiet,
    )
    files = write_measurement(args.output_dir, measured)
    print(text_table(measured))  # noqa: T201
    print(f"{len(files)} files written to {args.output_dir}")  # noqa: T201
    return 0


def null_dataset(args: argparse.Namespace) -> Path:
    """Give the dataset that ``SOURCE`` is, or record one of the model that it names."""
    from llm2bids.dataset.settings import is_dataset

    path = Path(args.source)
    if not is_dataset(path) and not (path / "dataset_description.json").is_file():
        return _recorded(args)
    given = [name for name in RECORDING if getattr(args, name) is not None]
    if given:
        listed = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(
            f"{listed}: {path} is recorded already; leave it out, or give a model to record"
        )
    return path


def _recorded(args: argparse.Namespace) -> Path:
    from llm2bids.inference.null import MINIMUM_RUNS, not_null
    from llm2bids.recording.draw import draw_scan
    from llm2bids.scan.record import record

    n_runs = 60 if args.runs is None else args.runs
    if n_runs < MINIMUM_RUNS:
        raise UsageError(
            f"--runs: found {n_runs} null runs, expected at least {MINIMUM_RUNS}, and 60 for a "
            "verdict"
        )
    design = {
        "paradigm": args.paradigm or "null",
        "prompts_per_block": args.prompts_per_block,
        "tokens_per_prompt": args.tokens_per_prompt,
        "seed": args.seed,
    }
    paradigm = draw_scan(n_participants=1, **design).paradigm
    for task in paradigm.tasks:
        shown = {bank for _, bank in task.conditions}
        if shown != {paradigm.baseline}:
            where = f"paradigm {paradigm.name}"
            raise not_null(where, task.label, shown, {paradigm.baseline})
    n_participants = -(-n_runs // len(draw_scan(n_participants=1, **design).designs))
    draw_scan(n_participants=n_participants, **design)  # a bank too small: before a model is loaded
    dataset = record(
        args.output_dir / "dataset",
        model=args.source,
        n_participants=n_participants,
        sites=args.sites or ["residual"],
        device=args.device or "auto",
        dtype=args.dtype or "auto",
        revision=args.revision,
        trust_remote_code=bool(args.trust_remote_code),
        batch_size=args.batch_size,
        progress=not args.quiet,
        **design,
    )
    return dataset.path
