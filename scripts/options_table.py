"""Write the options of commands into the pages of docs/reference, or check that they are there.

Usage: python scripts/options_table.py [--check]
"""

import sys
import textwrap
from pathlib import Path

from llm2bids.comparison.features import FeatureOptions
from llm2bids.comparison.localizer import LocalizerOptions
from llm2bids.inference.options import (
    AnalysisOptions,
    GroupOptions,
    Memory,
    ParticipantSelection,
    Processors,
    Selection,
)
from llm2bids.network.options import FindingsOptions
from llm2bids.options import arguments
from llm2bids.scan.options import ScanOptions
from llm2bids.scan.reading import ReadOptions

PAGES = Path(__file__).parents[1] / "docs/reference"
BEGIN, END = "<!-- {} options: scripts/options_table.py -->\n", "<!-- end of {} options -->\n"


def table(*kinds: type) -> str:
    """Make the table, the groups in their order, options of one flag once."""
    lines = ["| option | value | default |", "|---|---|---|"]
    group = ""
    unique = {argument.flag: argument for argument in reversed(arguments(*kinds).values())}
    order = list(dict.fromkeys([*ORDER, *(a.group for a in arguments(*kinds).values())]))
    for argument in sorted(reversed(unique.values()), key=lambda a: order.index(a.group)):
        if argument.group != group:
            group = argument.group
            lines.append(f"| **{group}** | | |")
        choices = argument.settings.get("choices")
        value = argument.settings.get("metavar") or ("|".join(choices) if choices else "")
        if argument.settings.get("nargs") == "?":
            value = f"[{value}]"
        takes = not str(argument.settings.get("action")).startswith("store_")
        if argument.settings.get("nargs") == "+":
            value = f"{value} ..."
        name = argument.flag.split()[0]
        flag = f"{name} {value or name[2:].upper()}" if takes else name
        cells = [f"`{flag}`", argument.text, argument.shown_default]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


ORDER = (
    *("clock", "words", "reading", "features", "localizer"),
    *("scan", "model", "machine", "volumes"),
)


def defaults(*kinds: type) -> str:
    """Show the names and defaults of the options as Python."""
    values = {name: argument.default for name, argument in arguments(*kinds).items()}
    shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
    lines = textwrap.wrap(shown.replace("'", '"'), 95)
    return "\n".join(["```python", *lines, "```"]) + "\n"


FIRST, GROUP, FINDINGS = (
    (ParticipantSelection, AnalysisOptions, Processors, Memory),
    (Selection, GroupOptions, Processors),
    (Selection, FindingsOptions, Memory),
)
MADE = {
    "command-line.md": {
        "scan": table(ScanOptions),
        "reading": table(ReadOptions),
        "feature": table(FeatureOptions),
        "localizer": table(LocalizerOptions),
        "analysis": table(*FIRST, *GROUP, *FINDINGS),
    },
    "python-api.md": {
        "scan": defaults(ScanOptions),
        "reading": defaults(ReadOptions),
        "feature": defaults(FeatureOptions),
        "localizer": defaults(LocalizerOptions),
        "participant": defaults(*FIRST),
        "group": defaults(*GROUP),
        "findings": defaults(*FINDINGS),
    },
}

if __name__ == "__main__":
    for page, blocks in MADE.items():
        path = PAGES / page
        for kind, made in blocks.items():
            begin, end = BEGIN.format(kind), END.format(kind)
            before, rest = path.read_text(encoding="utf-8").split(begin)
            old, after = rest.split(end)
            if "--check" not in sys.argv[1:]:
                path.write_text(before + begin + made + end + after, encoding="utf-8")
            elif old != made:
                sys.exit(f"{page}: call python scripts/options_table.py")
