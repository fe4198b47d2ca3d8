"""``llm2bids null``: how often each pipeline finds something where there is nothing."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llm2bids.cli import options
from llm2bids.exceptions import UsageError

if TYPE_CHECKING:
    from llm2bids.inference.null.measure import NullMeasurement
    from llm2bids.inference.null.source import NullSource


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
        "of which null runs are then recorded; no images are written",
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
        "--tfce-groups", type=int, default=0, metavar="N",
        help="the first N groups also go through TFCE, seconds each (default 0)",
    )  # fmt: skip
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
        "--runs", type=int, metavar="N", help="null runs to record (default 60, at least 10)"
    )
    group.add_argument(
        "--paradigm", metavar="NAME_OR_FILE",
        help="one whose on prompts come from the bank of its off prompts (default null)",
    )  # fmt: skip
    group.add_argument("--prompts-per-block", type=int, metavar="N", help="default: the paradigm's")
    group.add_argument("--tokens-per-prompt", type=int, metavar="N", help="default: the paradigm's")
    group.add_argument(
        "--sites", action="append", metavar="PATTERN", help="as for record; default all"
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
    from llm2bids.inference.null.files import text_table, write_measurement

    measured = measure(args)
    files = write_measurement(args.output_dir, measured)
    print(text_table(measured))  # noqa: T201
    print(f"{len(files)} files written to {args.output_dir}")  # noqa: T201
    return 0


def measure(args: argparse.Namespace) -> "NullMeasurement":
    """Measure the rates that the arguments ask for.

    Raises
    ------
    UsageError
        If options do not fit one another or the source.
    Llm2bidsError
        If the source cannot be read or recorded.
    """
    from llm2bids.inference.null.groups import draw_groups
    from llm2bids.inference.null.measure import measure_null

    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: expected 0 or more")
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise UsageError(f"{args.output_dir}: found a file, expected a folder for the results")
    source = find_source(args)
    groups = {"n_groups": args.groups, "group_size": args.group_size, "seed": args.seed}
    draw_groups(source.participants, **groups)  # refuses before anything is recorded
    return measure_null(
        source,
        tfce_groups=args.tfce_groups,
        n_perm=args.n_perm,
        n_cpus=args.n_cpus,
        progress=not args.quiet,
        **groups,
    )


def find_source(args: argparse.Namespace) -> "NullSource":
    """Open the dataset, or load the model, that ``SOURCE`` names.

    Raises
    ------
    UsageError
        If options of the recording are given for a dataset, or it is no null design.
    Llm2bidsError
        If it cannot be opened.
    """
    from llm2bids.dataset.settings import is_dataset
    from llm2bids.inference.null.source import dataset_source

    path = Path(args.source)
    if not is_dataset(path) and not (path / "dataset_description.json").is_file():
        return _recorded(args)
    given = [name for name in RECORDING if getattr(args, name) is not None]
    if given:
        listed = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(
            f"{listed}: {path} is recorded already; leave it out, or give a model to record"
        )
    from llm2bids.dataset.read import open_dataset

    return dataset_source(
        open_dataset(path), n_units=args.units, seed=args.seed, confounds=args.confounds
    )


def _recorded(args: argparse.Namespace) -> "NullSource":
    from llm2bids.inference.null.confounds import checked_confounds
    from llm2bids.inference.null.scan import null_scan
    from llm2bids.inference.null.source import checked_runs, model_source
    from llm2bids.model.exactness import exact_sites
    from llm2bids.model.load import load_model
    from llm2bids.model.sites import select_sites

    n_runs = 60 if args.runs is None else args.runs
    numbers = {
        "n_runs": checked_runs(n_runs, name="--runs"),
        "seed": args.seed,
        "paradigm": args.paradigm or "null",
        "prompts_per_block": args.prompts_per_block,
        "tokens_per_prompt": args.tokens_per_prompt,
    }
    checked_confounds(args.confounds, recorded=False)  # refuses before the model is loaded
    null_scan(**numbers)
    loaded, table, _ = exact_sites(
        load_model(
            args.source,
            device=args.device or "auto",
            dtype=args.dtype or "auto",
            revision=args.revision,
            trust_remote_code=bool(args.trust_remote_code),
        )
    )
    return model_source(
        loaded,
        select_sites(table, args.sites or ["all"]),
        n_units=args.units,
        batch_size=args.batch_size,
        confounds=args.confounds,
        **numbers,
    )
