"""``llm2bids record``: the scanner."""

import argparse
from typing import Any

from llm2bids.cli import options
from llm2bids.exceptions import UsageError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "record",
        parents=[options.model(), options.scan(), options.verbosity()],
        help="scan a model: write (or resume, or add participants to) a BIDS dataset",
        description="Run a paradigm through a model, record every layer output at every generated "
        "token, and write it as a BIDS dataset with a derivative. Called again with the same "
        "options it goes on where it stopped; with more participants it adds them.",
    )
    options.bids_dir(parser, "folder of the dataset: new, empty, or one of ours to go on with")
    parser.add_argument(
        "--participants", type=int, default=8, metavar="N", help="number of participants (8)"
    )
    options.overwrite(parser)
    parser.set_defaults(run=run)


def repetition_time(text: str) -> float | None:
    """Read ``--tr``: seconds, or None for ``auto``.

    Raises
    ------
    UsageError
        If the text is neither ``auto`` nor a number above 0.

    Examples
    --------
    >>> repetition_time("0.25"), repetition_time("auto")
    (0.25, None)
    """
    if text == "auto":
        return None
    try:
        t_r = float(text)
    except ValueError:
        t_r = 0.0
    if not 0 < t_r < float("inf"):
        raise UsageError(f"--tr {text}: expected 'auto' or a number of seconds above 0")
    return t_r


def scan_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `options.model` and `options.scan` as arguments of the Python verbs."""
    return {
        "model": args.model,
        "revision": args.revision,
        "trust_remote_code": args.trust_remote_code,
        "device": args.device,
        "dtype": args.dtype,
        "random_weights": args.random_weights,
        "sites": tuple(args.sites or ("all",)),
        "paradigm": args.paradigm,
        "task_labels": tuple(args.task) if args.task else None,
        "prompts_per_block": args.prompts_per_block,
        "tokens_per_prompt": args.tokens_per_prompt,
        "seed": args.seed,
        "t_r": repetition_time(args.tr),
        "batch_size": args.batch_size,
        "keep_first": args.keep_first,
        "allow_shared_prompts": args.allow_shared_prompts,
        "volume_dtype": args.volume_dtype,
        "compress": not args.no_compress,
        "hrf_model": None if args.hrf == "none" else args.hrf,
        "space_label": args.space_label,
        "arrangement": args.arrangement,
        "localizer_prompts": args.localizer_prompts,
        "authors": tuple(args.author or ()),
        "progress": not args.quiet,
    }


def run(args: argparse.Namespace) -> int:
    """Record, then say what was written and where."""
    from llm2bids.scan.record import record

    dataset = record(
        args.bids_dir,
        n_participants=args.participants,
        overwrite=args.overwrite,
        **scan_options(args),
    )
    print(dataset.describe())  # noqa: T201
    return 0
