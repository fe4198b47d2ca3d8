"""Write the options of commands into the pages of docs/reference, or check that they are there.

Usage: python scripts/options_table.py [--check]

In ``command-line.md`` a block is named by its command, whose parser gives the table; in
``python-api.md`` by a verb, whose signature gives names and defaults.
"""

import argparse
import inspect
import re
import sys
import textwrap
from pathlib import Path

import llm2bids
from llm2bids.cli.main import build_parser

PAGES = Path(__file__).parents[1] / "docs/reference"
BLOCK = re.compile(
    r"(<!-- (\w+) options: scripts/options_table\.py -->\n).*?(<!-- end of \2 options -->\n)",
    re.DOTALL,
)


def groups(command: str) -> dict[str, list[argparse.Action]]:
    """List what a command takes by the headings of its help, but what every command takes."""
    (commands,) = build_parser([command])._subparsers._group_actions
    listed = {
        group.title: [action for action in group._group_actions if action.option_strings]
        for group in commands.choices[command]._action_groups
        if group.title != "messages"
    }
    listed["options"] = [a for a in listed["options"] if a.dest != "help"]
    return {title: actions for title, actions in listed.items() if actions}


def row(action: argparse.Action) -> str:
    """Spell an option as a row of a table: its flag, what it is for, its default."""
    value = action.metavar or "|".join(map(str, action.choices or ()))
    flag = next((name for name in action.option_strings if name.startswith("--")), "")
    value = value or flag[2:].upper()
    if action.nargs == "?":
        value = f"[{value}]"
    if action.nargs != 0:
        flag += f" {value} ..." if action.nargs == "+" else f" {value}"
    text, _, default = action.help.replace("%%", "%").partition(" (default: ")
    default = default.removesuffix(")") or ("off" if action.nargs == 0 else "none")
    default = "required" if action.required else default
    cells = [f"`{flag}`", text, default]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(command: str) -> str:
    """Make the table of a command; what it shares with `record` is said there."""
    known = groups("record") if command in ("plan", "replay") else {}
    shared = {name for actions in known.values() for a in actions for name in a.option_strings}
    lines = ["| option | value | default |", "|---|---|---|"]
    for title, actions in groups(command).items():
        own = [action for action in actions if not shared.intersection(action.option_strings)]
        if own and title != "options":
            lines.append(f"| **{title}** | | |")
        lines += map(row, own)
    return "\n".join(lines) + "\n"


def defaults(verb: str) -> str:
    """Show the names and defaults of a verb's options as Python."""
    parameters = inspect.signature(getattr(llm2bids, verb)).parameters.values()
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
    shown = ", ".join(f"{option.name}={option.default!r}" for option in options)
    lines = textwrap.wrap(shown.replace("'", '"'), 95)
    return "\n".join(["```python", *lines, "```"]) + "\n"


if __name__ == "__main__":
    for page, make in {"command-line.md": table, "python-api.md": defaults}.items():
        path = PAGES / page
        old = path.read_text(encoding="utf-8")
        new = BLOCK.sub(lambda block, make=make: block[1] + make(block[2]) + block[3], old)
        if "--check" not in sys.argv[1:]:
            path.write_text(new, encoding="utf-8")
        elif old != new:
            sys.exit(f"{page}: call python scripts/options_table.py")
