"""Write a scan's options into the pages of docs/reference, or check that they are there.

Usage: python scripts/options_table.py [--check]
"""

import sys
import textwrap
from pathlib import Path

from llm2bids.compare.features import FeatureOptions
from llm2bids.options import arguments
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.reading import ReadOptions

PAGES = Path(__file__).parents[1] / "docs/reference"
BEGIN, END = "<!-- {} options: scripts/options_table.py -->\n", "<!-- end of {} options -->\n"


def table(options: type) -> str:
    """Make the table, the groups in their order."""
    lines = ["| option | value | default |", "|---|---|---|"]
    group = ""
    for argument in sorted(arguments(options).values(), key=lambda a: ORDER.index(a.group)):
        if argument.group != group:
            group = argument.group
            lines.append(f"| **{group}** | | |")
        choices = argument.settings.get("choices")
        value = argument.settings.get("metavar") or ("|".join(choices) if choices else "")
        if argument.settings.get("nargs") == "?":
            value = f"[{value}]"
        takes = not str(argument.settings.get("action")).startswith("store_")
        flag = f"{argument.flag} {value or argument.flag[2:].upper()}" if takes else argument.flag
        lines.append(
            f"| `{flag.replace('|', chr(92) + '|')}` | {argument.text} | {argument.shown_default} |"
        )
    return "\n".join(lines) + "\n"


ORDER = ("clock", "words", "reading", "features", "scan", "model", "volumes")


def defaults(options: type) -> str:
    """Show the names and defaults of the options as Python."""
    shown = ", ".join(f"{name}={value!r}" for name, value in vars(options()).items())
    lines = textwrap.wrap(shown.replace("'", '"'), 95)
    return "\n".join(["```python", *lines, "```"]) + "\n"


if __name__ == "__main__":
    for kind, options in (
        ("scan", ScanOptions),
        ("reading", ReadOptions),
        ("feature", FeatureOptions),
    ):
        for page, made in (
            ("command-line.md", table(options)),
            ("python-api.md", defaults(options)),
        ):
            path = PAGES / page
            begin, end = BEGIN.format(kind), END.format(kind)
            before, rest = path.read_text(encoding="utf-8").split(begin)
            old, after = rest.split(end)
            if "--check" not in sys.argv[1:]:
                path.write_text(before + begin + made + end + after, encoding="utf-8")
            elif old != made:
                sys.exit(f"{page}: call python scripts/options_table.py")
