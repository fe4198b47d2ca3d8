"""Arguments that several commands share, and how they reach the verbs."""

import argparse
import inspect
from collections.abc import Callable, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeVar

from llm2bids.exceptions import UsageError
from llm2bids.options import arguments

_Result = TypeVar("_Result")
_Group = argparse.ArgumentParser | argparse._ArgumentGroup


def call(verb: Callable[..., _Result], args: argparse.Namespace, **given: Any) -> _Result:
    """Call a verb with the arguments that have the names of its keywords, and what is given."""
    names = inspect.signature(verb).parameters
    taken = {name: value for name, value in vars(args).items() if name in names}
    return verb(**(taken | given))


def add(group: _Group, flag: str, text: str, default: Any = None, **settings: Any) -> None:
    """Add an option; its default, where there is one, is in its help and says its type."""
    if default is not None:
        settings = {"type": type(default), **settings}
        text = f"{text} (default: {default})"
    flags = flag.split(", ")
    group.add_argument(*flags, default=default, help=text.replace("%", "%%"), **settings)


def flag(group: _Group, names: str, text: str, **settings: Any) -> None:
    """Add an option without a value."""
    group.add_argument(*names.split(", "), action="store_true", help=text, **settings)


def verbosity(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes: ``--quiet``, ``--verbose``, ``--debug``."""
    group = parser.add_argument_group("messages")
    how_much = group.add_mutually_exclusive_group()
    text = "no progress, warnings only"
    how_much.add_argument("-q", "--quiet", dest="progress", action="store_false", help=text)
    text = "messages with their time and module, and details; -vv: those of the libraries too"
    how_much.add_argument("-v", "--verbose", action="count", default=0, help=text)
    flag(group, "--debug", "show the traceback of an error")


def of(
    parser: argparse.ArgumentParser,
    *kinds: type,
    groups: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    heading: str | None = None,
    unset: bool = False,
    **defaults: Any,
) -> None:
    """Add options of dataclasses: groups, or some by name under a heading, with other defaults.

    With `unset`, an option that is not given is None, whatever the help says. Options of one flag
    in several dataclasses are one.
    """
    headings: dict[str, argparse._ArgumentGroup] = {}
    added: set[str] = set()
    for name, argument in arguments(*kinds).items():
        chosen = (groups is None or argument.group in groups) and (names is None or name in names)
        if not chosen or argument.flag in added:
            continue
        added.add(argument.flag)
        title = heading or argument.group
        if title not in headings:
            headings[title] = parser.add_argument_group(title)
        shown = defaults.get(name, argument.shown_default)
        settings = {**argument.settings, "dest": name}
        if unset or name in defaults:
            settings["default"] = None if unset else shown
        text = f"{argument.text} (default: {shown})".replace("%", "%%")
        headings[title].add_argument(*argument.flag.split(), help=text, **settings)


def read(args: argparse.Namespace, *kinds: type) -> dict[str, Any]:
    """Read the options of `of` back, of all groups or of some, as flat keywords of a verb."""
    values = {}
    for name, argument in arguments(*kinds).items():
        value = getattr(args, name, getattr(args, argument.dest, None))
        if value is None:
            value = argument.default
        elif argument.parse is not None:
            value = argument.parse(value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return values


def described(
    verb: str,
    *kinds: type,
    positionals: Callable[[argparse.ArgumentParser], None],
    more: Sequence[Callable[[argparse.ArgumentParser], None]] = (),
    show: Callable[[Any], str] = methodcaller("describe"),
    then: Callable[[argparse.Namespace, Any], None] | None = None,
) -> tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]:
    """Make `add_arguments` and `run` of a command that prints what a verb gives."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        positionals(parser)
        of(parser, *kinds)
        for add_more in more:
            add_more(parser)

    def run(args: argparse.Namespace) -> int:
        import llm2bids

        result = call(getattr(llm2bids, verb), args, **read(args, *kinds))
        print(show(result))
        if then is not None:
            then(args, result)
        return 0

    return add_arguments, run


def cite(args: argparse.Namespace, result: Any) -> None:
    """Write the methods and citations of a dataset that was written here whole."""
    from llm2bids.report.citation import cite_dataset

    if getattr(args, "participant_label", None) is None and not getattr(args, "prepare_only", 0):
        cite_dataset(args.bids_dir)


def bids_dir(parser: argparse.ArgumentParser, text: str = "folder of the BIDS dataset") -> None:
    """Add the positional ``BIDS_DIR``."""
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help=text)


def dataset_to_go_on_with(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``BIDS_DIR`` of a command that writes one."""
    bids_dir(parser, "folder of the dataset: new, empty, or one of ours to go on with")


def dataset_and_folder(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``BIDS_DIR`` and ``OUT``."""
    bids_dir(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT", help="folder to write to")


def analysis(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``BIDS_DIR`` and ``ANALYSIS_DIR`` of an intervention."""
    bids_dir(parser, "the dataset that was recorded from the model")
    text = "what `llm2bids analyze` wrote, with the tasks' effect maps"
    parser.add_argument("analysis_dir", type=Path, metavar="ANALYSIS_DIR", help=text)


def shards(parser: argparse.ArgumentParser) -> None:
    """Add what parts a scan among processes that are started by something else."""
    group = parser.add_argument_group("participants by themselves")
    text = "write what is there before the first run (calibration, space, template), and stop"
    flag(group, "--prepare", text, dest="prepare_only")
    group.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        metavar="LABEL",
        help="record only these, into a dataset that was prepared, beside other processes that "
        "record others; `llm2bids merge` takes them in",
    )
    group.add_argument(
        "--cluster",
        metavar="FILE",
        help="let workers of a queue (SLURM, PBS, SGE, LSF, ...) record participants, at most "
        "--n-workers at a time: a YAML file of dask-jobqueue, or 'local' for workers here; needs "
        "llm2bids[cluster]",
    )


def overwrite(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite`` of the commands that go on with a dataset."""
    text = (
        "replace files that were changed since they were written, and record runs anew of which a "
        "file was changed or is gone; refused otherwise"
    )
    flag(parser, "--overwrite", text)


def image(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``STAT_IMG``, and ``--dataset`` for the dataset that it belongs to."""
    parser.add_argument("stat_img", type=Path, metavar="STAT_IMG", help="a NIfTI image")
    text = "the dataset that the image was made from (default: the one around the image)"
    add(parser, "--dataset, --bids-dir", text, type=Path, metavar="BIDS_DIR")


def dataset_of(args: argparse.Namespace) -> Path:
    """Give ``--dataset``, or the nearest dataset of ours in or beside the folders of the image."""
    from llm2bids.dataset.settings import is_dataset

    if args.dataset is not None:
        return Path(args.dataset)
    for folder in args.stat_img.absolute().parents:
        for candidate in (folder, folder / "dataset"):
            if is_dataset(candidate):
                return Path(candidate)
    raise UsageError(
        f"{args.stat_img} does not lie in a dataset of ours; name the dataset that the image was "
        "made from: --dataset BIDS_DIR"
    )
