"""Options that several commands share, as argparse parents."""

import argparse
from pathlib import Path


def verbosity() -> argparse.ArgumentParser:
    """Options of every command: ``--quiet``, ``--debug``."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("messages")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress, warnings only")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def model() -> argparse.ArgumentParser:
    """Options that choose a model and its sites."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="embedded",
        metavar="NAME_OR_PATH",
        help="hub name (facebook/galactica-125m), local folder, GGUF file, or 'embedded' "
        "(SmolLM2-135M-Instruct, the default)",
    )
    group.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    group.add_argument(
        "--sites",
        action="append",
        metavar="PATTERN",
        help="modules to record: all, residual, attention, mlp, or a pattern on module names "
        "(model.layers.*.mlp.down_proj); repeatable; default all",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--dtype", default="auto", help="auto (as stored), float32, float16 or bfloat16"
    )
    group.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that a hub model brings along (off unless asked for; it is recorded)",
    )
    return parser


def scan() -> argparse.ArgumentParser:
    """Options of the commands that write volumes."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("scan")
    group.add_argument(
        "--paradigm",
        default="off_on_off",
        metavar="NAME_OR_FILE",
        help="off_on_off (default), multi_task, interleaved, null, or a TOML file",
    )
    group.add_argument(
        "--task",
        action="append",
        metavar="LABEL",
        help="record only this task of the paradigm; repeatable",
    )
    group.add_argument("--prompts-per-block", type=int, metavar="N", help="default: the paradigm's")
    group.add_argument("--tokens-per-prompt", type=int, metavar="N", help="default: the paradigm's")
    group.add_argument("--seed", type=int, default=0, help="one seed for everything (default 0)")
    group.add_argument(
        "--tr", default="auto", metavar="SECONDS", help="RepetitionTime; auto = a power of two"
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="prompts at a time; record: of as many runs as fit (default 32, of one; replay 8)",
    )
    group.add_argument(
        "--keep-first",
        action="store_true",
        help="record the first generated token of each prompt too (it reads the prompt)",
    )
    group.add_argument(
        "--allow-shared-prompts",
        action="store_true",
        help="let participants share prompts where a bank is too small (inflates group results)",
    )
    group.add_argument(
        "--random-weights",
        type=int,
        nargs="?",
        const=0,
        metavar="SEED",
        help="the same architecture with weights drawn at random (default seed 0): the control "
        "dataset of `analyze --control-dataset`",
    )
    volumes = parser.add_argument_group("volumes")
    volumes.add_argument(
        "--volume-dtype", choices=("int16", "float32"), default="int16", help="default int16"
    )
    volumes.add_argument("--no-compress", action="store_true", help="write .nii, not .nii.gz")
    volumes.add_argument(
        "--hrf",
        choices=("none", "spm", "glover"),
        default="none",
        help="convolve with a haemodynamic response, for tools that insist (default none)",
    )
    volumes.add_argument(
        "--arrangement",
        default="index",
        metavar="ORDER",
        help="units in a panel: index (native order, default), functional (similar responses side "
        "by side, learned on prompts that no run shows), random, or as in another dataset (its "
        "folder, or its tpl-*_arrangement.tsv.gz)",
    )
    volumes.add_argument(
        "--localizer-prompts",
        type=int,
        metavar="N",
        help="with --arrangement functional: prompts of each task set aside for learning (16); 0 "
        "learns from off prompts alone",
    )
    volumes.add_argument("--space-label", metavar="LABEL", help="default: from the model's name")
    volumes.add_argument(
        "--author",
        action="append",
        metavar="NAME",
        help="author of the dataset, as in 'Ada Lovelace'; repeatable",
    )
    return parser


def bids_dir(parser: argparse.ArgumentParser, text: str = "folder of the BIDS dataset") -> None:
    """Add the positional ``BIDS_DIR``."""
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help=text)


def overwrite(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite`` of the commands that go on with a dataset."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files that were changed since they were written, and record runs anew of "
        "which a file was changed or is gone; refused otherwise",
    )
