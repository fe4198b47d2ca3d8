"""The ``llm2bids`` command: reads the arguments, calls one command, turns errors into exit codes.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import argparse
import ast
import importlib
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Collection, Sequence
from importlib import resources

from llm2bids import __version__
from llm2bids.cli import options
from llm2bids.exceptions import Llm2bidsError

log = logging.getLogger("llm2bids")

# Names of the commands; each is a module of this folder with `add_arguments` and `run`.
COMMANDS = (
    *("demo", "plan", "record", "replay", "merge", "read", "sites", "validate", "check"),
    *("analyze", "null", "report", "locate", "resample", "flatmap", "view", "features"),
    *("localize", "compare"),
    *("edit", "lesion", "steer", "targets", "monitor"),
)

INTERRUPTED = 130


def build_parser(names: Collection[str] = COMMANDS) -> argparse.ArgumentParser:
    """Build the parser of all commands, with the arguments of those in `names`.

    A command's docstring is its help, in the list of commands and of itself. It is read from the
    source: a command is imported only where its arguments are wanted, as some import much.
    """
    parser = argparse.ArgumentParser(
        prog="llm2bids", description="Scan a language model like a brain: BIDS in, BIDS out."
    )
    parser.add_argument("--version", action="version", version=f"llm2bids {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        source = resources.files("llm2bids.cli").joinpath(f"{name}.py").read_text(encoding="utf-8")
        first, _, rest = (ast.get_docstring(ast.parse(source)) or name).partition("\n\n")
        summary = first[0].lower() + first[1:].rstrip(".")
        added = subparsers.add_parser(name, help=summary, description=rest)
        if name in names:
            command = importlib.import_module(f"llm2bids.cli.{name}")
            command.add_arguments(added)
            options.verbosity(added)
            added.set_defaults(run=command.run)
    return parser


def _set_up_log(args: argparse.Namespace) -> None:
    if not args.progress:  # read by transformers and tqdm when they are imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    level = logging.INFO if args.progress else logging.WARNING
    level = logging.DEBUG if (args.debug and args.progress) or args.verbose else level
    logging.basicConfig(
        level=logging.DEBUG if args.verbose > 1 else logging.WARNING,
        format="%(asctime)s %(name)s: %(message)s" if args.verbose else "%(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("llm2bids").setLevel(level)


def _show_what_the_terminal_cannot() -> None:
    """Escape characters outside the encoding of stdout and stderr, e.g. in a path, as in Python."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}"
    return str(error) or type(error).__name__


def _terminate(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; without `argv`, that of the process."""
    _show_what_the_terminal_cannot()
    words = sys.argv[1:] if argv is None else argv
    args = build_parser(words[:1]).parse_args(words)
    _set_up_log(args)
    log.debug("llm2bids %s, Python %s: %s", __version__, sys.version.split()[0], shlex.join(words))
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        sys.stderr.write("\nllm2bids: interrupted; finished runs are kept, call again to go on\n")
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output went away (`llm2bids sites | head`): not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Llm2bidsError, OSError) as error:
        if args.debug:
            raise
        sys.stderr.write(f"llm2bids: error: {_message(error)}\n")
        return error.exit_code if isinstance(error, Llm2bidsError) else 1


if __name__ == "__main__":
    sys.exit(main())
