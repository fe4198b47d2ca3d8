"""Options that several commands share, as argparse parents."""

import argparse
from collections.abc import Collection
from pathlib import Path

from llm2bids.scan.options import ScanOptions, arguments


def verbosity() -> argparse.ArgumentParser:
    """Options of every command: ``--quiet``, ``--debug``."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("messages")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress, warnings only")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def scan(*, groups: Collection[str] = ("scan", "model", "volumes")) -> argparse.ArgumentParser:
    """Options of `ScanOptions` in some of their groups."""
    parser = argparse.ArgumentParser(add_help=False)
    headings = {name: parser.add_argument_group(name) for name in groups}
    for name, argument in arguments().items():
        if argument.group in headings:
            text = f"{argument.text} (default: {argument.shown_default})".replace("%", "%%")
            headings[argument.group].add_argument(
                argument.flag, dest=name, help=text, **argument.settings
            )
    return parser


def scan_options(args: argparse.Namespace) -> ScanOptions:
    """Read the options of `scan` back, of all groups or of some."""
    values = {}
    for name, argument in arguments().items():
        value = getattr(args, name, None)
        if argument.parse is not None and value is not None:
            values[name] = argument.parse(value)
        elif value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
    return ScanOptions(**values)


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
